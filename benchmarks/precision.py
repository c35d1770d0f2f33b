"""What rounding costs in training: losses and gradients of each precision beside float32's, seed by seed."""

import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.options import json_option, models_option, threads_option
from benchmarks.real_models import find_model
from benchmarks.report import Row, print_rows
from benchmarks.tasks import Task, Teacher, demo_task, mean_loss, real_task, teacher_task
from cpuft.data.batches import dropout_keys, passes, step_examples
from cpuft.engine import Engine
from cpuft.machine import cpu
from cpuft.train.schedule import learning_rate

PRECISIONS = ("f32", "bf16", "int8")
PARTS = ("demo", "teacher", "gradients", "real")
DEFAULT_PARTS = PARTS[:3]
WINDOW = 25  # steps whose mean loss is a point of a curve
EARLY = 100  # steps whose curve is compared point by point
WARM_UP = 10  # steps before gradients are compared: where B is zero, as in a fresh adapter, those of A are zero

DIFFERENCES = ("train_diff", "val_diff", "adapter_diff", "early_diff", "early_worst")
RUN_COLUMNS = ("task", "seed", "arm", "train_loss", "val_loss", *DIFFERENCES, "score")
SUMMARY_COLUMNS = ("task", "arm", "figure", "n_seeds", "mean", "error", "spread", "least", "most")
GRADIENT_COLUMNS = ("seed", "arm", "cosine_least", "cosine_median", "norm_diff", "loss_diff")


@dataclass(frozen=True)
class Arm:
    """A precision, by the kernels of an instruction set or by this CPU's own (None)."""

    precision: str
    isa: str | None = None

    def __str__(self) -> str:
        return self.precision if self.isa is None else f"{self.isa}:{self.precision}"


BASELINE = Arm("f32")
ARMS = (BASELINE, Arm("f32", "avx2"), Arm("bf16"), Arm("bf16", "avx512bf16"), Arm("int8"))


class ArmType(click.ParamType[Arm]):
    """[ISA:]PRECISION."""

    name = "[ISA:]PRECISION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Arm:
        """Reads an arm; fails where there is no such precision."""
        if isinstance(value, Arm):
            return value
        isa, _, precision = value.rpartition(":")
        if precision not in PRECISIONS:
            self.fail(f"{value!r}: expected {self.name} with one of {', '.join(PRECISIONS)}", param, ctx)
        return Arm(precision, isa or None)


@dataclass(frozen=True)
class Run:
    """What a training of one arm gave."""

    isa: str
    losses: list[float]  # of each step, the mean over its supervised tokens, nats
    validation: float  # at the end, nats a token
    adapter: float  # the same adapter's, computed in float32
    seconds: float
    score: float | None = None  # of its answers

    @property
    def curve(self) -> list[float]:
        """The mean loss of every WINDOW steps."""
        return [statistics.fmean(self.losses[i : i + WINDOW]) for i in range(0, len(self.losses), WINDOW)]


@click.command("precision")
@click.option(
    "--part",
    "parts",
    type=click.Choice(PARTS),
    multiple=True,
    default=DEFAULT_PARTS,
    show_default="all but real",
)
@click.option("--model", help="Of the part real: a real model's name or the path of its GGUF.")
@click.option(
    "--answers", type=click.IntRange(0), default=10, show_default=True, help="Of the part real, to be scored."
)
@click.option(
    "--arm",
    "arms",
    type=ArmType(),
    multiple=True,
    default=lambda: default_arms(),
    show_default=", ".join(map(str, ARMS)),
)
@click.option("--seed", "seeds", type=click.IntRange(0), multiple=True, default=range(5), show_default="0 to 4")
@click.option("--steps", type=click.IntRange(1), default=300, show_default=True, help="Of the optimizer.")
@click.option("--learning-rate", "rate", type=click.FloatRange(0.0), help="Instead of the task's own.")
@models_option
@threads_option
@json_option
def main(as_json: bool, parts: tuple[str, ...], **options: Any) -> None:
    """What rounding costs in training: losses and gradients of each precision beside float32's, seed by seed.

    demo trains the bundled model by the demo's configuration. teacher trains a fresh adapter, by the default
    configuration, to do what a random one does to a random Q4_K_M model. All arms of a seed have the same data in the
    same order, initial adapter and dropout; f32 always runs. gradients compares those of one step of the second task.
    real trains a real model, which --model names, on the demo's examples, and scores what it then answers.

    Losses are nats a token: train_loss of the last 25 steps, val_loss at the end. Differences are percent of float32's:
    adapter_diff of the validation in float32 of what each arm learned, early_diff of the mean of the first 100 steps,
    early_worst of the point of 25 steps among them that is farthest off. Then, over the seeds: the mean, its standard
    error, and the spread (standard deviation).

    Trainings that differ in one rounding drift apart. So a mean says something where it exceeds its error, and a spread
    where it exceeds that of avx2:f32, which is float32 with its sums in another order.

    \b
    Examples:
      cpuft bench precision --json
      cpuft bench precision --part demo --arm avx2:f32 --arm int8 --seed 0 --seed 1
      cpuft bench precision --part gradients --arm bf16 --arm int8
      cpuft bench precision --part real --model qwen2.5-coder-0.5b-instruct-q4_k_m --steps 100 --seed 0 --arm int8
    """
    for part in parts:
        report(part, as_json=as_json, **options)


