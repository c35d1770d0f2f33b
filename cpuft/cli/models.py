"""`cpuft models`: what models there are, what they are, and how to get them."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cpuft.cli.options.output import json_option, megabytes, print_facts
from cpuft.cli.progress import Bars
from cpuft.config.edit import set_key
from cpuft.errors import VERDICT, UserError
from cpuft.evaluate.selection import Thresholds, read_thresholds, reference_of, select
from cpuft.machine.terminal import printable
from cpuft.sources.candidates import Candidate, for_role, read_candidates
from cpuft.sources.catalog import local_sources
from cpuft.sources.description import describe_source, summarize_source
from cpuft.sources.pull import is_here, pull
from cpuft.sources.source import FORMS, resolve

FILE = click.Path(path_type=Path)
VARIABLE = "LOCAL_BASE_MODEL"


@click.group()
def models() -> None:
    """Find, fetch and inspect models."""


@models.command("show")
@click.argument("model")
@json_option
def show_model(model: str, as_json: bool) -> None:
    """Print what a model is: architecture, sizes, types, chat template, licence, and whether cpuft can train it.

    \b
    Examples:
      cpuft models show model.gguf
      cpuft models show ollama:qwen2.5:3b-instruct
      cpuft models show hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q4_k_m.gguf
    """
    with Bars() as bars:
        source = resolve(model, bars)
    print_facts(describe_source(source), as_json)


@models.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List the models on this machine: in Ollama's store, in the Hugging Face cache, and those that cpuft made.

    The last are those below artifacts/ and converted checkpoints.

    \b
    Example:
      cpuft models list
    """
    sources, summaries = list(local_sources()), []
    with Bars() as progress:
        for source in sources:
            summaries.append(summarize_source(source))
            progress("reading", len(summaries), len(sources), "model")
    click.echo(json.dumps(summaries, indent=2, ensure_ascii=False) if as_json else printable(_table(summaries)))


@models.command("pull")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--candidates", type=FILE, help="Also pull the models of this list, such as configs/candidates.yaml.")
@click.option("--role", help="Of the list, only the candidates for this role: ba, po, architect, dev or qa.")
@click.option("--dry-run", is_flag=True, help="Say what would be fetched, and stop.")
@json_option
def pull_models(
    models: tuple[str, ...], candidates: Path | None, role: str | None, dry_run: bool, as_json: bool
) -> None:
    """Fetch models: `ollama:` through the Ollama that runs at OLLAMA_HOST, `hf:` into the Hugging Face cache.

    One that fails does not keep the others from being fetched. A download that was broken off, by the network or
    because the command was ended, goes on where it stopped when the command runs again.

    \b
    Examples:
      cpuft models pull ollama:qwen2.5:3b-instruct
      cpuft models pull hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q4_k_m.gguf
      cpuft models pull --candidates configs/candidates.yaml --role dev --dry-run
    """
    if role is not None and candidates is None:
        raise click.UsageError("--role chooses from a list: give --candidates FILE, such as configs/candidates.yaml")
    listed = read_candidates(candidates) if candidates else []
    if role is not None:
        listed = for_role(listed, role)
    wanted: dict[str, Candidate | None] = dict.fromkeys(models) | {candidate.model: candidate for candidate in listed}
    if not wanted:
        raise click.UsageError("nothing to pull: give a model such as ollama:qwen2.5:3b-instruct, or --candidates FILE")
    plan = [_planned(reference, candidate) for reference, candidate in wanted.items()]
    if dry_run:
        click.echo(json.dumps(plan, indent=2, ensure_ascii=False) if as_json else _plan_table(plan))
        return
    if listed:
        click.echo(_total(plan), err=True)
    results = [_pull(reference, candidate) for reference, candidate in wanted.items()]
    if as_json:
        click.echo(json.dumps(results, indent=2, ensure_ascii=False))
    if any(result["error"] for result in results):
        sys.exit(UserError.exit_code)


@models.command("select")
@click.argument("result", type=FILE)
@click.option(
    "--thresholds", type=FILE, help="Bounds of your own, such as configs/selection.yaml, which explains them."
)
@click.option(
    "--config",
    type=FILE,
    default=Path("config.yaml"),
    show_default=True,
    help=f"The file that gets the model as {VARIABLE}; all else in it stays.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be chosen, and write nothing.")
