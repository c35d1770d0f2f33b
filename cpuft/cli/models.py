"""`cpuft merge` and `cpuft quantize`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from cpuft.cli.adapter_reference import adapter_option
from cpuft.cli.facts import json_option, megabytes
from cpuft.cli.fidelity import fidelity_table, warn
from cpuft.cli.model_reference import model_option
from cpuft.data.calibration import importance_matrix
from cpuft.evaluate.fidelity import measure_fidelity, require_measurable
from cpuft.models.merge import KEEP, MergeReport, check_merge
from cpuft.models.merge import merge as merge_files

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
    merged = _merge(model, output, adapter, file_type, imatrix, threads, val)
    report = None if val is None else measure_fidelity(model, adapter, output, val, threads=threads)
    if as_json:
        facts = _facts(merged) | ({} if report is None else {"fidelity": report.as_json()})
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo(_summary(merged) + ("" if report is None else f"\n\n{fidelity_table(report)}"))
    if report is not None:
        warn(report)


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
    report = _merge(model, output, None, file_type, imatrix, threads)
    click.echo(json.dumps(_facts(report), indent=2) if as_json else _summary(report))


def _merge(
    model: Path,
    output: Path,
    adapter: Path | None,
    file_type: str,
    imatrix: Path | None,
    threads: int,
    val: Path | None = None,
) -> MergeReport:
    """Merges once all that was given is known to be of use, `val` too, which is read afterwards."""
    others = [path for path in (imatrix, val) if path is not None]
    check_merge(model, output, adapter_path=adapter, file_type=file_type.lower(), others=others)
    if adapter is not None and val is not None:
        require_measurable(model, adapter, val, threads=threads)
    importance = None if imatrix is None else importance_matrix(imatrix, model, adapter=adapter, threads=threads)
    with tqdm(unit="B", unit_scale=True, desc=output.name, leave=False, disable=None, delay=0.3) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done)

        return merge_files(
            model,
            output,
            adapter_path=adapter,
            file_type=file_type.lower(),
            imatrix=importance,
            threads=threads,
            progress=progress,
        )


def _facts(report: MergeReport) -> dict[str, Any]:
    return {**asdict(report), "output": str(report.output)}


def _summary(report: MergeReport) -> str:
    types = ", ".join(f"{count} {name}" for name, count in sorted(report.types.items(), key=lambda item: -item[1]))
    sizes = f"{megabytes(report.base_bytes)} -> {megabytes(report.output_bytes)} in {report.seconds:.1f} s"
    return f"{report.output}: {sizes}; {report.n_tensors} tensors ({types}), {report.n_adapted} merged with the adapter"
