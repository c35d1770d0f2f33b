"""`cpuft merge` and `cpuft quantize`."""

from pathlib import Path

import click
from tqdm import tqdm

from cpuft.cli.facts import megabytes
from cpuft.cli.model_reference import model_option
from cpuft.models.merge import KEEP, MergeReport
from cpuft.models.merge import merge as merge_files

FILE = click.Path(path_type=Path)
output_option = click.option("--output", required=True, type=FILE, help="The GGUF file to write.")
threads_option = click.option("--threads", type=click.IntRange(0), default=0, help="0: every CPU.", show_default=True)
TYPE_HELP = f"{KEEP}, or a type that llama-quantize knows: q4_0, q4_k_m, q5_k_m, q8_0, f16, …"


@click.command()
@model_option()
@click.option("--adapter", required=True, type=FILE, help="The LoRA adapter, a GGUF file from `cpuft train`.")
@click.option("--type", "file_type", default="q4_k_m", show_default=True, help=TYPE_HELP)
@output_option
@threads_option
def merge(model: Path, adapter: Path, file_type: str, output: Path, threads: int) -> None:
    """Merge a LoRA adapter into its base model, straight into a quantized GGUF file.

    The types of a mixture such as q4_k_m are those that llama-quantize would choose. Metadata and tokenizer stay.

    \b
    Example:
      cpuft merge --model base.gguf --adapter RUN/adapter.gguf --type q4_k_m --output tuned.gguf
    """
    _merge(model, output, adapter, file_type, threads)


@click.command()
@model_option()
@click.option("--type", "file_type", required=True, help=TYPE_HELP)
@output_option
@threads_option
def quantize(model: Path, file_type: str, output: Path, threads: int) -> None:
    """Convert a GGUF model to another type.

    \b
    Example:
      cpuft quantize --model model-f16.gguf --type q5_k_m --output model-q5_k_m.gguf
    """
    _merge(model, output, None, file_type, threads)


def _merge(model: Path, output: Path, adapter: Path | None, file_type: str, threads: int) -> None:
    with tqdm(unit="B", unit_scale=True, desc=output.name, leave=False, disable=None, delay=0.3) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done)

        kind = file_type.lower()
        report = merge_files(model, output, adapter_path=adapter, file_type=kind, threads=threads, progress=progress)
    click.echo(_summary(report))


def _summary(report: MergeReport) -> str:
    types = ", ".join(f"{count} {name}" for name, count in sorted(report.types.items(), key=lambda item: -item[1]))
    sizes = f"{megabytes(report.base_bytes)} -> {megabytes(report.output_bytes)} in {report.seconds:.1f} s"
    return f"{report.output}: {sizes}; {report.n_tensors} tensors ({types}), {report.n_adapted} merged with the adapter"
