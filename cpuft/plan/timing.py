"""How long a run takes: a few of its own passes are timed on this machine, the others follow from their sizes."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from cpuft.config.keys import Config
from cpuft.engine import PASS_SIZE, Batch, Engine, FloatArray, SizeArray
from cpuft.machine.progress import Progress, silent
from cpuft.train import checkpoint
from cpuft.train.checkpoint import AdapterShape, State
from cpuft.train.passes import RunPasses, times_due

TOKENS, TARGETS, PAIRS, TRAINING = (PASS_SIZE.index(name) for name in ("tokens", "targets", "pairs", "training"))
# What of a pass grows with which entry of its size; all else grows with its tokens.
GROWTH = {"attention": PAIRS, "head_products": TARGETS, "cross_entropy": TARGETS}
MOST_REPEATS = 3
ENOUGH_SECONDS = 2.0  # a pass is timed again until it has taken so long in all, or MOST_REPEATS times
DIFFERENT = 0.7  # a second, smaller pass is timed where it has at most so much of the tokens of the largest

TITLE = "Calibrating"

Pass = Callable[[Batch], object]


@dataclass(frozen=True)
class Times:
    """Seconds that a run takes by part. start: opening the model, reading the data, reserving memory."""

    start: float
    training: float
    validation: float
    frozen_layers: float
    checkpoints: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.start + self.training + self.validation + self.frozen_layers + self.checkpoints


@dataclass(frozen=True)
class Line:
    """Seconds that grow from `fixed` by `slope` for each unit of a size."""

    fixed: float
    slope: float

    def seconds(self, sizes: SizeArray, entry: int) -> float:
        """For passes of these sizes together."""
        return self.fixed * len(sizes) + self.slope * float(sizes[:, entry].sum())


def time_run(
    run: RunPasses,
    config: Config,
    engine: Engine,
    sizes: SizeArray,
    shape: AdapterShape,
    start: float,
    progress: Progress = silent,
) -> Times:
    """Times passes of a run that is ready to begin, without a trace of it: nothing is written but a checkpoint in a
    temporary folder.

    sizes: as `pass_sizes` gives them. start: the seconds that were spent until now, with the same work as a run's.
    """
    trained = sizes[:, TRAINING] == 1
    frozen = (sizes[:, TARGETS] == 0) & ~trained
    validated = ~trained & ~frozen
    cached = config.training.cache_frozen
    batches = _extremes(sizes[trained], lambda n: next(islice(run.training_batches(), n, None)))
    validation = _extremes(sizes[validated], run.of_validation().__getitem__) if validated.any() else []
    rows: dict[int, FloatArray] = {}
    if cached:
        for batch, _ in (*batches, *validation):
            rows[id(batch)] = engine.forward_frozen(batch.tokens, batch.lengths)

    def frozen_rows(batch: Batch) -> FloatArray | None:
        return rows.get(id(batch))

    trainer = _Timer(engine, lambda batch: engine.forward_backward(batch, frozen_rows(batch)))
    training = trainer.lines(batches)
    progress(TITLE, 1, 4, "part")
    step = _seconds(lambda: engine.step(step=1, learning_rate=1e-9))
    progress(TITLE, 2, 4, "part")
    forward = _Timer(engine, lambda batch: engine.forward(batch, frozen_rows(batch))).lines(validation)
    frozen_forward = {}
    if cached:
        whole = sizes[frozen][sizes[trained][:, TOKENS].argmax()]  # the same pass, here to the end of its examples
        timer = _Timer(engine, lambda batch: engine.forward_frozen(batch.tokens, batch.lengths))
        frozen_forward = timer.lines([(batches[0][0], whole)])
    progress(TITLE, 3, 4, "part")
    save = _checkpoint_seconds(engine, shape)
    progress(TITLE, 4, 4, "part")
    n_validations = times_due(run.n_steps, config.training.eval_steps)
    n_first = sum(len(run.of_step(step)[1]) for step in range(1, min(run.per_epoch, run.n_steps) + 1))
    once = np.concatenate([sizes[frozen][:n_first], sizes[frozen][int(trained.sum()) :]])  # an epoch, and a validation
    return Times(
        start=start,
        training=_sum_seconds(training, sizes[trained]) + step * run.n_steps + trainer.first_use,
        validation=_sum_seconds(forward, sizes[validated]) * n_validations,
        frozen_layers=_sum_seconds(frozen_forward, once),
        checkpoints=save * (times_due(run.n_steps, config.training.save_steps) + 1),
    )


class _Timer:
    """Times passes of one kind."""

    def __init__(self, engine: Engine, run: Pass) -> None:
        self._engine, self._run = engine, run
        self.first_use = 0.0  # what the first pass takes longer than others: memory is touched for the first time

    def lines(self, passes: Sequence[tuple[Batch, SizeArray]]) -> dict[int, Line]:
        """How the parts of a pass grow: for each entry of a size that something grows with, a line.

        passes: the largest, and perhaps a smaller one.
        """
        if not passes:
            return {}
        first = _seconds(lambda: self._run(passes[0][0]))
        timed = [(size, self._parts(batch)) for batch, size in passes]
        self.first_use = max(0.0, first - sum(timed[0][1].values()))
        return {entry: _line([(int(size[entry]), parts[entry]) for size, parts in timed]) for entry in timed[0][1]}

    def _parts(self, batch: Batch) -> dict[int, float]:
        """Median seconds of one pass by the entry of the size that they grow with."""
        results: list[dict[int, float]] = []
        spent = 0.0
        while len(results) < MOST_REPEATS and (not results or spent < ENOUGH_SECONDS):
            self._engine.profile()
            started = time.perf_counter()
            self._run(batch)
            seconds, profile = time.perf_counter() - started, self._engine.profile()
            parts = dict.fromkeys({TOKENS, *GROWTH.values()}, 0.0)
            for name, entry in GROWTH.items():
                parts[entry] += profile[name]
            parts[TOKENS] = seconds - sum(parts.values())
            results.append(parts)
            spent += seconds
        return {entry: statistics.median(result[entry] for result in results) for entry in results[0]}


def _extremes(sizes: SizeArray, batch_of: Callable[[int], Batch]) -> list[tuple[Batch, SizeArray]]:
    """The pass with most tokens, and the one with fewest where that has far fewer."""
    tokens = sizes[:, TOKENS]
    chosen = [int(tokens.argmax())]
    if tokens.min() <= DIFFERENT * tokens.max():
        chosen.append(int(tokens.argmin()))
    return [(batch_of(n), sizes[n]) for n in chosen]


def _line(points: Sequence[tuple[int, float]]) -> Line:
    """Through two points, or through one and the origin; it never falls, and begins at no less than 0."""
    (x, y), *others = points
    for x0, y0 in others:
        if x0 < DIFFERENT * x and 0 <= (y - y0) * x <= y * (x - x0):
            slope = (y - y0) / (x - x0)
            return Line(y - slope * x, slope)
    return Line(0.0, y / x if x else 0.0)


def _sum_seconds(lines: dict[int, Line], sizes: SizeArray) -> float:
    return sum(line.seconds(sizes, entry) for entry, line in lines.items())


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _checkpoint_seconds(engine: Engine, shape: AdapterShape) -> float:
    with tempfile.TemporaryDirectory(prefix="cpuft-plan-") as folder:
        return _seconds(lambda: checkpoint.save(Path(folder), engine, State(), {}, shape, limit=1))