def report(
    part: str,
    *,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    steps: int,
    rate: float | None,
    model: str | None,
    answers: int,
    models: Path,
    threads: int,
    as_json: bool,
) -> None:
    """Prints the rows of a part as they come, and what those of a training come to."""
    task = _task(part, model, answers, models, threads)
    if rate is not None:
        task = replace(task, config=replace(task.config, training=replace(task.config.training, learning_rate=rate)))
    others = [arm for arm in arms if arm != BASELINE]
    if part == "gradients":
        print_rows("precision gradients", compare_gradients(task, others, seeds, threads), GRADIENT_COLUMNS, as_json)
        return
    rows: list[Row] = []
    print_rows("precision", _kept(rows, compare(part, task, others, seeds, steps, threads)), RUN_COLUMNS, as_json)
    print_rows("precision summary", summaries(rows), SUMMARY_COLUMNS, as_json)


def _task(part: str, model: str | None, answers: int, models: Path, threads: int) -> Task:
    if part == "demo":
        return demo_task()
    if part != "real":
        return teacher_task(models, Teacher(), threads)
    if model is None:
        raise click.UsageError("the part real needs --model")
    return real_task(find_model(model), answers)


def default_arms() -> list[Arm]:
    """Those of ARMS that this CPU runs."""
    features = cpu.cpu_features()
    with_bytes = bool(features & {"avx_vnni", "avx512_vnni"})
    return [
        arm
        for arm in ARMS
        if (arm.isa is None or cpu.ENGINE_ISAS[arm.isa] <= features) and (arm.precision != "int8" or with_bytes)
    ]


def compare(
    name: str, task: Task, arms: Sequence[Arm], seeds: Sequence[int], steps: int, threads: int
) -> Iterator[Row]:
    """A row for each training: for each seed float32's, then those of the arms."""
    for seed in seeds:
        baseline = train(task, BASELINE, seed, steps, threads)
        yield row(name, task, seed, BASELINE, baseline, baseline)
        for arm in arms:
            yield row(name, task, seed, arm, train(task, arm, seed, steps, threads), baseline)


