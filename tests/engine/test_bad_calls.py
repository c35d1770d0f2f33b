"""Impossible arguments are refused with a sentence, leave the engine as it was, and never end the process."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpuft import engine as native
from cpuft.engine import Batch, Engine
from cpuft.errors import CpuftError, EngineError, ModelError, ResourceError

from .comparison import batch, open_case, run, step
from .golden import CASES, Case
from .random_model import ModelSpec

ModelOf = Callable[[ModelSpec], Path]
CASE: Case = CASES["llama-tied"]


@pytest.fixture
def engine(model_of: ModelOf) -> Iterator[Engine]:
    """An engine that works; afterwards it must still give the numbers that it gave before."""
    with open_case(model_of(CASE.model), CASE) as opened:
        loss, gradient = run(opened, CASE.examples())
        parameters = opened.parameters.copy()
        yield opened
        assert opened.parameters.tobytes() == parameters.tobytes()
        again_loss, again_gradient = run(opened, CASE.examples())
        assert again_loss == loss
        assert again_gradient.tobytes() == gradient.tobytes()


def small_batch(tokens: list[int], lengths: list[int], keys: list[int] | None = None) -> Batch:
    """A batch in which every token is supervised."""
    return Batch(
        np.array(tokens, np.int32),
        np.ones(len(tokens), np.uint8),
        np.array(lengths, np.int64),
        None if keys is None else np.array(keys, np.uint64),
    )


@pytest.mark.parametrize("token", [-1, -(2**31), CASE.model.n_vocab, 2**31 - 1])
def test_token_out_of_range(token: int, engine: Engine) -> None:
    for call in (engine.forward, engine.forward_backward):
        with pytest.raises(ModelError, match=f"{token}.*{CASE.model.n_vocab}"):
            call(small_batch([1, 2, token, 3], [4]))
    with pytest.raises(ModelError, match=str(token)):
        engine.forward_hidden(np.array([1, token], np.int32), np.array([2], np.int64))
    with pytest.raises(ModelError, match=str(token)):
        engine.detokenize([token])


@pytest.mark.parametrize(
    ("tokens", "lengths", "keys"),
    [
        ([], [], None),
        ([1, 2], [], None),
        ([1, 2], [0, 2], None),
        ([1, 2], [3, -1], None),
        ([1, 2], [1], None),
        ([1, 2], [3], None),
        ([1, 2], [2**62, 2**62], None),
        ([1, 2], [1, 1], [5]),
    ],
)
def test_lengths_that_do_not_fit(tokens: list[int], lengths: list[int], keys: list[int] | None, engine: Engine) -> None:
    with pytest.raises(CpuftError, match=r"(?i)length|sequence|dropout_keys"):
        engine.forward_backward(small_batch(tokens, lengths, keys))


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": np.zeros(4, np.int64)},
        {"tokens": np.zeros((2, 2), np.int32)},
        {"tokens": np.zeros(8, np.int32)[::2]},
        {"supervised": np.zeros(4, bool)},
        {"supervised": np.zeros(3, np.uint8)},
        {"lengths": np.array([4], np.int32)},
        {"dropout_keys": np.array([4], np.int64)},
    ],
    ids=str,
)
def test_arrays_of_another_kind(change: dict[str, Any]) -> None:
    arrays: dict[str, Any] = {
        "tokens": np.zeros(4, np.int32),
        "supervised": np.zeros(4, np.uint8),
        "lengths": np.array([4], np.int64),
    }
    Batch(**arrays)
    with pytest.raises(CpuftError, match=next(iter(change))):
        Batch(**arrays | change)


def test_nothing_supervised(engine: Engine) -> None:
    """A pass without targets counts nothing; a step without any token has nothing to divide by."""
    silent = Batch(np.arange(5, dtype=np.int32), np.zeros(5, np.uint8), np.array([3, 2], np.int64))
    first_only = Batch(np.arange(5, dtype=np.int32), np.array([1, 0, 0, 1, 0], np.uint8), np.array([3, 2], np.int64))
    single = small_batch([7], [1])
    for nothing in (silent, first_only, single):
        assert engine.forward(nothing) == (0.0, 0)
        assert engine.forward_backward(nothing) == (0.0, 0)
    assert not engine.gradients.any()
    with pytest.raises(ModelError, match="supervised"):
        step(engine, 1, CASE.optimizer)


@pytest.mark.parametrize(
    "setting",
    [
        {"step": 0},
        {"step": -3},
        *[{name: float("nan")} for name in ("learning_rate", "beta1", "beta2")],
        *[{name: float("nan")} for name in ("epsilon", "weight_decay", "max_grad_norm")],
        {"learning_rate": float("inf")},
        {"learning_rate": -1e-3},
        {"beta1": 1.0},
        {"beta1": -0.1},
        {"beta2": 1.0},
        {"beta2": 2.0},
        {"epsilon": -1e-8},
        {"weight_decay": -0.1},
        {"max_grad_norm": -1.0},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_steps(setting: dict[str, Any], engine: Engine) -> None:
    settings = {"step": 1, "learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}
    settings |= {"weight_decay": 0.1, "max_grad_norm": 1.0}
    engine.forward_backward(batch(CASE.examples()))
    with pytest.raises(CpuftError):
        engine.step(**settings | setting)
    assert engine.gradients.any(), "the gradient must still be there for another try"


def test_a_gradient_that_is_not_finite(engine: Engine) -> None:
    start = engine.parameters.copy()
    for bad in (np.nan, np.inf, 1e38):
        engine.parameters[7] = bad
        engine.forward_backward(batch(CASE.examples()))
        spoiled = engine.parameters.copy()
        with pytest.raises(ModelError, match="finite"):
            step(engine, 1, CASE.optimizer)
        assert engine.parameters.tobytes() == spoiled.tobytes()
        assert not engine.optimizer_state.any()
        engine.zero_gradients()
        engine.parameters[:] = start


@pytest.mark.parametrize(
    "setting",
    [
        {"rank": 0},
        {"rank": -1},
        {"rank": 2**31 - 1},
        {"alpha": float("nan")},
        {"alpha": float("inf")},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"dropout": float("nan")},
        {"targets": ()},
        {"targets": ("attn_q", "q_proj")},
        {"first_layer": -1},
        {"first_layer": CASE.model.n_layer},
        {"first_layer": 2**31 - 1},
    ],
    ids=str,
)
def test_impossible_adapters(setting: dict[str, Any], engine: Engine) -> None:
    with pytest.raises(CpuftError):
        engine.adapter_init(**{"rank": 4, "alpha": 8.0} | setting)


@pytest.mark.parametrize("threads", [-1, 100_000, 2**31 - 1])
def test_impossible_threads(threads: int, model_of: ModelOf) -> None:
    with pytest.raises(ModelError, match=str(threads)):
        Engine(model_of(CASE.model), threads=threads)


def test_before_there_is_an_adapter(model_of: ModelOf) -> None:
    with Engine(model_of(CASE.model), threads=1, precision="f32") as engine:
        for call in (
            lambda: engine.forward_backward(batch(CASE.examples())),
            lambda: step(engine, 1, CASE.optimizer),
            lambda: engine.parameters,
            lambda: engine.gradients,
            lambda: engine.optimizer_state,
            lambda: engine.set_optimizer_state(np.zeros(8, np.uint8)),
        ):
            with pytest.raises(ModelError, match="adapter"):
                call()
        base, _ = engine.forward(batch(CASE.examples()))  # the base model alone has a loss
        engine.adapter_init(rank=3, alpha=6.0)
        assert engine.forward(batch(CASE.examples()))[0] == pytest.approx(base, rel=1e-6)


CLOSED = """
import sys
from pathlib import Path
import numpy as np
from cpuft.engine import Batch, Engine
from cpuft.errors import CpuftError
engine = Engine(Path(sys.argv[1]), threads=1)
engine.adapter_init(rank=2, alpha=2.0)
engine.close()
engine.close()
one = Batch(np.ones(2, np.int32), np.ones(2, np.uint8), np.array([2], np.int64))
calls = [
    lambda: engine.forward(one), lambda: engine.forward_backward(one), lambda: engine.tokenize("a"),
    lambda: engine.adapter_init(rank=2, alpha=2.0), lambda: engine.parameters, lambda: engine.optimizer_state,
    lambda: engine.set_optimizer_state(np.zeros(8, np.uint8)),
    lambda: engine.detokenize([1]), lambda: engine.set_activations("keep"), lambda: engine.zero_gradients(),
    lambda: engine.forward_hidden(one.tokens, one.lengths), lambda: engine.step(step=1, learning_rate=1e-3),
    lambda: engine.logits_of(np.ones((1, engine.facts["n_embd"]), np.float32)),
]
for call in calls:
    try:
        call()
    except CpuftError as error:
        print(error)