@json_option
def select_model(result: Path, thresholds: Path | None, config: Path, dry_run: bool, as_json: bool) -> None:
    """Choose a base model by a result of `cpuft eval models`: the best score among those within all bounds.

    Exits with 3 where no model qualifies, and writes nothing then.

    \b
    Examples:
      cpuft models select artifacts/benchmarks/local_models_baseline.json
      cpuft models select result.json --thresholds configs/selection.yaml --config config.yaml
    """
    from cpuft.evaluate.result import read_result  # not at the top: what it needs takes a second to load

    entries = read_result(result).models
    selection = select(entries, Thresholds() if thresholds is None else read_thresholds(thresholds))
    chosen = None if selection.winner is None else reference_of(entries, selection.winner)
    line = None if chosen is None else f"export {VARIABLE}={shlex.quote(chosen)}"
    if chosen is not None and not dry_run:
        set_key(config, VARIABLE, chosen)
    facts = {**selection.facts(), "reference": chosen, "export": line, "config": None if dry_run else str(config)}
    said = "\n".join(filter(None, [str(selection), line]))
    click.echo(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else printable(said))
    if chosen is None:
        sys.exit(VERDICT)


def _planned(reference: str, candidate: Candidate | None) -> dict[str, Any]:
    """What is known of a model before it is fetched, ready for JSON."""
    known = None if candidate is None else asdict(candidate)
    facts = {key: known and known[key] for key in ("download_gb", "ram_gb", "licence")}
    return {"reference": reference, "here": is_here(reference), **facts}


def _plan_table(plan: Sequence[dict[str, Any]]) -> str:
    """One line a model, and how much all of them are."""
    width = max(len(entry["reference"]) for entry in plan)
    lines = [f"{'MODEL':<{width}}  {'DOWNLOAD':>9}  {'MEMORY':>7}  LICENCE"]
    for entry in plan:
        size = "here" if entry["here"] else f"{entry['download_gb'] or '?'} GB"
        lines.append(
            f"{entry['reference']:<{width}}  {size:>9}  {entry['ram_gb'] or '?':>4} GB  {entry['licence'] or '?'}"
        )
    return "\n".join([*lines, _total(plan)])


def _total(plan: Sequence[dict[str, Any]]) -> str:
    missing = [entry for entry in plan if not entry["here"]]
    size = sum(entry["download_gb"] or 0 for entry in missing)
    return f"{len(missing)} of {len(plan)} models are not here yet: {size:.1f} GB to fetch"


def _pull(reference: str, candidate: Candidate | None) -> dict[str, Any]:
    """Fetches one model and says so on stderr."""
    try:
        with Bars() as bars:
            source = pull(reference, bars, candidate.alias if candidate else "")
    except UserError as error:
        click.echo(f"Error: {error}", err=True)
        return {"reference": reference, "path": None, "error": str(error)}
    click.echo(f"{reference}: {source.path} ({megabytes(source.path.stat().st_size)})", err=True)
    return {"reference": reference, "path": str(source.path), "error": None}


def _table(summaries: Sequence[dict[str, Any]]) -> str:
    """One line a model, and below it why it cannot be trained."""
    if not summaries:
        return f"No models yet. A model is {FORMS}; `cpuft models pull --help` says how to fetch one."
    width = max(len(summary["reference"]) for summary in summaries)
    lines = [f"{'MODEL':<{width}}  {'ARCHITECTURE':<12}  {'SIZE':>10}  {'TYPE':<8}  TRAINABLE"]
    for summary in summaries:
        size = "-" if summary["file_bytes"] is None else megabytes(summary["file_bytes"])
        trainable = {True: "yes", False: "no", None: "?"}[summary["trainable"]]
        lines.append(
            f"{summary['reference']:<{width}}  {summary['architecture'] or '-':<12}  {size:>10}  "
            f"{summary['file_type'] or '-':<8}  {trainable}"
        )
        if summary["why_not"]:
            lines.append(f"  {summary['why_not']}")
    return "\n".join(lines)
