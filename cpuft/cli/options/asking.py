"""The options that say what the models of an evaluation are asked, and how."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cpuft.backends.generator import PARALLEL, Sampling
from cpuft.backends.llama_server import CONTEXT
from cpuft.cli.options.metric import metric_option, with_metric
from cpuft.cli.options.role import role_option
from cpuft.evaluate.answers import Asking
from cpuft.evaluate.cases import cases_of
from cpuft.evaluate.speed import QUESTIONS
from cpuft.roles import Role
from cpuft.synth.records import RoleRecord

Command = Callable[..., Any]
FILE = click.Path(path_type=Path)
_OPTIONS: tuple[Callable[[Command], Command], ...] = (
    click.option("--data", required=True, type=FILE, help="Test set, JSON lines: conversations, or a role's examples."),
    role_option,
    metric_option,
    click.option("--limit", type=click.IntRange(1), help="Only the first so many examples."),
    click.option("--temperature", type=click.FloatRange(0, 2), default=Sampling.temperature, show_default=True),
    click.option("--seed", type=click.IntRange(0), default=Sampling.seed, show_default=True),
    click.option(
        "--seeds", type=click.IntRange(1, 100), default=1, show_default=True, help="Answers to each question."
    ),
    click.option("--max-tokens", type=click.IntRange(1), default=Sampling.max_tokens, show_default=True),
    click.option("--constrained", is_flag=True, help="Hold models to the role's schema."),
    click.option("--parallel", type=click.IntRange(1, 64), default=PARALLEL, show_default=True, help="In flight."),
    click.option("--context", type=click.IntRange(64), default=CONTEXT, show_default=True, help="Tokens of each."),
    click.option("--threads", type=click.IntRange(0), default=0, show_default=True, help="0: llama.cpp's choice."),
)

speed_option = click.option(
    "--speed-questions",
    "n_speed",
    type=click.IntRange(0),
    default=QUESTIONS,
    show_default=True,
    help="By which speed and memory are measured, one at a time; 0: they are not.",
)


@dataclass(frozen=True)
class Questions:
    """What the options say: how models are asked, where the questions are from, and whose metric it is."""

    asking: Asking
    data: Path
    metric: str | None


def asking_options(command: Command) -> Command:
    """The options; the command gets `questions: Questions`."""

    @functools.wraps(command)
    def run(*args: Any, role: Role, metric: str | None, data: Path, **options: Any) -> Any:
        cases = cases_of(data, role, options.pop("limit"))
        records = [RoleRecord(case.inputs, case.reference) for case in cases]
        sampling = Sampling(**{name: options.pop(name) for name in ("temperature", "seed", "max_tokens")})
        asking = Asking(
            role=with_metric(role, metric, records, all_known=True),
            cases=cases,
            sampling=sampling,
            constrained=options.pop("constrained"),
            n_seeds=options.pop("seeds"),
            n_parallel=options.pop("parallel"),
            n_ctx=options.pop("context"),
            threads=options.pop("threads"),
        )
        asking.require()
        return command(*args, questions=Questions(asking, data, metric), **options)

    wrapped: Command = run
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
