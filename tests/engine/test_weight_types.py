"""The engine reads every weight type that ggml has as gguf-py does: alone, and mixed in one file that it trains on."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from cpuft import engine as native
from cpuft.errors import ModelError
from cpuft.gguf import writer as gguf_writer
from cpuft.gguf.reader import TYPES, read_gguf
from cpuft.gguf.writer import TensorInfo
from cpuft.toolchain import Toolchain

from .comparison import ISAS, batch, distance, gradients, open_case
from .golden import Case
from .random_model import FloatArray, ModelSpec, draw, write_model

ModelOf = Callable[[ModelSpec], Path]
Type = gguf.GGMLQuantizationType

# Quantized by ggml from real values.
QUANTIZED = [
    *(Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q2_K, Type.Q3_K),
    *(Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_NL, Type.IQ4_XS, Type.IQ3_S, Type.IQ3_XXS, Type.TQ1_0, Type.TQ2_0),
    *(Type.MXFP4, Type.NVFP4),
]
# ggml spends seconds on the search tables of these before it quantizes anything: blocks of random bits instead. The
# number is that of the byte with the sign and exponent of a block's float16 scale, which is made small and positive.
RANDOM = {Type.IQ2_S: 1, Type.IQ2_XS: 1, Type.IQ2_XXS: 1, Type.IQ1_S: 1, Type.IQ1_M: 55}
READ = [*QUANTIZED, *RANDOM]

# gguf-py cannot dequantize these, so there is nothing to compare with; the engine reads them through ggml's own code.
WITHOUT_REFERENCE = {
    "Q1_0": "gguf-py knows its block and has no dequantization",
    "Q2_0": "gguf-py does not know it",
}
# The engine refuses tensors of these.
NO_WEIGHTS = {
    **dict.fromkeys(("Q8_1", "Q8_K"), "ggml makes it of activations, within a product"),
    **dict.fromkeys(("I8", "I16", "I32", "I64", "F64"), "ggml does not turn it into float32"),
}

# gguf-py gives a block of Q8_1 40 bytes; ggml stores two float16 and 32 codes.
Q8_1_BYTES = 36

# Four layers of seven matrices: more than there are types.
CASE = Case(
    ModelSpec("llama", n_layer=4, n_embd=256, n_ff=512, n_head=8, n_head_kv=2, head_size=32, seed=35), 4, 16.0, (40, 9)
)


def stored_matrix(kind: Type, values: FloatArray) -> npt.NDArray[np.uint8]:
    """A matrix as a file stores it, (rows, bytes): `values` in that type, or random blocks."""
    rows, cols = values.shape
    if kind not in RANDOM:
        importance = np.abs(draw(32, kind.name, (cols,), 1.0)) + np.float32(0.1)
        return native.quantize(kind, values, importance).reshape(rows, -1)
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    stored = np.frombuffer(np.random.default_rng(34).bytes(rows * cols // block * block_bytes), np.uint8).copy()
    exponents = stored[RANDOM[kind] :: block_bytes]
    exponents[:] = (exponents & 0x03) | 0x20  # from 2^-7 to 2^-6
    return stored.reshape(rows, -1)


def by_gguf_py(kind: Type, stored: npt.NDArray[np.uint8]) -> FloatArray:
    """The values that gguf-py reads in a stored matrix."""
    storage = {Type.F32: np.float32, Type.F16: np.float16}.get(kind, np.uint8)
    return np.ascontiguousarray(gguf.quants.dequantize(stored.view(storage), kind), np.float32)


def test_every_type_of_ggml_has_its_place(built: Toolchain) -> None:
    header = (built.source / "ggml" / "include" / "ggml.h").read_text()
    known = re.findall(r"^ +GGML_TYPE_(\w+) += \d+,", header, re.MULTILINE)
    known.remove("COUNT")
    assert sorted(known) == sorted([*(kind.name for kind in READ), *WITHOUT_REFERENCE, *NO_WEIGHTS])


@pytest.mark.parametrize("kind", READ, ids=lambda kind: kind.name)
def test_one_type_is_read_as_gguf_py_reads_it(kind: Type) -> None:
    rows, cols = 3, 512
    stored = stored_matrix(kind, draw(31, kind.name, (rows, cols), 1.0))
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    assert stored.dtype == np.uint8
    assert stored.size == rows * cols // block * block_bytes
    got = native.dequantize(kind, stored, rows, cols)
    wanted = by_gguf_py(kind, stored)
    assert got.shape == (rows, cols)
    assert np.abs(wanted).max() > 0
    # The same few float32 operations, perhaps contracted into fused ones.
    assert np.abs(got - wanted).max() <= 4 * 2.0**-24 * np.abs(wanted).max()


@cache
def mixed(folder: Path, model: Path) -> tuple[Path, Path]:
    """A file whose matrices have all types in turn, and a F32 file of the values that gguf-py reads in it."""
    base = read_gguf(model)
    names = [tensor.name for tensor in base.tensors.values() if len(tensor.shape) == 2]
    kinds = {name: READ[number % len(READ)] for number, name in enumerate(names)}
    assert set(kinds.values()) == set(READ)
    infos, data, values = [], [], {}
    for tensor in gguf.GGUFReader(model).tensors:
        kind = kinds.get(tensor.name, Type.F32)
        stored = stored_matrix(kind, np.atleast_2d(tensor.data))
        infos.append(TensorInfo(tensor.name, base.tensors[tensor.name].shape, TYPES[kind]))
        data.append(stored)
        values[tensor.name] = by_gguf_py(kind, stored).reshape(infos[-1].shape)
    path = folder / "mixed.gguf"
    with path.open("wb") as target:
        gguf_writer.write_header(target, list(base.fields.values()), infos, base.alignment)
        for info, stored in zip(infos, data, strict=True):
            target.write(stored.tobytes())
            gguf_writer.pad(target, info.size, base.alignment)
    return path, write_model(folder / "mixed-f32.gguf", CASE.model, values)


@pytest.mark.parametrize("isa", ISAS)
def test_all_types_in_one_file_train_as_their_values_in_f32(
    isa: str, model_of: ModelOf, tmp_path_factory: pytest.TempPathFactory
) -> None:
    results = []
    for path in mixed(tmp_path_factory.getbasetemp(), model_of(CASE.model)):
        with open_case(path, CASE, isa=isa) as engine:
            loss, _ = engine.forward_backward(batch(CASE.examples()))
            results.append((loss, gradients(engine)))
    (loss, got), (wanted_loss, wanted) = results
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    for name, gradient in wanted.items():
        assert distance(got[name], gradient) < 1e-3, name


@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_a_type_that_holds_no_weights_is_refused_by_name(name: str, model_of: ModelOf, tmp_path: Path) -> None:
    base = read_gguf(model_of(CASE.model))
    infos = [TensorInfo(tensor.name, tensor.shape, tensor.type) for tensor in base.tensors.values()]
    place = next(number for number, info in enumerate(infos) if info.name == "blk.0.attn_q.weight")
    kind = TYPES[Type.__members__[name]]
    kind = kind._replace(block_bytes=Q8_1_BYTES) if name == "Q8_1" else kind
    infos[place] = TensorInfo(infos[place].name, infos[place].shape, kind)
    path = tmp_path / "model.gguf"
    with path.open("wb") as target:
        gguf_writer.write_header(target, list(base.fields.values()), infos, base.alignment)
        for info in infos:
            target.write(bytes(info.size))
            gguf_writer.pad(target, info.size, base.alignment)
    with pytest.raises(ModelError, match=f"(?i)tensor blk.0.attn_q.weight has type {name}, which holds no weights"):
        native.Engine(path, threads=1)
    with pytest.raises(ModelError, match="is no weight type of ggml"):
        native.dequantize(Type.__members__[name], np.zeros(infos[place].size, np.uint8), *infos[place].shape)