"""


def test_after_close(model_of: ModelOf) -> None:
    command = [sys.executable, "-c", CLOSED, str(model_of(CASE.model))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 13, done.stdout


# As many threads as there may be, where memory has no room for their stacks; then two.
FEW_THREADS = """
import resource, sys
from pathlib import Path
from cpuft.engine import Engine
from cpuft.errors import CpuftError
Engine(Path(sys.argv[1]), threads=1).close()
used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28), resource.RLIM_INFINITY))
try:
    Engine(Path(sys.argv[1]), threads=1024)
except CpuftError as error:
    print(error)
with Engine(Path(sys.argv[1]), threads=2) as engine:
    print(engine.facts["n_threads"])
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="address space is read from /proc")
def test_more_threads_than_the_machine_starts(model_of: ModelOf) -> None:
    command = [sys.executable, "-c", FEW_THREADS, str(model_of(CASE.model))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2], timeout=100)
    assert done.returncode == 0, done.stderr
    refusal, threads = done.stdout.splitlines()
    assert "of 1024 threads" in refusal
    assert threads == "2"


def test_rows_that_the_head_cannot_take(engine: Engine) -> None:
    n_embd = engine.facts["n_embd"]
    for shape in [(0, n_embd), (2, n_embd - 1), (n_embd,), (2, n_embd, 1)]:
        with pytest.raises((ModelError, EngineError)):
            engine.logits_of(np.ones(shape, np.float32))


