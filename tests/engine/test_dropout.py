"""Dropout: a mask belongs to its sequence's key, expectations stay, and evaluation has none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from .comparison import ISAS, batch, distance, open_case, run
from .golden import CASES, Case, Example
from .random_model import ModelSpec

ModelOf = Callable[[ModelSpec], Path]
CASE: Case = CASES["qwen2"]
KEYS = (3, 2**63 + 5, 77, 123456789)


def test_masks_do_not_depend_on_the_grouping(model_of: ModelOf) -> None:
    examples = CASE.examples()
    with open_case(model_of(CASE.model), CASE, dropout=0.4) as engine:
        together = run(engine, examples, KEYS)
        backwards = run(engine, examples[::-1], KEYS[::-1])
        alone = [run(engine, [example], [key]) for example, key in zip(examples, KEYS, strict=True)]
    assert together[0] == pytest.approx(backwards[0], rel=1e-6)
    assert distance(together[1], backwards[1]) < 2e-5
    assert together[0] == pytest.approx(sum(loss for loss, _ in alone), rel=1e-6)
    assert distance(together[1], np.sum([gradient for _, gradient in alone], axis=0)) < 2e-5


def test_every_kernel_table_draws_the_same_masks(model_of: ModelOf) -> None:
    results = []
    for isa in ISAS:
        with open_case(model_of(CASE.model), CASE, dropout=0.4, isa=isa) as engine:
            results.append(run(engine, CASE.examples(), KEYS))
    for loss, gradient in results:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        assert distance(gradient, results[0][1]) < 1e-4


def test_parts_of_a_fused_tensor_share_a_mask(model_of: ModelOf) -> None:
    """As the tensor has one input: A's gradient through the gate has the columns that it has through the other half."""
    case = CASES["phi3"]
    name, columns = "blk.0.ffn_up.weight", []
    one = Example(np.array([5, 7], np.int32), np.array([0, 1], np.uint8))  # one token is computed: one mask
    with open_case(model_of(case.model), case, dropout=0.5) as engine:
        tensors = {tensor.name: tensor for tensor in engine.adapter_tensors}
        b = tensors[f"{name}.lora_b"].view(engine.parameters)
        whole = b.copy()
        for half in (slice(None, case.model.n_ff), slice(case.model.n_ff, None)):
            b[:] = 0
            b[half] = whole[half]
            _, gradient = run(engine, [one], [3])
            columns.append(np.any(tensors[f"{name}.lora_a"].view(gradient) != 0, axis=0))
    assert 0.3 < columns[0].mean() < 0.7
    assert np.array_equal(*columns)


def test_keys_choose_masks(model_of: ModelOf) -> None:
    example = CASE.examples()[0]
    with open_case(model_of(CASE.model), CASE, dropout=0.4) as engine:
        losses = {key: run(engine, [example], [key])[0] for key in (0, 1, 2, 1 << 32, 1 << 63)}
        assert len(set(losses.values())) == len(losses)
        plain = run(engine, [example])[0]
        assert plain not in losses.values()
        assert engine.forward(batch([example], [1]))[0] == pytest.approx(plain, rel=1e-6)
    with open_case(model_of(CASE.model), CASE, dropout=0.0) as engine:
        assert run(engine, [example], [1])[0] == pytest.approx(plain, rel=1e-6)


def test_expectation_and_variance(model_of: ModelOf) -> None:
    """While B is zero, its gradient is linear in dropout(x): over many masks its mean is the gradient without dropout.

    Of n masks with covariance S, n |mean - expected|^2 has the expectation trace(S), and S is in proportion to
    p / (1 - p), the variance of a value that is kept with probability 1 - p and then scaled by 1 / (1 - p).
    """
    example, n = CASE.examples()[2], 150
    variances = {}
    for probability in (0.1, 0.5):
        with open_case(model_of(CASE.model), CASE, dropout=probability) as engine:
            of_b = np.zeros(len(engine.parameters), bool)
            for tensor in engine.adapter_tensors:
                if tensor.name.endswith(".lora_b"):
                    tensor.view(engine.parameters)[:] = 0.0
                    tensor.view(of_b)[:] = True
            expected = run(engine, [example])[1][of_b].astype(np.float64)
            drawn = np.array([run(engine, [example], [key])[1][of_b] for key in range(n)], np.float64)
        variances[probability] = drawn.var(0, ddof=1).sum()
        ratio = n * np.square(drawn.mean(0) - expected).sum() / variances[probability]
        assert ratio == pytest.approx(1.0, abs=0.5)  # a sum over hundreds of directions: its deviation is below 0.1
    assert variances[0.5] / variances[0.1] == pytest.approx((0.5 / 0.5) / (0.1 / 0.9), rel=0.2)


def test_linears_have_masks_of_their_own(model_of: ModelOf) -> None:
    """ffn_gate and ffn_up read the same input; where masks and A are equal, so is the direction of A dropout(x).

    One supervised target after one token: in the last layer dB is dy (A dropout(x))^T of that token alone.
    """
    first = CASE.examples()[0]
    example = Example(first.tokens[:2], np.array([0, 1], np.uint8))
    last = f"blk.{CASE.model.n_layer - 1}."
    with open_case(model_of(CASE.model), CASE, dropout=0.5) as engine:
        tensors = {tensor.name: tensor for tensor in engine.adapter_tensors}
        for name, tensor in tensors.items():
            if name.endswith(".lora_b"):
                tensor.view(engine.parameters)[:] = 0.0
        a_gate = tensors[last + "ffn_gate.weight.lora_a"].view(engine.parameters)
        tensors[last + "ffn_up.weight.lora_a"].view(engine.parameters)[:] = a_gate

        def spread(linear: str) -> npt.NDArray[np.float64]:
            """[masks x rank]: the row of dB with the largest values, centred over masks, as one unit vector."""
            b = tensors[f"{last}{linear}.weight.lora_b"]
            drawn = np.array([b.view(run(engine, [example], [key])[1]) for key in range(60)], np.float64)
            rows = drawn[:, int(np.abs(drawn).sum((0, 2)).argmax())]
            rows -= rows.mean(0)
            return np.asarray((rows / np.linalg.norm(rows)).ravel())

        # Equal masks would give 1 or -1; of 480 independent values the correlation's deviation is 0.05.
        assert abs(float(spread("ffn_gate") @ spread("ffn_up"))) < 0.25
        assert float(spread("ffn_gate") @ spread("ffn_gate")) == pytest.approx(1.0)
