"""`cpuft fidelity`, and the table of it that `cpuft merge --val` prints, too."""

import json
from pathlib import Path

import click

from cpuft.cli.options.adapter import adapter_option
from cpuft.cli.options.model import model_option
from cpuft.cli.options.output import json_option
from cpuft.cli.progress import Bars
from cpuft.release.fidelity import FidelityReport, kl_share, measure_fidelity
from cpuft.release.survival import Survival

FILE = click.Path(path_type=Path)


@click.command()
@model_option()
@adapter_option("The LoRA adapter that was merged into it")
@model_option("The merged model", "--merged", "merged", help="The merged model, named in the same ways.")
@click.option("--val", required=True, type=FILE, help="Validation data, JSON lines; its supervised tokens count.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many examples.")
@click.option("--threads", type=click.IntRange(0), default=0, help="0: every CPU.", show_default=True)
@click.option("--tensors", is_flag=True, help="Print every weight, not only the three that lost most.")
@json_option
def fidelity(
    model: Path,
    adapter: Path,
    merged: Path,
    val: Path,
    limit: int | None,
    threads: int,
    tensors: bool,
    as_json: bool,
) -> None:
    """Say whether rounding ate the fine-tuning: compare a merged file with base + adapter.

    Perplexity and KL divergence on the validation data, in float32, and how much of the learned change is left in each
    weight. docs/shipping.md explains the figures.

    \b
    Examples:
      cpuft fidelity --model base.gguf --adapter RUN/adapter.gguf --merged tuned-q4_k_m.gguf --val val.jsonl
      cpuft merge --model base.gguf --adapter RUN/adapter.gguf --output tuned.gguf --val val.jsonl    merge, then this
    """
    with Bars() as progress:
        report = measure_fidelity(model, adapter, merged, val, limit=limit, threads=threads, progress=progress)
    click.echo(json.dumps(report.as_json(), indent=2) if as_json else fidelity_table(report, every_tensor=tensors))
    warn(report)


def fidelity_table(report: FidelityReport, *, every_tensor: bool = False) -> str:
    """The report for people, without its warnings."""
    rows = [("base", report.base), ("base + adapter", report.reference), (report.merged_path.name, report.merged)]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'':<{width}}  perplexity  KL (nats)  of base's  same token"]
    for name, model in rows:
        share = kl_share(model, report.base)
        of_base = "-" if share is None else f"{share:.2%}"
        lines.append(
            f"{name:<{width}}  {model.perplexity:10.4f}  {model.kl:9.6f}  {of_base:>9}  {model.same_top:10.2%}"
        )
    shown = report.tensors if every_tensor else sorted(report.tensors, key=lambda t: t.survived)[:3]
    width = max(len(tensor.name) for tensor in shown)
    lines += ["", f"{'adapted weight':<{width}}  type   change survived   noise/change"]
    lines += [_survival_line(tensor, width) for tensor in (report.survived, *shown)]
    n_tokens, n_examples = report.reference.n_tokens, report.n_examples
    lines += ["", f"KL from base + adapter; means over {n_tokens:,} supervised tokens of {n_examples} examples."]
    return "\n".join(lines)


def warn(report: FidelityReport) -> None:
    """Prints the warnings on stderr, one a line."""
    for warning in report.warnings:
        click.echo(f"Warning: {warning}.", err=True)


def _survival_line(tensor: Survival, width: int) -> str:
    return f"{tensor.name:<{width}}  {tensor.type:<5}  {tensor.survived:15.2%}  {tensor.noise:13.4f}"
