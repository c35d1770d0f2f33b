"""`cpuft quantize`: a model in another type."""

import json
from pathlib import Path

import click

from cpuft.cli.merge import (
    TYPE_HELP,
    checked_merge,
    imatrix_option,
    output_option,
    report_facts,
    report_summary,
    threads_option,
)
from cpuft.cli.options.model import model_option
from cpuft.cli.options.output import json_option
from cpuft.cli.progress import Bars


@click.command()
@model_option()
@click.option("--type", "file_type", required=True, help=TYPE_HELP)
@imatrix_option
@output_option
@threads_option
@json_option
def quantize(model: Path, file_type: str, imatrix: Path | None, output: Path, threads: int, as_json: bool) -> None:
    """Convert a GGUF model to another type.

    \b
    Examples:
      cpuft quantize --model model-f16.gguf --type q5_k_m --output model-q5_k_m.gguf
      cpuft quantize --model model-f16.gguf --type iq2_xs --imatrix train.jsonl --output model-iq2_xs.gguf
    """
    with Bars() as progress:
        report = checked_merge(model, output, None, file_type, imatrix, threads, progress=progress)
    click.echo(json.dumps(report_facts(report), indent=2) if as_json else report_summary(report))
