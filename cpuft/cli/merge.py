"""`cpuft merge`: an adapter and its base become one quantized file."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cpuft.cli.fidelity import fidelity_table, warn
from cpuft.cli.options.adapter import adapter_option
from cpuft.cli.options.model import model_option
from cpuft.cli.options.output import json_option, megabytes
from cpuft.cli.progress import Bars
from cpuft.machine.files import require_regular
from cpuft.machine.progress import Progress
from cpuft.release.fidelity import measure_fidelity, require_measurable
from cpuft.release.importance_text import importance_matrix
from cpuft.release.merge import KEEP, MergeReport, check_merge
from cpuft.release.merge import merge as merge_files

FILE = click.Path(path_type=Path)
output_option = click.option("--output", required=True, type=FILE, help="The GGUF file to write.")
threads_option = click.option("--threads", type=click.IntRange(0), default=0, help="0: every CPU.", show_default=True)
imatrix_option = click.option(
    "--imatrix", type=FILE, help="An importance matrix, or training data (JSON lines) to compute one from."
)
TYPE_HELP = f"{KEEP}, or a type that llama-quantize knows: q4_0, q4_k_m, q5_k_m, q8_0, f16, …"


@click.command()
@model_option()
@adapter_option()
@click.option("--type", "file_type", default="q4_k_m", show_default=True, help=TYPE_HELP)
@imatrix_option
@click.option("--val", type=FILE, help="Validation data: measure the merged file on it, as `cpuft fidelity` does.")
@output_option
@threads_option
@json_option
def merge(
    model: Path,
    adapter: Path,
    file_type: str,
    imatrix: Path | None,
    val: Path | None,
    output: Path,
    threads: int,
    as_json: bool,
) -> None:
    """Merge a LoRA adapter into its base model, straight into a quantized GGUF file.

    The types of a mixture such as q4_k_m are those that llama-quantize would choose. Metadata and tokenizer stay.

    \b
    Examples:
      cpuft merge --model base.gguf --adapter RUN/adapter.gguf --type q4_k_m --output tuned.gguf
      cpuft merge … --imatrix train.jsonl                  spend the bits where the training text needs them
      cpuft merge … --val val.jsonl                        then say whether rounding ate the fine-tuning
    """
    with Bars() as progress:
        merged = checked_merge(model, output, adapter, file_type, imatrix, threads, val, progress=progress)
        report = None
        if val is not None:
            report = measure_fidelity(model, adapter, output, val, threads=threads, progress=progress)
    if as_json:
        facts = report_facts(merged) | ({} if report is None else {"fidelity": report.as_json()})
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo(report_summary(merged) + ("" if report is None else f"\n\n{fidelity_table(report)}"))
    if report is not None:
        warn(report)


def checked_merge(
    model: Path,
    output: Path,
    adapter: Path | None,
    file_type: str,
    imatrix: Path | None,
    threads: int,
    val: Path | None = None,
    *,
    progress: Progress,
) -> MergeReport:
    """Merges once all that was given is known to be of use, `val` too, which is read afterwards."""
    others = [path for path in (imatrix, val) if path is not None]
    check_merge(model, output, adapter_path=adapter, file_type=file_type.lower(), others=others)
    if adapter is not None and val is not None:
        require_regular(output, "the merged model, which is read again with --val")
        require_measurable(model, adapter, val, threads=threads)
    importance = None
    if imatrix is not None:
        importance = importance_matrix(imatrix, model, adapter=adapter, threads=threads, progress=progress)
    return merge_files(
        model,
        output,
        adapter_path=adapter,
        file_type=file_type.lower(),
        imatrix=importance,
        threads=threads,
        progress=progress,
    )


def report_facts(report: MergeReport) -> dict[str, Any]:
    """The report for `--json`."""
    return {**asdict(report), "output": str(report.output)}


def report_summary(report: MergeReport) -> str:
    """The report in a line."""
    types = ", ".join(f"{count} {name}" for name, count in sorted(report.types.items(), key=lambda item: -item[1]))
    sizes = f"{megabytes(report.base_bytes)} -> {megabytes(report.output_bytes)} in {report.seconds:.1f} s"
    return f"{report.output}: {sizes}; {report.n_tensors} tensors ({types}), {report.n_adapted} merged with the adapter"
