"""Proves what the time of a run is made of: passes take seconds that the test decides, so the run's time is known."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cpuft.config.file import load_config
from cpuft.config.keys import Config
from cpuft.data.examples import Example
from cpuft.engine import PASS_SIZE, Batch, Engine, SizeArray
from cpuft.plan import timing as calibration
from cpuft.plan.timing import Times, time_run
from cpuft.train import checkpoint
from cpuft.train.checkpoint import AdapterShape
from cpuft.train.passes import RunPasses, pass_sizes
from tests.train.runs import Inputs

# Seconds of a pass, of each of its tokens, pairs and targets, by what it does. No sum of one is that of another.
COSTS = {
    "forward_backward": (0.004, 1e-5, 3e-7, 2e-5),
    "forward": (0.002, 3e-6, 1e-7, 7e-6),
    "forward_frozen": (0.0, 2e-6, 0.0, 0.0),
}
FIRST, STEP, SAVE, START = 0.7, 0.05, 0.25, 3.0  # a first pass's surplus, an optimizer step, a checkpoint, the start
DISTURBANCE = 0.4


class ClockedEngine:
    """An engine whose passes take what COSTS says, by a clock of its own.

    disturbed: which passes, counted from 0, take DISTURBANCE longer.
    """

    def __init__(self, engine: Engine, disturbed: tuple[int, ...] = ()) -> None:
        self._engine, self._disturbed = engine, disturbed
        self.now, self._n_passes, self._profile = 100.0, 0, np.zeros(4)

    def cost(self, kind: str, sizes: SizeArray) -> float:
        """Of passes of these sizes together."""
        return float(sum(self._parts(kind, size).sum() for size in sizes))

    def forward_backward(self, batch: Batch, frozen: Any) -> None:
        """As of Engine, like those below."""
        if self._n_passes == 0:
            self.now += FIRST
        self._pass("forward_backward", self._engine.pass_size(batch, training=True))

    def forward(self, batch: Batch, frozen: Any) -> None:
        """A pass of a validation."""
        self._pass("forward", self._engine.pass_size(batch, training=False))

    def forward_frozen(self, tokens: Any, lengths: Any) -> Any:
        """The frozen layers alone."""
        self.now += COSTS["forward_frozen"][1] * tokens.size
        return np.zeros(0)

    def step(self, **_: float) -> None:
        """A step of the optimizer."""
        self.now += STEP

    def profile(self) -> dict[str, float]:
        """Seconds by moment since the last call."""
        _, _, pairs, targets = self._profile
        self._profile = np.zeros(4)
        return {"attention": pairs, "head_products": 0.25 * targets, "cross_entropy": 0.75 * targets}

    def _pass(self, kind: str, size: SizeArray) -> None:
        self._profile = self._profile + self._parts(kind, size)
        self.now += self.cost(kind, size[None]) + DISTURBANCE * (self._n_passes in self._disturbed)
        self._n_passes += 1

    @staticmethod
    def _parts(kind: str, size: SizeArray) -> Any:
        return np.array([1, *(size[PASS_SIZE.index(name)] for name in ("tokens", "pairs", "targets"))]) * COSTS[kind]


class Clocked:
    """A run whose time is known: examples of 20 to 150 tokens, and three for validation."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self._engine, self._monkeypatch = engine, monkeypatch

    def times(
        self, settings: dict[str, Any], *, validation: int = 3, disturbed: tuple[int, ...] = ()
    ) -> tuple[Times, ClockedEngine, RunPasses, Config, SizeArray]:
        """What is foretold, and all that the true time follows from."""
        config, _ = load_config(None, {"training.tokens_per_pass": 160, **settings})
        rng = np.random.default_rng(0)
        examples = [_example(rng, int(n)) for n in np.linspace(20, 150, 11 + validation)]
        order = rng.permutation(len(examples))
        training, held_out = [examples[i] for i in order[validation:]], [examples[i] for i in order[:validation]]
        run = RunPasses(config, training, held_out, prefix_block=64)
        sizes = pass_sizes(run, self._engine, frozen=config.training.cache_frozen)
        clocked = ClockedEngine(self._engine, disturbed)

        def save(*_: Any, **__: Any) -> None:
            clocked.now += SAVE

        self._monkeypatch.setattr(checkpoint, "save", save)
        self._monkeypatch.setattr(calibration, "time", SimpleNamespace(perf_counter=lambda: clocked.now))
        times = time_run(run, config, clocked, sizes, AdapterShape(1.0, "llama", {}), START)  # type: ignore[arg-type]
        return times, clocked, run, config, sizes


