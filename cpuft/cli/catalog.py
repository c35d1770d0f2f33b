"""`cpuft models`: what models there are, what they are, and how to get them."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from cpuft.cli.facts import json_option, megabytes, print_facts, printable
from cpuft.cli.model_reference import Bars
from cpuft.errors import UserError
from cpuft.models.candidates import read_candidates
from cpuft.models.catalog import local_sources
from cpuft.models.describe import describe_source, summarize_source
from cpuft.models.pull import pull
from cpuft.models.source import FORMS, resolve

FILE = click.Path(path_type=Path)


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
        source = resolve(model, bars.show)
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
    sources = tqdm(list(local_sources()), desc="reading", leave=False, disable=None, delay=1)
    summaries = [summarize_source(source) for source in sources]
    click.echo(json.dumps(summaries, indent=2, ensure_ascii=False) if as_json else printable(_table(summaries)))


@models.command("pull")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--candidates", type=FILE, help="Also pull every model of this list, such as configs/candidates.yaml.")
@json_option
def pull_models(models: tuple[str, ...], candidates: Path | None, as_json: bool) -> None:
    """Fetch models: `ollama:` through the Ollama that runs at OLLAMA_HOST, `hf:` into the Hugging Face cache.

    One that fails does not keep the others from being fetched. A dropped connection is taken up where it broke off;
    Ollama also goes on after the command was ended.

    \b
    Examples:
      cpuft models pull ollama:qwen2.5:3b-instruct
      cpuft models pull hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q4_k_m.gguf
      cpuft models pull --candidates configs/candidates.yaml
    """
    listed = [candidate.model for candidate in read_candidates(candidates)] if candidates else []
    references = list(dict.fromkeys([*models, *listed]))
    if not references:
        raise click.UsageError("nothing to pull: give a model such as ollama:qwen2.5:3b-instruct, or --candidates FILE")
    results = [_pull(reference) for reference in references]
    if as_json:
        click.echo(json.dumps(results, indent=2, ensure_ascii=False))
    if any(result["error"] for result in results):
        sys.exit(UserError.exit_code)


def _pull(reference: str) -> dict[str, Any]:
    """Fetches one model and says so on stderr."""
    try:
        with Bars() as bars:
            source = pull(reference, bars.show)
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
