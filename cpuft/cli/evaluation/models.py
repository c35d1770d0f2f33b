"""`cpuft eval models`: several models side by side."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cpuft.backends.asked import GgufFile
from cpuft.cli.options.asking import Questions, asking_options, speed_option
from cpuft.cli.options.model import find_model
from cpuft.cli.options.output import json_option
from cpuft.cli.progress import Bars
from cpuft.errors import ConfigError, ModelError, UserError, list_faults
from cpuft.evaluate.contender import Contender
from cpuft.evaluate.lineup import Lineup, short_name
from cpuft.evaluate.report import write_report
from cpuft.evaluate.result import MADE_BY, Result, made_by
from cpuft.evaluate.selection import Selection, Thresholds, read_thresholds, select
from cpuft.machine.disk import disk_errors
from cpuft.machine.files import require_place
from cpuft.machine.terminal import printable
from cpuft.roles import Role
from cpuft.sources.source import FORMS, HUB, OLLAMA
from cpuft.synth.program import Program, read_program
from cpuft.workflow.prompt import CONTEXT, PROGRAM

FILE = click.Path(path_type=Path)


@click.command("models")
@click.option("--model", "references", required=True, multiple=True, metavar="MODEL", help=f"Several times: {FORMS}.")
@asking_options
@click.option("--as-written", is_flag=True, help="Ask in the test set's own words: conversations, of tuned models.")
@click.option("--optimized-program", "program", type=FILE, help="Ask by a program of `cpuft data optimize-prompt`.")
@speed_option
@click.option("--thresholds", type=FILE, help="Bounds for the report, as in configs/selection.yaml.")
@click.option("--output", type=FILE, help="Write the figures and every answer to this file, as JSON.")
@click.option("--report", type=FILE, help="Write a report to this file, as Markdown, with pictures beside it.")
@json_option
def models(references: tuple[str, ...], questions: Questions, as_json: bool, **options: Any) -> None:
    """Let several models answer a test set, one model after another, and measure quality, speed and memory.

    They are asked by the role's long prompt, since they are not tuned for it. Speed and memory are measured apart from
    quality, one request at a time. A model that fails does not stop the others. Answers are kept: running it again goes
    on where it was.

    \b
    Examples:
      cpuft eval models --model small.gguf --model ollama:qwen2.5:3b-instruct --data test.jsonl --output result.json
      cpuft eval models --model a.gguf --model b.gguf --role architect --data test.jsonl --limit 10 --report choice.md
    """
    thresholds = Thresholds() if options["thresholds"] is None else read_thresholds(options["thresholds"])
    _require_places(options["output"], options["report"], questions.data)
    result = _measured(references, questions, options)
    if options["output"] is not None:
        result.write(options["output"])
    selection = select(result.models, thresholds)
    if options["report"] is not None:
        write_report(options["report"], result.models, result.sections[MADE_BY], selection)
    click.echo(json.dumps(_without_answers(result), indent=2) if as_json else printable(_table(result, selection)))


def _measured(references: Sequence[str], questions: Questions, options: dict[str, Any]) -> Result:
    """The result of measuring the models. Raises ModelError where none could be."""
    asking = questions.asking
    program = _program(asking.role, options["program"], options["as_written"])
    if program is not None and program.demos:
        asking = replace(asking, n_ctx=max(asking.n_ctx, CONTEXT))
    found, failed = _found(references, program)
    with Bars() as progress:
        lineup = Lineup(asking=asking, n_speed=options["n_speed"], progress=progress)
        measured = lineup.measure([contender for _, contender in found])
    failed |= measured.failed
    if not measured.entries:
        raise ModelError(f"no model could be measured: {list_faults(list(failed.values()))}")
    for name, why in failed.items():
        click.echo(printable(f"Note: {name} was not measured: {why}"), err=True)
    how = made_by(asking, questions.data, metric=questions.metric)
    how |= {"asked_by": _asked_by(program), "n_speed": options["n_speed"], "failed": failed}
    entries = {c.name: {"reference": ref, **measured.entries[c.name]} for ref, c in found if c.name in measured.entries}
    return Result(entries, {MADE_BY: how})


def _found(references: Sequence[str], program: Program | None) -> tuple[list[tuple[str, Contender]], dict[str, str]]:
    """The models that are there, each with what finds it again, and why others are not.

    Raises ConfigError where two have one name.
    """
    found: list[tuple[str, Contender]] = []
    failed: dict[str, str] = {}
    for reference in references:
        name = short_name(reference)
        if name in failed or name in [contender.name for _, contender in found]:
            raise ConfigError(f"--model {reference}: given twice, expected each model once: leave one out")
        try:
            path = find_model(reference)
        except UserError as error:
            failed[name] = str(error)
            continue
        again = reference if reference.startswith((OLLAMA, HUB)) else str(Path(reference).absolute())
        found.append((again, Contender(name=name, asked=GgufFile(name=path.name, path=path), program=program)))
    return found, failed


def _program(role: Role, path: Path | None, as_written: bool) -> Program | None:
    """How the models are asked; None: as the test set is written."""
    if path is None:
        return None if as_written else Program(role.prompt)
    if as_written:
        raise ConfigError("--as-written asks in the test set's words, --optimized-program in others: give one of them")
    return read_program(path / PROGRAM if path.is_dir() else path, role)


def _asked_by(program: Program | None) -> str:
    if program is None:
        return "the test set's own words"
    return f"a prompt with {len(program.demos)} examples ({program.digest})"


def _require_places(output: Path | None, report: Path | None, data: Path) -> None:
    """Raises ConfigError unless both files can be written; their folders are made."""
    for path, what in ((output, "the result"), (report, "the report")):
        if path is not None:
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            require_place(path, what, [data])
    if output is not None and report is not None and output.absolute().resolve() == report.absolute().resolve():
        raise ConfigError(f"{output}: --output and --report are one file: give two names")


def _without_answers(result: Result) -> dict[str, Any]:
    """A result for the terminal: the answers are what --output is for."""
    models = {
        name: {key: value for key, value in entry.items() if key != "answers"} for name, entry in result.models.items()
    }
    return {**models, **result.sections}


def _table(result: Result, selection: Selection) -> str:
    """One line a model, and which would be chosen."""
    width = max(len(name) for name in result.models)
    head = (
        f"{'MODEL':<{width}}  {'SCORE':<22}  {'YAML':>5}  {'COMPLETE':>8}  {'IDS':>5}  {'TOKENS/S':>8}  {'MEMORY':>9}"
    )
    lines = [head]
    for name, entry in result.models.items():
        score = f"{entry['avg_score']:.3f} [{entry['interval']['low']:.3f}, {entry['interval']['high']:.3f}]"
        shares = [_cell(entry[key], "{:.0%}") for key in ("yaml_valid", "completeness", "id_compliance")]
        speed, memory = _cell(entry["tokens_per_sec"], "{:.1f}"), _cell(entry["ram_usage_mb"], "{:.0f} MB")
        lines.append(
            f"{name:<{width}}  {score:<22}  {shares[0]:>5}  {shares[1]:>8}  {shares[2]:>5}  {speed:>8}  {memory:>9}"
        )
    n_parallel = result.sections[MADE_BY]["n_parallel"]
    return "\n".join(
        [
            *lines,
            "",
            f"Quality: {n_parallel} requests in flight. Tokens/s and memory: one request at a time.",
            str(selection),
        ]
    )


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