@pytest.fixture
def clocked(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> Any:
    with Engine(inputs.model, threads=1) as engine:
        yield Clocked(engine, monkeypatch)


SETTINGS = {
    "training.num_epochs": 3,
    "training.gradient_accumulation_steps": 4,
    "training.eval_steps": 2,
    "training.save_steps": 4,
}


def test_all_that_a_run_does_is_counted(clocked: Clocked) -> None:
    times, engine, run, _, sizes = clocked.times(SETTINGS)
    assert run.n_steps == 9
    training, validation = (sizes[sizes[:, PASS_SIZE.index("training")] == flag] for flag in (1, 0))
    assert len(training) > run.n_steps > len(validation) > 1
    assert times.start == START
    assert times.training == pytest.approx(engine.cost("forward_backward", training) + 9 * STEP + FIRST)
    assert times.validation == pytest.approx(5 * engine.cost("forward", validation))  # steps 2, 4, 6, 8 and 9
    assert times.checkpoints == pytest.approx(4 * SAVE)  # steps 4, 8 and 9, and the adapter at the end
    assert times.frozen_layers == 0
    assert times.total == pytest.approx(START + times.training + times.validation + times.checkpoints)


def test_a_run_without_validation_data(clocked: Clocked) -> None:
    times, *_ = clocked.times({**SETTINGS, "training.max_steps": 2}, validation=0)
    assert (times.validation, times.checkpoints) == (0, 2 * SAVE)


def test_frozen_layers_run_once_for_each_example(clocked: Clocked) -> None:
    settings = {**SETTINGS, "lora.layers": 1, "training.cache_frozen": True}
    times, engine, run, _, sizes = clocked.times(settings)
    n_tokens = sum(example.tokens.size for example in (*run.training, *run.validation))
    # Passes end before their last supervised token, the frozen layers' do not.
    assert times.frozen_layers == pytest.approx(n_tokens * COSTS["forward_frozen"][1])
    trained = sizes[sizes[:, PASS_SIZE.index("training")] == 1]
    assert times.training == pytest.approx(engine.cost("forward_backward", trained) + 9 * STEP + FIRST)


@pytest.mark.parametrize("disturbed", [(1, 4), (2, 5), (3, 6)])
def test_one_disturbed_pass_of_three_does_not_count(disturbed: tuple[int, ...], clocked: Clocked) -> None:
    """Pass 0 is the first use, 1 to 3 are the largest, 4 to 6 the smallest."""
    times, engine, *_, sizes = clocked.times(SETTINGS, disturbed=disturbed)
    trained = sizes[sizes[:, PASS_SIZE.index("training")] == 1]
    assert times.training == pytest.approx(engine.cost("forward_backward", trained) + 9 * STEP + FIRST)


def test_passes_of_one_size(clocked: Clocked) -> None:
    """Where no smaller pass tells what is fixed, all grows with the tokens."""
    times, engine, *_, sizes = clocked.times({"training.max_steps": 1, "training.num_epochs": 1}, validation=0)
    assert times.training == pytest.approx(engine.cost("forward_backward", sizes) + STEP + FIRST, rel=0.2)


def _example(rng: np.random.Generator, n: int) -> Example:
    supervised = (np.arange(n) >= n // 2).astype(np.uint8)
    return Example(rng.integers(0, 100, n).astype(np.int32), supervised, "test")
