"""`cpuft eval forgetting`: what was lost beside what was gained."""

import json
from pathlib import Path
from typing import Any

import click

from cpuft.backends.asked import GgufFile
from cpuft.backends.generator import PARALLEL
from cpuft.cli.options.adapter import FORMS as ADAPTERS
from cpuft.cli.options.adapter import gguf_adapter
from cpuft.cli.options.model import find_model
from cpuft.cli.options.output import json_option
from cpuft.cli.progress import Bars
from cpuft.errors import ConfigError
from cpuft.evaluate.contender import Contender
from cpuft.evaluate.forgetting import Forgetting, measure_forgetting
from cpuft.evaluate.general_questions import QUESTIONS, QuestionChange, read_questions
from cpuft.evaluate.neutral_text import NEUTRAL, TextChange, read_passages
from cpuft.machine.files import require_place
from cpuft.machine.terminal import printable
from cpuft.sources.source import FORMS

FILE = click.Path(path_type=Path)


@click.command()
@click.option("--base", required=True, metavar="MODEL", help=f"The model before tuning: {FORMS}.")
@click.option(
    "--tuned", metavar="MODEL", help="The model after it, in the same forms; without: the base with --adapter."
)
@click.option("--adapter", type=FILE, help=f"The LoRA adapter on top of --tuned, or of the base: {ADAPTERS}.")
@click.option("--text", type=FILE, default=NEUTRAL, help="Passages of neutral text, instead of cpuft's own.")
@click.option("--questions", type=FILE, default=QUESTIONS, help="General questions as YAML, instead of cpuft's own.")
@click.option("--parallel", type=click.IntRange(1, 64), default=PARALLEL, show_default=True, help="Requests in flight.")
@click.option("--threads", type=click.IntRange(0), default=0, show_default=True, help="0: every CPU.")
@click.option("--output", type=FILE, help="Write the figures and all answers to this file, as JSON.")
@json_option
def forgetting(base: str, tuned: str | None, as_json: bool, **options: Any) -> None:
    """Say what a tuned model lost: perplexity on text that has nothing to do with its task, and general questions.

    Both are measured of base and tuned model, paired, with 95 % intervals. Exits with 0 whatever was lost: `cpuft eval
    gate` decides.

    \b
    Examples:
      cpuft eval forgetting --base base.gguf --adapter RUN/adapter.gguf --output forgetting.json
      cpuft eval forgetting --base ollama:qwen2.5:3b-instruct --tuned ollama:qwen25-ba-finetuned:v1
    """
    output, adapter, text = (options[name] for name in ("output", "adapter", "text"))
    if tuned is None and adapter is None:
        raise ConfigError("--tuned or --adapter is missing: give the model that was tuned, or its adapter")
    passages, questions = read_passages(text), read_questions(options["questions"])
    first, second = (find_model(name) for name in (base, tuned or base))
    if output is not None:
        require_place(output, "the result", [first, second, text, options["questions"]])
    with gguf_adapter(adapter, second, output) as file, Bars() as progress:
        one = Contender(name=base, asked=GgufFile(name=first.name, path=first))
        two = Contender(name=tuned or f"{base} + adapter", asked=GgufFile(name=second.name, path=second), adapter=file)
        how = {"n_parallel": options["parallel"], "threads": options["threads"], "progress": progress}
        found = measure_forgetting(one, two, passages, questions, **how)
        result = found.result(text, options["parallel"])
    if output is not None:
        result.write(output)
    click.echo(json.dumps(result.sections["forgetting"], indent=1) if as_json else printable(forgetting_table(found)))


def forgetting_table(found: Forgetting) -> str:
    """The figures for people."""
    return "\n".join([*_text_lines(found.text), "", *_question_lines(found.questions)])


def _text_lines(text: TextChange) -> list[str]:
    facts = text.facts()
    growth = facts["perplexity_growth"]
    interval = f"{growth['value']:+.1%} [{growth['low']:+.1%}, {growth['high']:+.1%}]"
    return [
        f"neutral text, {facts['n_passages']} passages, {facts['n_tokens']:,} tokens",
        f"  perplexity  {facts['base']:.3f} -> {facts['tuned']:.3f}  {interval}",
    ]


def _question_lines(questions: QuestionChange) -> list[str]:
    facts, change = questions.facts(), questions.change.mean
    width = max(map(len, ("answered right", *facts["kinds"])))
    lines = [f"general questions, {facts['n_questions']}"]
    lines += [
        f"  {kind:<{width}}  {one['base']:>4.0%} -> {one['tuned']:>4.0%} of {one['n']}"
        for kind, one in facts["kinds"].items()
    ]
    lines.append(
        f"  {'answered right':<{width}}  {facts['base']['value']:>4.0%} -> {facts['tuned']['value']:>4.0%}  "
        f"{change.value:+.1%} [{change.low:+.1%}, {change.high:+.1%}], McNemar's p = {facts['mcnemar_p']:.3g}"
    )
    for name in ("lost", "gained"):
        if facts[name]:
            lines.append(f"  {name}: {', '.join(facts[name])}")
    return lines
