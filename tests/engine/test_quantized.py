"""The engine trains on quantized weights as on the same values in F32, and quantizes as gguf-py does."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from cpuft import engine as native
from cpuft.engine import Engine
from cpuft.toolchain import Toolchain

from .comparison import INT8_ISAS, ISAS, batch, cosine, distance, gradients, open_case
from .golden import Case
from .random_model import ModelSpec, draw, write_model

ModelOf = Callable[[ModelSpec], Path]
Quantized = Callable[[ModelSpec, str], Path]
Type = gguf.GGMLQuantizationType

# Widths that k-quants divide; the vocabulary stays odd.
WIDE = Case(ModelSpec("llama", n_embd=256, n_ff=512, n_head=8, n_head_kv=2, head_size=32, seed=21), 4, 16.0, (40, 9))
# Widths that they do not divide: llama-quantize then takes another type for each such tensor.
MIXED = Case(
    ModelSpec("qwen2", n_embd=96, n_ff=288, n_head=3, n_head_kv=1, head_size=32, biases=True, tied=True, seed=22),
    4,
    16.0,
    (33, 21),
)
FILE_TYPES = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS", "Q2_K", "Q3_K_M", "Q4_K_S"]
FILE_TYPES += ["Q4_K_M", "Q5_K_M", "Q6_K", "TQ1_0"]


@pytest.fixture(scope="session")
def quantized(built: Toolchain, model_of: ModelOf) -> Callable[[ModelSpec, str], Path]:
    """(spec, file type) -> its model in that type, made by llama.cpp's own tool."""

    def quantize(spec: ModelSpec, file_type: str) -> Path:
        source = model_of(spec)
        target = source.with_name(f"{source.stem}-{file_type}.gguf")
        if not target.exists():
            tool = built.tool("llama-quantize")
            subprocess.run([tool, source, target, file_type, "1"], check=True, capture_output=True)
        return target

    return quantize


def dequantized_copy(spec: ModelSpec, path: Path) -> Path:
    """A F32 file of the values that gguf-py reads in `path`."""
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}
    tensors = {name: np.ascontiguousarray(values, np.float32) for name, values in tensors.items()}
    return write_model(path.with_suffix(".f32.gguf"), spec, tensors)


@pytest.mark.parametrize("file_type", FILE_TYPES)
@pytest.mark.parametrize("case", [WIDE, MIXED], ids=["wide", "mixed"])
def test_training_on_quantized_weights(case: Case, file_type: str, quantized: Quantized) -> None:
    path = quantized(case.model, file_type)
    kinds = {t.tensor_type for t in gguf.GGUFReader(path).tensors if t.name.endswith(".weight")}
    assert kinds - {Type.F32}, "nothing was quantized"
    results = []
    for variant in (path, dequantized_copy(case.model, path)):
        with open_case(variant, case) as engine:
            loss, _ = engine.forward_backward(batch(case.examples()))
            results.append((loss, gradients(engine)))
    (loss, got), (wanted_loss, wanted) = results
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    for name, gradient in wanted.items():
        assert distance(got[name], gradient) < 1e-3, name
        assert cosine(got[name], gradient) > 0.99999, name


@pytest.mark.parametrize("isa", ISAS)
def test_a_mixture_on_every_kernel_table(isa: str, quantized: Quantized) -> None:
    path = quantized(WIDE.model, "Q4_K_M")
    results = []
    for variant in (path, dequantized_copy(WIDE.model, path)):
        with open_case(variant, WIDE, isa=isa) as engine:
            loss, _ = engine.forward_backward(batch(WIDE.examples()))
            results.append((loss, engine.gradients.copy()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert distance(results[0][1], results[1][1]) < 1e-4


@pytest.mark.parametrize("file_type", ["Q8_0", "Q4_0", "Q5_0", "IQ4_XS", "Q4_K_M", "Q5_K_M"])
@pytest.mark.parametrize("isa", INT8_ISAS)
def test_bytes_of_quantized_weights(isa: str, file_type: str, quantized: Quantized) -> None:
    """Rounded to bytes straight from the file's codes, weights give a gradient in the direction of float32's."""
    path = quantized(WIDE.model, file_type)
    results = {}
    for precision in ("f32", "int8"):
        with open_case(path, WIDE, isa=isa, precision=precision) as engine:
            loss, _ = engine.forward_backward(batch(WIDE.examples()))
            results[precision] = (loss, gradients(engine))
    (loss, got), (wanted_loss, wanted) = results["int8"], results["f32"]
    assert loss == pytest.approx(wanted_loss, rel=1e-2)
    assert loss != wanted_loss, "this was float32"
    for name, gradient in wanted.items():
        assert cosine(got[name], gradient) > 0.995, name
        assert distance(got[name], gradient) < 0.1, name


def test_bytes_are_automatic_where_they_are_fast(quantized: Quantized, model_of: ModelOf) -> None:
    path, unrounded = quantized(WIDE.model, "Q4_K_M"), model_of(WIDE.model)
    for isa in ISAS:
        with Engine(path, isa=isa) as engine:
            assert engine.facts["precision"] == ("int8" if isa in INT8_ISAS and isa != "reference" else "bf16"), isa
        with Engine(unrounded, isa=isa) as engine:
            assert engine.facts["precision"] == "bf16", isa


@pytest.mark.parametrize("kind", [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q5_1], ids=lambda kind: kind.name)
def test_quantize_as_gguf_py(kind: Type) -> None:
    values = draw(33, kind.name, (7, 96), 2.0)
    wanted = gguf.quants.quantize(values, kind).view(np.uint8).ravel()
    assert np.array_equal(native.quantize(kind, values), wanted)
    assert np.array_equal(native.quantize(kind, values, threads=1), wanted)


def test_a_quantized_head_and_embedding_are_read(model_of: ModelOf, quantized: Quantized) -> None:
    """Rounding the weights must show in the loss: else the quantized file was not what was trained on."""
    case = replace(WIDE, lengths=(64,))
    losses = []
    for path in (model_of(case.model), quantized(case.model, "Q2_K")):
        with open_case(path, case) as engine:
            losses.append(engine.forward(batch(case.examples()))[0])
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)
