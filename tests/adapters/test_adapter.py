"""Proves that adapters survive a round trip, that llama.cpp loads and applies them, and that bad ones are refused."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from cpuft.adapters.adapter import check_base, read_adapter, write_adapter
from cpuft.engine import quantize
from cpuft.errors import AdapterError
from cpuft.gguf.reader import read_gguf
from tests.gguf.tiny import FloatArray, random_adapter, write_tiny_model
from tests.release.llama_cpp_logits import logits

PROMPT = [1, 70, 71, 72, 73]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("adapter") / "tiny.gguf")


def test_round_trip_is_exact_and_deterministic(model: Path, tmp_path: Path) -> None:
    tensors = random_adapter(model, rank=4)
    for name in ("first", "second"):
        write_adapter(tmp_path / name, tensors, alpha=8, architecture="llama", metadata={"general.name": "ba", "n": 3})
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    adapter = read_adapter(tmp_path / "first")
    assert (adapter.rank, adapter.alpha, adapter.architecture) == (4, 8.0, "llama")
    assert adapter.metadata == {"general.name": "ba", "n": 3}
    assert adapter.scale(adapter.weights[0]) == 2.0
    assert list(adapter.tensors) == list(tensors)
    assert all(np.array_equal(adapter.tensors[name], values) for name, values in tensors.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_the_gguf_package_reads_the_same_values(model: Path, tmp_path: Path) -> None:
    tensors = random_adapter(model, rank=3)
    write_adapter(tmp_path / "a.gguf", tensors, alpha=8, architecture="llama")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert reader.fields["adapter.lora.alpha"].types == [gguf.GGUFValueType.FLOAT32]
    assert all(np.array_equal(tensor.data, tensors[tensor.name]) for tensor in reader.tensors)
    assert len(reader.tensors) == len(tensors)


def test_llama_cpp_applies_it(model: Path, tmp_path: Path) -> None:
    tensors = random_adapter(model, rank=4)
    write_adapter(tmp_path / "a.gguf", tensors, alpha=8, architecture="llama")
    zero = {name: np.zeros_like(values) if name.endswith("_b") else values for name, values in tensors.items()}
    write_adapter(tmp_path / "zero.gguf", zero, alpha=8, architecture="llama")
    base = logits(model, PROMPT)
    assert np.array_equal(logits(model, PROMPT, tmp_path / "zero.gguf"), base)
    assert np.abs(logits(model, PROMPT, tmp_path / "a.gguf") - base).max() > 0.1


def write_typed(path: Path, tensors: dict[str, Any], kind: gguf.GGMLQuantizationType | None = None) -> Path:
    """An adapter of arrays of any type; `kind` says what their bytes are, where the array's own type does not."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8)
    for name, values in tensors.items():
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_half_precision_adapters_are_read(model: Path, tmp_path: Path) -> None:
    halves = {name: values.astype(np.float16) for name, values in random_adapter(model, rank=4).items()}
    adapter = read_adapter(write_typed(tmp_path / "half.gguf", halves))
    assert all(np.array_equal(adapter.tensors[name], values) for name, values in halves.items())


@pytest.mark.parametrize("name", ["BF16", "Q8_0", "Q4_K"])
def test_adapters_of_other_weight_types_are_read(name: str, tmp_path: Path) -> None:
    """As the gguf package reads them."""
    kind = gguf.GGMLQuantizationType[name]
    rng = np.random.default_rng(5)
    pair = {"blk.0.attn_q.weight.lora_a": (256, 256), "blk.0.attn_q.weight.lora_b": (64, 256)}
    floats = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in pair.items()}
    stored = {key: quantize(int(kind), v).reshape(len(v), -1) for key, v in floats.items()}
    adapter = read_adapter(write_typed(tmp_path / "a.gguf", stored, kind))
    for key, data in stored.items():
        assert np.array_equal(adapter.tensors[key], gguf.quants.dequantize(data, kind))


@pytest.mark.parametrize("kind", [np.float64, np.int8, np.int16, np.int32, np.int64])
def test_types_that_hold_no_weights(kind: type, model: Path, tmp_path: Path) -> None:
    counts: dict[str, Any] = {name: values.astype(kind) for name, values in random_adapter(model, rank=4).items()}
    with pytest.raises(AdapterError, match=r"a\.gguf: blk\.0\..*, of type \w+, cannot be read as a matrix of LoRA"):
        read_adapter(write_typed(tmp_path / "a.gguf", counts))


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    bad: dict[str, FloatArray] = {
        "blk.0.attn_q.weight.lora_a": np.zeros((4, 64), np.float32),  # no partner
        "blk.0.attn_k.weight.lora_a": np.zeros((4, 64), np.float32),
        "blk.0.attn_k.weight.lora_b": np.zeros((32, 5), np.float32),  # another rank
        "blk.0.attn_v.bias": np.zeros(32, np.float32),
    }
    with pytest.raises(AdapterError) as caught:
        write_adapter(tmp_path / "bad.gguf", bad, alpha=8, architecture="llama")
    for part in ("attn_q.weight.lora_a has no partner", "whose ranks disagree", "attn_v.bias is neither"):
        assert part in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_model_is_no_adapter(model: Path) -> None:
    with pytest.raises(AdapterError, match=r"general\.type is None, expected 'adapter'"):
        read_adapter(model)


def test_a_truncated_adapter(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_adapter(path, random_adapter(model, rank=4), alpha=8, architecture="llama")
    whole = path.read_bytes()
    for i in range(50):
        path.write_bytes(whole[: len(whole) * i // 50])
        with pytest.raises(AdapterError, match=r"a\.gguf: "):
            read_adapter(path)


def test_values_that_are_not_finite(model: Path, tmp_path: Path) -> None:
    tensors = random_adapter(model, rank=4)
    tensors["blk.1.ffn_up.weight.lora_b"][3, 2] = np.nan
    write_adapter(tmp_path / "nan.gguf", tensors, alpha=8, architecture="llama")
    with pytest.raises(AdapterError, match=r"not finite: blk\.1\.ffn_up\.weight\.lora_b$"):
        read_adapter(tmp_path / "nan.gguf")


def test_another_base_is_refused(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_adapter(path, random_adapter(model, rank=4), alpha=8, architecture="llama")
    adapter = read_adapter(path)
    check_base(adapter, read_gguf(model), path)
    wider = write_tiny_model(tmp_path / "wider.gguf", n_embd=128)
    with pytest.raises(AdapterError, match=r"attn_q.weight is 64x64, the model's is 128x128.*and 6 more"):
        check_base(adapter, read_gguf(wider), path)
    shorter = write_tiny_model(tmp_path / "shorter.gguf", n_layer=1)
    with pytest.raises(AdapterError, match=r"blk\.1\.attn_q\.weight does not exist"):
        check_base(adapter, read_gguf(shorter), path)
    other = write_tiny_model(tmp_path / "other.gguf", architecture="qwen2")
    with pytest.raises(AdapterError, match=r"architecture 'llama', but .* is 'qwen2'"):
        check_base(adapter, read_gguf(other), path)
