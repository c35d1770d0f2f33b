"""The layers below an adapter: their output is given back byte for byte, and with it they cost nothing at all."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import pytest

from cpuft.engine import Engine
from cpuft.errors import EngineError, ModelError
from cpuft.toolchain import Toolchain

from .comparison import ISAS, batch, open_case, set_adapter
from .golden import CASES, Case, Example
from .random_model import FloatArray, ModelSpec, weights, write_model

ModelOf = Callable[[ModelSpec], Path]
Policy = Literal["keep", "recompute"]
CASE = CASES["llama-mistral"]
# Lengths around the kernels' tiles, 4 to 14 rows, and attention's blocks of 64.
WIDE = Case(
    ModelSpec("llama", n_layer=3, n_embd=256, n_ff=512, n_head=4, n_head_kv=2, head_size=64, seed=5),
    2,
    4.0,
    (1, 2, 3, 14, 40, 63, 64, 65, 130),
)
ARITHMETICS = [(isa, "f32") for isa in ISAS] + ([("avx512bf16", "bf16")] if "avx512bf16" in ISAS else [])


def open_above(path: Path, case: Case, first_layer: int, *, dropout: float = 0.0) -> Engine:
    """An engine with the case's adapter on the layers from first_layer on."""
    engine = open_case(path, case)
    engine.adapter_init(rank=case.rank, alpha=case.alpha, dropout=dropout, first_layer=first_layer)
    set_adapter(engine, case.adapter())
    return engine


def frozen_of(engine: Engine, examples: list[Example]) -> FloatArray:
    """The stream before the adapter's first layer, [T, C]."""
    return engine.forward_frozen(batch(examples).tokens, batch(examples).lengths)


@pytest.mark.parametrize("activations", ["keep", "recompute"])
@pytest.mark.parametrize("first_layer", [0, 1, 2])
def test_given_or_computed_the_bytes_are_the_same(first_layer: int, activations: Policy, model_of: ModelOf) -> None:
    examples = CASE.examples()
    with open_above(model_of(CASE.model), CASE, first_layer, dropout=0.1) as engine:
        engine.set_activations(activations)
        frozen = frozen_of(engine, examples)
        results = []
        for given in (None, frozen):
            loss = engine.forward(batch(examples), given)
            training_loss = engine.forward_backward(batch(examples, range(len(examples))), given)
            results.append((loss, training_loss, engine.gradients.tobytes()))
            engine.zero_gradients()
    assert results[0] == results[1]


def test_it_is_the_stream_before_the_first_layer(model_of: ModelOf) -> None:
    """Before layer 0 it is the embedding; and the upper layers go on from what they are given, not from the tokens."""
    examples = CASE.examples()
    with open_above(model_of(CASE.model), CASE, 0) as engine:
        embedding = dict(weights(CASE.model))["token_embd.weight"]
        assert frozen_of(engine, examples).tobytes() == embedding[batch(examples).tokens].tobytes()
    with open_above(model_of(CASE.model), CASE, 2) as engine:
        frozen = frozen_of(engine, examples)
        assert engine.forward(batch(examples), frozen) != engine.forward(batch(examples), frozen * np.float32(1.01))


@pytest.fixture(scope="module", params=["F32", "Q8_0", "Q4_K_M"])
def wide_model(request: pytest.FixtureRequest, built: Toolchain, model_of: ModelOf) -> Path:
    """WIDE's model in F32 and quantized."""
    source = model_of(WIDE.model)
    if request.param == "F32":
        return source
    target = source.with_name(f"frozen-{request.param}.gguf")
    command = [built.tool("llama-quantize"), source, target, request.param, "1"]
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.mark.parametrize(("isa", "precision"), ARITHMETICS)
def test_a_sequence_does_not_depend_on_its_neighbours(isa: str, precision: str, wide_model: Path) -> None:
    """Not in a bit, in a pass of any size, on any number of threads: so what is kept of it is good in every pass."""
    examples = WIDE.examples()
    together = [range(len(examples)), range(len(examples) - 1, -1, -1), (3, 4), (0, 1, 2), (0, 7), (8, 0)]
    alone: list[bytes] = []
    for threads in (1, 2):
        with Engine(wide_model, threads=threads, isa=isa, precision=precision) as engine:
            engine.adapter_init(rank=2, alpha=4.0, first_layer=2)
            alone = alone or [frozen_of(engine, [example]).tobytes() for example in examples]
            for indices in together:
                rows = frozen_of(engine, [examples[i] for i in indices])
                ends = np.cumsum([len(examples[i].tokens) for i in indices])
                assert [part.tobytes() for part in np.split(rows, ends[:-1])] == [alone[i] for i in indices]


