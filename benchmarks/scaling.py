"""Training speed against threads, length, rank and number of LoRA targets, one fresh process a figure."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.engine_side import Settings, run_engine
from benchmarks.options import (
    activations_option,
    json_option,
    kernel_options,
    model_options,
    repeats_option,
    tokens_option,
)
from benchmarks.report import Row, print_rows, rates
from benchmarks.shapes import model_file
from cpuft.config.keys import MODULES
from cpuft.machine.cpu import available_cpus

# What is varied: the field of Settings, and its values by default; the others stay as the options say.
FIELDS = {"threads": "threads", "length": "tokens", "rank": "rank", "targets": "n_targets"}
VALUES = {
    "threads": tuple(range(1, available_cpus() + 1)),
    "length": (256, 512, 1024, 2048, 4096, 8192),
    "rank": (1, 4, 8, 16, 32, 64, 128, 256),
    "targets": tuple(range(1, len(MODULES) + 1)),
}
COLUMNS = ("by", "value", "tok_s", "tok_s_min", "tok_s_max", "speedup", "efficiency", "peak_rss_mb")


@click.command("scaling")
@model_options("qwen2.5-0.5b")
@click.option(
    "--by", "variables", type=click.Choice(list(FIELDS)), multiple=True, default=tuple(FIELDS), help="All by default."
)
@click.option("--value", "values", type=click.IntRange(1), multiple=True, help="Instead of the usual; with one --by.")
@tokens_option
@click.option("--rank", type=click.IntRange(1), default=Settings.rank, show_default=True)
@kernel_options()
@activations_option
@repeats_option
@json_option
def main(as_json: bool, variables: tuple[str, ...], values: tuple[int, ...], **options: Any) -> None:
    """Training speed against threads, length, rank and number of LoRA targets, one fresh process a figure.

    One of them varies at a time. speedup: over the first figure of its kind; efficiency: speedup over the number of
    threads. Targets are taken in the order attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down.

    \b
    Examples:
      cpuft bench scaling --json
      cpuft bench scaling --shape qwen2.5-3b --by threads
      cpuft bench scaling --by length --value 512 --value 16384 --activations recompute
    """
    if values and len(variables) != 1:
        raise click.UsageError("--value needs one --by that says what is varied")
    rows = (row for variable in variables for row in measure(variable, values or VALUES[variable], **options))
    print_rows("scaling", rows, COLUMNS, as_json)


def measure(
    variable: str, values: Sequence[int], *, shape: str, base_type: str, models: Path, **options: Any
) -> Iterator[Row]:
    """One row a value of the variable; options: further fields of Settings, tokens among them."""
    usual = Settings(str(model_file(models, shape, base_type)), **options)
    first = None
    for value in values:
        changed: dict[str, Any] = {FIELDS[variable]: value}
        settings = replace(usual, **changed)
        side = run_engine(settings)
        speed = rates(settings.tokens, side["seconds"], "tok_s")
        first = first or (value, speed["tok_s"])
        speedup = speed["tok_s"] / first[1]
        yield {
            "shape": shape,
            "base_type": base_type,
            "by": variable,
            "value": value,
            "tokens": settings.tokens,
            "rank": settings.rank,
            "n_targets": settings.n_targets or len(MODULES),
            "activations": settings.activations,
            "isa": side["isa"],
            "precision": side["precision"],
            "threads": side["n_threads"],
            **speed,
            "speedup": round(speedup, 3),
            "efficiency": round(speedup * first[0] / value, 3) if variable == "threads" else None,
            "peak_rss_mb": side["peak_rss_mb"],
        }


if __name__ == "__main__":
    from cpuft.cli.main import cli

    cli(["bench", "scaling", *sys.argv[1:]], prog_name="cpuft")
