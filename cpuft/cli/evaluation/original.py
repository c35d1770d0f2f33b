"""`cpuft eval original`: a model on examples that no model wrote."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cpuft.backends.asked import Asked
from cpuft.cli.options.adapter import adapter_option
from cpuft.cli.options.asking import Questions, asking_options
from cpuft.cli.options.backend import backend_options
from cpuft.cli.options.output import json_option
from cpuft.cli.progress import Bars
from cpuft.errors import VERDICT, DatasetError
from cpuft.evaluate.answers import answer_all
from cpuft.evaluate.contender import Contender
from cpuft.evaluate.generalization import GO, MIN_SCORE, Generalization, generalization, unseen
from cpuft.evaluate.result import MADE_BY, Result, made_by, model_entry
from cpuft.machine.files import require_place
from cpuft.machine.terminal import printable

FILE = click.Path(path_type=Path)


@click.command("original")
@backend_options("The model")
@adapter_option("A LoRA adapter to apply on top of it", required=False)
@asking_options
@click.option(
    "--trained-on", multiple=True, type=FILE, help="Training data: examples that are in it, or nearly, do not count."
)
@click.option(
    "--min-score", type=click.FloatRange(0, 1), default=MIN_SCORE, show_default=True, help="What must be reached."
)
@click.option("--output", type=FILE, help="Write the figures and all answers to this file, as JSON.")
@json_option
@click.pass_context
def original(
    ctx: click.Context, /, model: Asked, adapter: Path | None, questions: Questions, as_json: bool, **options: Any
) -> None:
    """Say what a model is worth on examples that no model wrote: whether it has learned the task, or its training set.

    The verdict is by the interval (95 %): go where all of it reaches --min-score, no-go (exit code 3) where none of it
    does, and else: not enough examples to tell (3, too).

    \b
    Examples:
      cpuft eval original --model tuned.gguf --data originals.jsonl --trained-on train.jsonl
      cpuft eval original --model base.gguf --adapter RUN/adapter.gguf --data originals.jsonl --json
    """
    asking, output = questions.asking, options["output"]
    if output is not None:
        require_place(output, "the result", [questions.data, *options["trained_on"], *filter(None, [model.path])])
    fresh, seen = unseen(asking.cases, options["trained_on"], asking.role)
    if not fresh:
        raise DatasetError(
            f"{questions.data}: all {len(seen)} examples are in the training data, so none tells anything"
        )
    asking = replace(asking, cases=fresh)
    contender = Contender(name=str(model.path or model.label), asked=model, adapter=adapter)
    with Bars() as progress:
        answered = answer_all(contender, asking, progress)
    found = generalization(answered, seen, options["min_score"])
    if output is not None:
        made = made_by(asking, questions.data, metric=questions.metric)
        entry = model_entry(contender, asking, answered)
        Result({contender.name: entry}, {"original": found.facts(), MADE_BY: made}).write(output)
    click.echo(json.dumps(found.facts()) if as_json else printable(_text(found)))
    if found.verdict != GO:
        ctx.exit(VERDICT)


def _text(found: Generalization) -> str:
    lines = [
        f"score {found.score} of {found.n_examples} examples, at least {found.bound:.2f} is wanted: {found.verdict}"
    ]
    if found.seen:
        shown = "".join(f"\n  {' '.join(text.split())[:90]}" for text in found.seen[:5])
        lines.append(f"{len(found.seen)} more are in the training data, or nearly, and did not count:{shown}")
    return "\n".join(lines)
