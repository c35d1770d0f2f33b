"""Proves that what is left of an adapter's change is measured as the formula says, and that rounding shows in it."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from cpuft.adapters.adapter import read_adapter, write_adapter
from cpuft.errors import ModelError
from cpuft.gguf.reader import read_gguf
from cpuft.release.merge import merge
from cpuft.release.survival import Survival, survivals
from tests.gguf.tiny import FloatArray, random_adapter, write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("survival")


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    """A base in q4_0, as one finds it in the wild."""
    return merge(write_tiny_model(folder / "f32.gguf"), folder / "base.gguf", file_type="q4_0").output


def write_scaled(model: Path, path: Path, factor: float) -> Path:
    tensors = {
        n: v * np.float32(factor) if n.endswith("lora_b") else v for n, v in random_adapter(model, rank=4).items()
    }
    write_adapter(path, tensors, alpha=8, architecture="llama")
    return path


def found(base: Path, adapter: Path, merged: Path) -> tuple[list[Survival], Survival]:
    return survivals(read_gguf(base), read_adapter(adapter), read_gguf(merged))


def dequantized(path: Path, name: str) -> FloatArray:
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == name)
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)


@pytest.mark.parametrize(("file_type", "noise"), [("f32", 1e-5), ("f16", 1e-2)])
def test_nothing_is_lost_in_floats(file_type: str, noise: float, base: Path, tmp_path: Path) -> None:
    adapter = write_scaled(base, tmp_path / "a.gguf", 1)
    merged = merge(base, tmp_path / "m.gguf", adapter_path=adapter, file_type=file_type).output
    tensors, total = found(base, adapter, merged)
    assert len(tensors) == 14
    assert all(abs(tensor.survived - 1) < 1e-3 and tensor.noise < noise for tensor in [*tensors, total])


def test_a_change_far_below_the_step_is_rounded_away(base: Path, tmp_path: Path) -> None:
    adapter = write_scaled(base, tmp_path / "a.gguf", 1e-4)
    merged = merge(base, tmp_path / "m.gguf", adapter_path=adapter).output
    _, total = found(base, adapter, merged)
    assert abs(total.survived) < 0.2


def test_a_tensor_by_hand(base: Path, tmp_path: Path) -> None:
    adapter = write_scaled(base, tmp_path / "a.gguf", 0.1)
    merged = merge(base, tmp_path / "m.gguf", adapter_path=adapter, file_type="q4_0").output
    tensors, total = found(base, adapter, merged)
    name, lora = "blk.1.ffn_up.weight", read_adapter(adapter)
    a, b = lora.pair(name)
    delta = 2.0 * b.astype(np.float64) @ a
    change = dequantized(merged, name) - dequantized(base, name)
    survived = (change * delta).sum() / (delta**2).sum()
    tensor = next(tensor for tensor in tensors if tensor.name == name)
    assert (tensor.type, total.type) == ("q4_0", "q4_0")
    assert tensor.delta == pytest.approx(np.linalg.norm(delta), rel=1e-6)
    assert tensor.survived == pytest.approx(survived, rel=1e-5)
    assert tensor.noise == pytest.approx(np.linalg.norm(change - survived * delta) / np.linalg.norm(delta), rel=1e-5)
    assert total.delta == pytest.approx(np.sqrt(sum(tensor.delta**2 for tensor in tensors)))
    mean = sum(tensor.survived * tensor.delta**2 for tensor in tensors) / total.delta**2
    assert total.survived == pytest.approx(mean)


def test_files_that_do_not_belong_together_are_refused(base: Path, tmp_path: Path) -> None:
    adapter = write_scaled(base, tmp_path / "a.gguf", 1)
    other = write_tiny_model(tmp_path / "other.gguf", n_layer=3)
    with pytest.raises(ModelError, match=r"other\.gguf: blk\.2\..* in one file only: give a file that was merged"):
        found(base, adapter, other)
    untrained = write_scaled(base, tmp_path / "zero.gguf", 0)
    with pytest.raises(ModelError, match="the adapter changes no weight"):
        found(base, untrained, base)