# Opens a model and forbids itself the frozen layers' part of its mapping: reading any of it is a fault.
WITHOUT_FROZEN_WEIGHTS = """
import ctypes, sys
from pathlib import Path
import numpy as np
from tests.engine.test_frozen import CASE, batch, open_above

path, start, activations, given = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4] == "given"
frozen = np.load(sys.argv[5])
with open_above(path, CASE, 2) as engine:
    engine.set_activations(activations)
    (mapping,) = (line for line in open("/proc/self/maps") if line.rstrip().endswith(str(path)))
    first, end = (int(place, 16) for place in mapping.split()[0].split("-"))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(first + start), ctypes.c_size_t(end - first - start), 0) == 0
    loss, _ = engine.forward_backward(batch(CASE.examples()), frozen if given else None)
    validation_loss, _ = engine.forward(batch(CASE.examples()), frozen)
    print(repr((loss, validation_loss)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mappings are listed in /proc")
@pytest.mark.parametrize("activations", ["keep", "recompute"])
def test_frozen_weights_are_not_read(activations: Policy, tmp_path: Path) -> None:
    """Neither forward nor backward, nor the embedding: the run lives on without these parts of the mapping."""
    tensors = dict(weights(CASE.model))
    below = [name for name in tensors if name.startswith(("blk.0.", "blk.1.", "token_embd.")) and "norm" not in name]
    ordered = {name: tensors[name] for name in [name for name in tensors if name not in below] + below}
    path = write_model(tmp_path / "model.gguf", CASE.model, ordered)
    start = min(tensor.data_offset for tensor in gguf.GGUFReader(path).tensors if tensor.name in below)
    page = os.sysconf("SC_PAGE_SIZE")
    with open_above(path, CASE, 2) as engine:
        np.save(tmp_path / "frozen.npy", frozen_of(engine, CASE.examples()))
        whole = engine.forward_backward(batch(CASE.examples()))[0], engine.forward(batch(CASE.examples()))[0]

    def train(given: str) -> "subprocess.CompletedProcess[str]":
        words = [path, -(-start // page) * page, activations, given, tmp_path / "frozen.npy"]
        command = [sys.executable, "-c", WITHOUT_FROZEN_WEIGHTS, *map(str, words)]
        root = Path(__file__).resolve().parents[2]
        return subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)

    assert train("computed").returncode == -signal.SIGSEGV  # or this test would prove nothing
    assert train("given").stdout.strip() == repr(whole)


def test_what_does_not_fit_is_refused(model_of: ModelOf) -> None:
    examples = CASE.examples()
    with Engine(model_of(CASE.model), threads=1) as engine:
        with pytest.raises(ModelError, match="adapter"):
            frozen_of(engine, examples)
        rows = np.zeros((len(batch(examples).tokens), CASE.model.n_embd), np.float32)
        with pytest.raises(ModelError, match="no adapter"):
            engine.forward(batch(examples), rows)
        engine.adapter_init(rank=2, alpha=4.0, first_layer=1)
        unfits: tuple[Any, ...] = (
            rows[1:],
            rows[:, 1:],
            rows.astype(np.float64),
            np.asfortranarray(rows),
            rows.ravel(),
        )
        for unfit in unfits:
            for call in (engine.forward, engine.forward_backward):
                with pytest.raises(EngineError, match="frozen must be a contiguous float32 array of shape"):
                    call(batch(examples), unfit)
        with pytest.raises(ModelError, match="out of range"):
            engine.forward_frozen(np.array([-1], np.int32), np.array([1], np.int64))