def row(name: str, task: Task, seed: int, arm: Arm, run: Run, baseline: Run) -> Row:
    """One training's figures, beside those of float32's with the same seed."""
    final, wanted = (statistics.fmean(side.losses[-WINDOW:]) for side in (run, baseline))
    early, wanted_early = (statistics.fmean(side.losses[:EARLY]) for side in (run, baseline))
    points = [_percent(*pair) for pair in zip(run.curve, baseline.curve, strict=True)][: EARLY // WINDOW]
    return {
        "task": name,
        "seed": seed,
        "arm": str(arm),
        "isa": run.isa,
        "steps": len(run.losses),
        "learning_rate": task.config.training.learning_rate,
        "train_loss": round(final, 5),
        "train_diff": _percent(final, wanted),
        "val_loss": round(run.validation, 5),
        "val_diff": _percent(run.validation, baseline.validation),
        "adapter_diff": _percent(run.adapter, baseline.adapter),
        "early_diff": _percent(early, wanted_early),
        "early_worst": max(points, key=abs),
        "floor": None if task.floor is None else round(task.floor, 5),
        "score": None if run.score is None else round(run.score, 4),
        "curve": [round(point, 5) for point in run.curve],
        "seconds": round(run.seconds, 1),
    }


def train(task: Task, arm: Arm, seed: int, steps: int, threads: int) -> Run:
    """Trains as `cpuft train` does, for this many steps, and validates at the end."""
    config, losses, started = task.config.training, [], time.monotonic()
    with _opened(task, arm, seed, threads) as engine:
        for step in range(1, steps + 1):
            losses.append(_forward_backward(engine, task, seed, step))
            _step(engine, task, step, steps)
        validation = mean_loss(engine, task.validation, config.tokens_per_pass)
        isa, parameters = engine.facts["isa"], engine.parameters.copy()
    seconds = time.monotonic() - started
    with _opened(task, BASELINE, seed, threads) as engine:
        engine.parameters[:] = parameters
        learned = mean_loss(engine, task.validation, config.tokens_per_pass)
        return Run(isa, losses, validation, learned, seconds, None if task.score is None else task.score(engine))


def summaries(rows: Sequence[Row]) -> Iterator[Row]:
    """Each arm's differences over the seeds, in percent; error and spread are None for a single seed."""
    for arm in dict.fromkeys(row["arm"] for row in rows if row["arm"] != str(BASELINE)):
        for figure in DIFFERENCES:
            values = [row[figure] for row in rows if row["arm"] == arm]
            spread = statistics.stdev(values) if len(values) > 1 else None
            yield {
                "task": rows[0]["task"],
                "arm": arm,
                "figure": figure,
                "n_seeds": len(values),
                "mean": round(statistics.fmean(values), 3),
                "error": None if spread is None else round(spread / len(values) ** 0.5, 3),
                "spread": None if spread is None else round(spread, 3),
                "least": min(values),
                "most": max(values),
            }


def compare_gradients(task: Task, arms: Sequence[Arm], seeds: Sequence[int], threads: int) -> Iterator[Row]:
    """A row for each seed and arm: its gradient, tensor by tensor, beside float32's at the same parameters.

    The parameters are those after WARM_UP steps in float32. norm_diff is that of the whole gradient's norm, percent.
    """
    for seed in seeds:
        with _opened(task, BASELINE, seed, threads) as engine:
            for step in range(1, WARM_UP + 1):
                _forward_backward(engine, task, seed, step)
                _step(engine, task, step, WARM_UP)
            parameters = engine.parameters.copy()
            wanted_loss = _forward_backward(engine, task, seed, WARM_UP + 1)
            wanted, tensors = engine.gradients.copy(), engine.adapter_tensors
        for arm in arms:
            with _opened(task, arm, seed, threads) as engine:
                engine.parameters[:] = parameters
                loss = _forward_backward(engine, task, seed, WARM_UP + 1)
                got = engine.gradients.copy()
            cosines = [_cosine(tensor.view(got), tensor.view(wanted)) for tensor in tensors]
            yield {
                "seed": seed,
                "arm": str(arm),
                "n_tensors": len(tensors),
                "cosine_least": round(min(cosines), 6),
                "cosine_median": round(statistics.median(cosines), 6),
                "worst_tensor": tensors[int(np.argmin(cosines))].name,
                "norm_diff": _percent(float(np.linalg.norm(got)), float(np.linalg.norm(wanted))),
                "loss_diff": _percent(loss, wanted_loss),
            }


def _opened(task: Task, arm: Arm, seed: int, threads: int) -> Engine:
    """An engine with a fresh adapter. The caller closes it."""
    lora = task.config.lora
    engine = Engine(task.model, threads=threads, isa=arm.isa, precision=arm.precision)
    engine.adapter_init(
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        targets=lora.targets_in(engine.facts["targets"]),
        seed=seed,
    )
    return engine


def _forward_backward(engine: Engine, task: Task, seed: int, step: int) -> float:
    """The mean loss of a step's examples, whose gradient is added."""
    config, examples = task.config.training, task.training
    epoch, indices = step_examples(len(examples), config.examples_per_step, seed, step)
    keys = dropout_keys(seed, epoch, indices) if task.config.lora.dropout > 0 else None
    sums, counts = zip(
        *map(engine.forward_backward, passes(examples, indices, config.tokens_per_pass, keys)), strict=True
    )
    return float(sum(sums) / sum(counts))


def _step(engine: Engine, task: Task, step: int, n_steps: int) -> None:
    config = task.config.training
    engine.step(
        step=step,
        learning_rate=learning_rate(step, n_steps, config),
        beta1=config.adam_beta1,
        beta2=config.adam_beta2,
        epsilon=config.adam_epsilon,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
    )


def _percent(value: float, wanted: float) -> float:
    """How far a value is above the one that it should be."""
    return round(100.0 * (value - wanted) / wanted, 4) + 0.0  # no -0


def _cosine(got: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> float:
    a, b = got.astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _kept(into: list[Row], rows: Iterable[Row]) -> Iterator[Row]:
    """The rows as they come, each put into a list too."""
    for row in rows:
        into.append(row)
        yield row


if __name__ == "__main__":
    from cpuft.cli.main import cli

    cli(["bench", "precision", *sys.argv[1:]], prog_name="cpuft")
