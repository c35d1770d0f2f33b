"""The benchmarks' models have the public models' sizes, llama-quantize's types, real tokenizers, and they train."""

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import shapes
from cpuft.engine import Engine
from cpuft.gguf.reader import read_gguf
from cpuft.toolchain import Toolchain
from tests.engine.golden import Example

SMALL = shapes.SHAPES[shapes.TINY]

# As the model cards and checkpoints tell, without Llama's table of rope factors.
PARAMETERS = {
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "llama3.1-8b": 8_030_261_248,
    "mistral-7b": 7_241_732_096,
    "tinyllama-1.1b": 1_100_048_384,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "phi3-mini": 3_821_079_552,
    "gemma2-2b": 2_614_341_888,
    "gemma3-1b": 999_885_952,
    "smollm3-3b": 3_075_098_624,
}


@pytest.mark.parametrize("name", [name for name in shapes.SHAPES if name != shapes.TINY])
def test_parameters(name: str) -> None:
    infos = shapes.tensors(shapes.SHAPES[name])
    total = sum(int(np.prod(info.shape)) for info in infos if info.name != "rope_freqs.weight")
    assert total == PARAMETERS[name]


# One of each architecture that no other test loads.
NEW = ["qwen3-0.6b", "phi3-mini", "gemma2-2b", "gemma3-1b", "smollm3-3b"]


@pytest.mark.parametrize("name", NEW)
def test_llama_cpp_reads_them(name: str, built: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all their layers and their whole vocabulary, but narrow."""
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(built.lib_dir))
    from tests.engine.llama_cpp_loss import loss

    shape = replace(shapes.SHAPES[name], n_embd=256, n_ff=256, n_head=4, n_head_kv=2, head_size=64)
    shapes.write_model(tmp_path / "model.gguf", shape, "q4_k_m")
    tokens = np.arange(0, shape.n_vocab, shape.n_vocab // 40, dtype=np.int32)
    got = loss(tmp_path / "model.gguf", None, [Example(tokens, np.ones(len(tokens), np.uint8))])
    assert got / (len(tokens) - 1) > 5.0, "random weights predict nothing"


@pytest.fixture(scope="module")
def small_model(built: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the shape SMALL in Q4_K_M."""
    assert built
    path = tmp_path_factory.mktemp("shapes") / "small.gguf"
    shapes.write_model(path, SMALL, "q4_k_m")
    return path


def test_types_are_those_of_llama_quantize(small_model: Path, built: Toolchain, tmp_path: Path) -> None:
    """Quantized for real from an F16 file of the same shape."""
    source, target = tmp_path / "f16.gguf", tmp_path / "q4_k_m.gguf"
    shapes.write_model(source, SMALL, "f16")
    subprocess.run([built.tool("llama-quantize"), source, target, "Q4_K_M", "1"], check=True, capture_output=True)
    wanted = {name: tensor.type.name for name, tensor in read_gguf(target).tensors.items()}
    assert {name: tensor.type.name for name, tensor in read_gguf(small_model).tensors.items()} == wanted
    assert len(set(wanted.values())) > 2


def test_the_model_works(small_model: Path) -> None:
    with Engine(small_model, threads=1) as engine:
        assert engine.facts["n_vocab"] == SMALL.n_vocab
        tokens = engine.tokenize("The tokenizer is the real one.")
        assert len(tokens) < 12
        assert engine.detokenize(tokens).strip() == b"The tokenizer is the real one."


def test_useful_operations() -> None:
    """About 4 operations a parameter of Qwen2.5-0.5B, 3 % more for its adapter, and attention."""
    shape = shapes.SHAPES["qwen2.5-0.5b"]
    base = shape.operations(0, 0)
    assert base == pytest.approx(4 * PARAMETERS["qwen2.5-0.5b"], rel=1e-3)
    assert shape.operations(0, 16) / base == pytest.approx(1.03, abs=0.01)
    assert shape.operations(2048, 0) - base == 24 * 6 * 2048 * 14 * 64


def test_a_window_meets_fewer_keys() -> None:
    """Gemma 3 has 5 layers with a window in 6, so 22 of its 26."""
    shape = shapes.SHAPES["gemma3-1b"]
    assert shape.keys(512) == 26 * 256
    mean = sum(min(query, 512) for query in range(1, 2049)) / 2048
    assert shape.keys(2048) == pytest.approx(4 * 1024 + 22 * mean, rel=1e-2)


def test_drawn_rows_fill_every_matrix(small_model: Path) -> None:
    """No tensor is left as a hole of zeros."""
    file = read_gguf(small_model)
    with small_model.open("rb") as stream:
        for tensor in file.tensors.values():
            assert file.read_rows(stream, tensor, tensor.rows - 1, 1).any(), tensor.name
