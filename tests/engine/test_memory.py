"""Base weights stay quantized in memory, workspaces stop growing, and a closed engine gives its memory back."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.shapes import SHAPES, write_model
from cpuft.toolchain import Toolchain

from .golden import CASES
from .random_model import ModelSpec

ModelOf = Callable[[ModelSpec], Path]
pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")

# Prints the resident megabytes before the model is opened, and after each of the rounds that `body` yields at.
PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from cpuft.engine import Batch, Engine

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

def a_pass(engine, n):
    tokens = np.arange(n, dtype=np.int32) % 300
    engine.forward_backward(Batch(tokens, np.ones(n, np.uint8), np.array([n], np.int64)))

def opened(threads=2):
    engine = Engine(Path(sys.argv[1]), threads=threads)
    engine.adapter_init(rank=4, alpha=8.0)
    return engine

def reopening():
    for _ in range(6):
        for _ in range(10):
            with opened() as engine:
                a_pass(engine, 100)
                engine.tokenize("to be")
        yield

def passes():
    with opened() as engine:
        for _ in range(6):
            for n in (150, 3, 80, 150):
                a_pass(engine, n)
                engine.step(step=1, learning_rate=1e-3)
            yield

def one_pass():
    with opened() as engine:
        a_pass(engine, 8)
        yield

def last_layer_then_all():
    with Engine(Path(sys.argv[1]), threads=2, precision="f32") as engine:
        for first_layer in (engine.facts["n_layer"] - 1, 0):
            engine.adapter_init(rank=4, alpha=8.0, first_layer=first_layer)
            a_pass(engine, 3000)
            yield

sizes = [resident()]
for _ in globals()[sys.argv[2]]():
    sizes.append(resident())
print(json.dumps(sizes))
"""


def resident_after(body: str, model: Path) -> list[float]:
    """Megabytes before, and after each round."""
    command = [sys.executable, "-c", PROGRAM, str(model), body]
    done = subprocess.run(command, cwd=Path(__file__).resolve().parents[2], check=True, capture_output=True, text=True)
    sizes: list[float] = json.loads(done.stdout)
    return sizes


@pytest.mark.parametrize("body", ["reopening", "passes"])
def test_memory_does_not_grow(body: str, model_of: ModelOf) -> None:
    """Ten engines a round, or four passes: after the second round nothing is added but what the allocator scatters."""
    _, _, second, *_, last = resident_after(body, model_of(CASES["llama-mistral"].model))
    assert last - second < 4


def test_weights_stay_quantized(built: Toolchain, tmp_path: Path) -> None:
    """Of 100 million parameters, 57 MB in Q4_0 and 403 MB in float32: the file's pages and some workspace, no more."""
    assert built
    shape = replace(SHAPES["tinyllama-1.1b"], n_layer=1, n_embd=1536, n_ff=20480, n_head=12, n_head_kv=2, head_size=64)
    write_model(tmp_path / "wide.gguf", shape, "q4_0")
    before, after = resident_after("one_pass", tmp_path / "wide.gguf")
    file_size = (tmp_path / "wide.gguf").stat().st_size / 1e6
    assert after - before < file_size + 60


def test_frozen_layers_keep_nothing(model_of: ModelOf) -> None:
    """What eleven more adapted layers add to a pass is all that they keep; frozen, they had kept none of it."""
    spec = ModelSpec("llama", n_layer=12, seed=7)
    model = model_of(spec)
    before, last, all_ = resident_after("last_layer_then_all", model)
    values = 2 * (spec.n_head + spec.n_head_kv) * spec.head_size + 2 * spec.n_embd + 2 * spec.n_ff  # of a token
    layer = 3000 * 4 * values / 1e6
    assert all_ - last > 0.9 * 11 * layer
    assert last - before < 8 * layer  # one layer's activations, their gradients, packed copies, the weights