def test_texts(engine: Engine) -> None:
    assert engine.tokenize("") == []
    for text in ("a", "to be", "ünï ∑ 🙂 \x00 null", "x" * 100_000, "\ud7ff\ue000", " ", "\n\n\t"):
        assert engine.detokenize(engine.tokenize(text)).decode().strip() == text.strip()


def test_more_memory_than_there_is(engine: Engine) -> None:
    """Logits of a pass that no machine holds: an error of resources or input, not the end of the process."""
    with pytest.raises(CpuftError):
        engine.adapter_init(rank=2**24, alpha=1.0)


@pytest.mark.parametrize("kind", [-1, 4, 5, 1000, 2**31 - 1])
def test_weight_types_that_are_none(kind: int) -> None:
    """4 and 5 are formats that ggml has removed."""
    with pytest.raises((ModelError, EngineError)):
        native.dequantize(kind, np.zeros(4096, np.uint8), 2, 256)


@pytest.mark.parametrize(
    ("n_bytes", "rows", "cols"),
    [(0, 1, 32), (33, 1, 32), (34, 1, 33), (34, 2, 32), (34, -1, 32), (34, 1, 0), (34, 2**62, 32)],
)
def test_weight_shapes_that_do_not_fit(n_bytes: int, rows: int, cols: int) -> None:
    q8_0 = 8
    with pytest.raises((ModelError, EngineError, ResourceError, ValueError, MemoryError)):
        native.dequantize(q8_0, np.zeros(n_bytes, np.uint8), rows, cols)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [8, 2, 12, 14, 20, 23])
def test_quantizing_what_is_not_finite(kind: int, bad: float) -> None:
    """Some of ggml's quantizers assert that values are finite; we refuse them first."""
    values = np.ones((2, 256), np.float32)
    values[1, 100] = bad
    with pytest.raises(ModelError, match="finite"):
        native.quantize(kind, values)


def test_quantizing_needs_whole_blocks_and_importance() -> None:
    with pytest.raises((ModelError, EngineError)):
        native.quantize(12, np.ones((2, 200), np.float32))
    with pytest.raises((ModelError, EngineError)):
        native.quantize(16, np.ones((2, 256), np.float32))  # IQ2_XXS without importance
    with pytest.raises((ModelError, EngineError, ValueError)):
        native.quantize(12, np.ones((2, 256), np.float32), importance=np.ones(3, np.float32))
