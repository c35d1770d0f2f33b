"""`cpuft data optimize-prompt`: a better prompt for a role, looked for and measured."""

import json
from pathlib import Path
from typing import Any

import click

from cpuft.backends.asked import Asked
from cpuft.cli.options.backend import backend_options
from cpuft.cli.options.metric import metric_option, with_metric
from cpuft.cli.options.output import json_option
from cpuft.cli.options.role import role_option
from cpuft.cli.options.search import search_of, search_options
from cpuft.cli.progress import Bars
from cpuft.machine.files import require_folder
from cpuft.roles import Role
from cpuft.synth.records import read_records, seed_records
from cpuft.synth.search import Search
from cpuft.workflow.prompt import CONTEXT, Parts, PromptReport, answers_of, divide, optimize_prompt

FILE = click.Path(path_type=Path)


@click.command("optimize-prompt")
@role_option
@backend_options()
@click.option("--trainset", type=FILE, help="Examples of the role, JSON lines; without: the role's own.")
@click.option("--testset", type=FILE, help="Examples to measure by that the search does not see; without: two fifths.")
@metric_option
@search_options
@click.option("--dry-run", is_flag=True, help="Say how many answers it would take, and stop.")
@click.option("--output", required=True, type=FILE, help="The folder for the program and its report.")
@json_option
def optimize(
    role: Role,
    model: Asked,
    trainset: Path | None,
    testset: Path | None,
    metric: str | None,
    dry_run: bool,
    output: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Look for the prompt and the examples with which a model answers best as a role.

    DSPy's MIPROv2 (or GEPA) proposes and tries; what it finds is measured on examples that it has not seen, beside the
    role's own prompt, and the better one stands in OUTPUT/program.json. Running it again goes on where it stopped.

    \b
    Examples:
      cpuft data optimize-prompt --role ba --model base.gguf --output prompts/ba
      cpuft data optimize-prompt --role ba --model base.gguf --trainset ba.jsonl --optimizer gepa --output prompts/ba
      cpuft data generate --role ba --model base.gguf --optimized-program prompts/ba --concepts concepts.jsonl …
    """
    search = search_of(options)
    records = seed_records(role) if trainset is None else read_records(trainset, role)
    held_out = [] if testset is None else read_records(testset, role)
    parts = divide(records, held_out, search.seed)
    if dry_run:
        click.echo(_estimate(parts, search, as_json))
        return
    require_folder(output, "the program")
    role = with_metric(role, metric, [*records, *held_out], all_known=True)
    with model.open(search.n_parallel, n_ctx=CONTEXT) as generator, Bars() as progress:
        report = optimize_prompt(role, generator, model.label, parts, search, output, progress=progress)
    click.echo(json.dumps(report.facts()) if as_json else _table(report, output))


def _estimate(parts: Parts, search: Search, as_json: bool) -> str:
    n_train, n_val, n_test = len(parts.train), len(parts.validation), len(parts.held_out)
    answers = answers_of(parts, search)
    if as_json:
        return json.dumps({"train": n_train, "validation": n_val, "held_out": n_test, "answers": answers})
    return f"about {answers} answers: {n_train} examples to show, {n_val} to try prompts on, {n_test} to measure by"


def _table(report: PromptReport, output: Path) -> str:
    said = {
        "found": "the new prompt is better",
        "examples": "the role's own prompt is better with the examples that were found",
        "before": "the prompt that was there before is better",
        "role": "nothing better than the role's own prompt was found, which is kept",
    }
    return "\n".join(
        [
            f"before  {report.before}",
            f"after   {report.after}   of {report.n_held_out} held-out examples, 95 % intervals",
            f"gain    {report.gain}",
            f"{output / 'program.json'}: {said[report.chosen]}",
        ]
    )
