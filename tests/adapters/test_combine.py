"""Proves that sums of adapters are exact, that compressed ones are the closest, and that factors go where they say."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cpuft.adapters.adapter import Adapter, write_adapter
from cpuft.adapters.combine import Share, combined, scaled
from cpuft.errors import AdapterError, ConfigError
from tests.adapters.peft_folders import adapter_tensors, header
from tests.gguf.tiny import random_adapter, write_tiny_model
from tests.progress import Heard
from tests.release.llama_cpp_logits import logits

BASE = header("qwen2")
FIRST = Adapter(3, 6.0, "qwen2", adapter_tensors(BASE, rank=3, seed=1), {"general.name": "first"})
SECOND = Adapter(5, 4.0, "qwen2", adapter_tensors(BASE, rank=5, seed=2), {})
PART = Adapter(
    2,
    0.0,  # a scale of 1
    "qwen2",
    {n: v for n, v in adapter_tensors(BASE, rank=2, seed=3).items() if ".attn_q." in n},
    {},
)
SHARES = [Share("a", FIRST, 0.75), Share("b", SECOND, -1.5), Share("c", PART)]


def change(adapter: Adapter, weight: str) -> npt.NDArray[np.float64]:
    """scale * B A in float64, zero where the weight is not adapted."""
    if weight not in adapter.weights:
        return np.zeros(BASE.tensors[weight].shape)
    a, b = adapter.pair(weight)
    return adapter.scale(weight) * b.astype(np.float64) @ a.astype(np.float64)


def wanted(weight: str) -> npt.NDArray[np.float64]:
    return sum((s.factor * change(s.adapter, weight) for s in SHARES), np.zeros(BASE.tensors[weight].shape))


def test_the_sum_is_exact() -> None:
    heard = Heard()
    adapter, kept = combined(SHARES, progress=heard)
    assert (
        [done for _, done, _ in heard.steps] == list(range(1, len(kept) + 1)) == list(range(1, len(BASE.tensors) + 1))
    )
    assert {total for _, _, total in heard.steps} == {len(kept)}
    assert adapter.metadata == {"general.name": "first"}
    for one in kept:
        assert one.rank == one.rank_before == (10 if ".attn_q." in one.weight else 8)
        assert one.energy == 1.0
        np.testing.assert_allclose(change(adapter, one.weight), wanted(one.weight), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_the_compressed_sum_is_the_closest(rank: int) -> None:
    """Against numpy's SVD of the whole matrix, which the code never forms."""
    adapter, kept = combined(SHARES, rank=rank)
    for one in kept:
        whole = wanted(one.weight)
        u, values, v = np.linalg.svd(whole, full_matrices=False)
        closest = (u[:, :rank] * values[:rank]) @ v[:rank]
        assert one.rank == min(rank, one.rank_before)
        assert one.energy == pytest.approx(float((values[:rank] ** 2).sum() / (values**2).sum()))
        np.testing.assert_allclose(change(adapter, one.weight), closest, atol=1e-5 * values[0])
        if one.rank_before > rank:  # half of each singular value in A and half in B, so that both train alike
            a, b = adapter.pair(one.weight)
            size = np.linalg.norm(b, axis=0) * adapter.scale(one.weight)
            np.testing.assert_allclose(np.linalg.norm(a, axis=1), size, rtol=1e-4)
    assert (adapter.rank, adapter.alpha) == (rank, rank)


def test_ranks_larger_than_a_weight() -> None:
    wide = Adapter(40, 40.0, "qwen2", adapter_tensors(BASE, rank=40), {})
    adapter, kept = combined([Share("wide", wide)], rank=30)
    for one in kept:  # no rank can be above the smaller side, so nothing is lost
        assert one.rank <= min(30, *BASE.tensors[one.weight].shape)
        np.testing.assert_allclose(change(adapter, one.weight), change(wide, one.weight), rtol=1e-3, atol=1e-3)


def test_a_change_of_nothing_keeps_all_of_it() -> None:
    """A matrix of zeros on either side, and terms that cancel but for the last digits, have no energy to lose."""
    zero_a = Adapter(3, 6.0, "qwen2", {n: v * (n[-1] != "a") for n, v in FIRST.tensors.items()}, {})
    for shares in ([Share("zero", zero_a)], [Share("a", FIRST, 0.7), Share("a", FIRST, -0.7)]):
        adapter, kept = combined(shares, rank=2)
        assert {one.energy for one in kept} == {1.0}
        assert all(np.abs(change(adapter, one.weight)).max() < 1e-6 for one in kept)


def test_an_untrained_pair_can_still_be_trained() -> None:
    tensors = {n: np.zeros_like(v) if n.endswith("_b") else v for n, v in FIRST.tensors.items()}
    adapter, _ = combined([Share("new", Adapter(3, 6.0, "qwen2", tensors, {}))], rank=2)
    assert all(adapter.pair(w)[0].any() and not adapter.pair(w)[1].any() for w in adapter.weights)


@pytest.mark.parametrize("factor", [0.5, 3.0, -0.1])
def test_a_factor_goes_into_alpha(factor: float) -> None:
    for adapter in (FIRST, PART):
        result, where = scaled(adapter, factor)
        assert result.alpha == np.float32((adapter.alpha or adapter.rank) * abs(factor))
        assert ("sign into B" in where) == (factor < 0)
        for weight in adapter.weights:
            a, b = result.pair(weight)
            assert np.array_equal(a, adapter.pair(weight)[0])
            assert np.array_equal(b, adapter.pair(weight)[1] * np.sign(factor).astype(np.float32))
            np.testing.assert_allclose(change(result, weight), factor * change(adapter, weight), rtol=1e-6, atol=1e-6)


def test_a_negative_alpha_keeps_its_sign() -> None:
    result, _ = scaled(Adapter(3, -6.0, "qwen2", FIRST.tensors, {}), 0.5)
    assert result.alpha == -3.0


def test_impossible_factors() -> None:
    for factor in (0.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"expected a finite number other than 0"):
            scaled(FIRST, factor)
        with pytest.raises(ConfigError, match=r"the weight of a is .*, expected a finite number other than 0"):
            combined([Share("a", FIRST, factor)])
    for factor in (1e-60, 1e60):
        with pytest.raises(ConfigError, match="out of the range of float32"):
            scaled(FIRST, factor)
    with pytest.raises(AdapterError, match=r"blk\.0\.attn_q\.weight is out of the range of float32"):
        combined([Share("a", FIRST, 1e60)])
    uneven = Adapter(3, 0.0, "qwen2", PART.tensors | dict(list(FIRST.tensors.items())[-2:]), {})
    with pytest.raises(AdapterError, match="alpha 0 and several ranks"):
        scaled(uneven, 2.0)


def test_adapters_of_several_models_are_refused() -> None:
    other = Adapter(3, 6.0, "llama", adapter_tensors(header("llama")), {})
    narrow = Adapter(2, 1.0, "qwen2", {n: v[:, :-1] if n.endswith("_a") else v for n, v in PART.tensors.items()}, {})
    with pytest.raises(AdapterError) as caught:
        combined([Share("a", FIRST), Share("b", other), Share("c", narrow)])
    assert "b is for llama" in str(caught.value)
    assert "blk.0.attn_q.weight is 24x17 in c and 24x18 in a" in str(caught.value)


def test_llama_cpp_sees_the_sum(tmp_path: Path) -> None:
    """The sum has the logits of the merged change; half of it and half again are the whole."""
    model, prompt = write_tiny_model(tmp_path / "tiny.gguf"), [1, 70, 71, 72, 73]
    first = Adapter(4, 8.0, "llama", random_adapter(model, rank=4), {})

    def seen(adapter: Adapter) -> npt.NDArray[np.float32]:
        write_adapter(tmp_path / "a.gguf", adapter.tensors, alpha=adapter.alpha, architecture="llama")
        return logits(model, prompt, tmp_path / "a.gguf")

    halves, _ = combined([Share("a", first, 0.5), Share("a", first, 0.5)])
    assert halves.rank == 8
    whole = seen(first)
    np.testing.assert_allclose(seen(halves), whole, atol=1e-4)
    np.testing.assert_allclose(seen(combined([Share("a", halves)], rank=4)[0]), whole, atol=1e-4)
    assert np.abs(seen(scaled(first, -1.0)[0]) - whole).max() > 0.1
