"""Peak memory of training by activation policy, optimizer and length of the sequence, one fresh process each."""

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.engine_side import OPTIMIZERS, POLICIES, Activations, Settings, run_engine
from benchmarks.options import json_option, kernel_options, model_options
from benchmarks.report import Row, print_rows, rates
from benchmarks.shapes import model_file

COLUMNS = ("tokens", "activations", "optimizer", "peak_rss_mb", "model_mb", "tok_s", "precision")


@click.command("memory")
@model_options("qwen2.5-3b")
@click.option("--tokens", "lengths", type=click.IntRange(2), multiple=True, default=(256, 512, 1024, 2048, 4096))
@click.option("--activations", "policies", type=click.Choice(POLICIES), multiple=True, default=POLICIES)
@click.option(
    "--optimizer", "optimizers", type=click.Choice(list(OPTIMIZERS)), multiple=True, default=(Settings.optimizer,)
)
@kernel_options()
@click.option("--repeats", type=click.IntRange(1), default=1, show_default=True, help="Steps after a warm-up.")
@json_option
def main(as_json: bool, **options: Any) -> None:
    """Peak memory of training by activation policy, optimizer and length of the sequence, one fresh process each.

    peak_rss_mb counts the pages of the memory-mapped model too; model_mb is the size of its file, moments_mb that of
    the optimizer's state. --tokens, --activations and --optimizer may be given repeatedly; both policies, adamw and 256
    to 4096 tokens by default.

    \b
    Examples:
      cpuft bench memory --shape qwen2.5-3b --json
      cpuft bench memory --tokens 512 --optimizer adamw --optimizer adamw_8bit
      cpuft bench memory --shape qwen2.5-0.5b --tokens 512 --tokens 8192 --activations recompute
    """
    print_rows("memory", measure(**options), COLUMNS, as_json)


def measure(
    *,
    shape: str,
    base_type: str,
    models: Path,
    lengths: tuple[int, ...],
    policies: tuple[Activations, ...],
    optimizers: tuple[str, ...],
    **options: Any,
) -> Iterator[Row]:
    """One row for each length, policy and optimizer; options: further fields of Settings."""
    model = model_file(models, shape, base_type)
    for tokens, policy, optimizer in product(lengths, policies, optimizers):
        side = run_engine(Settings(str(model), tokens, activations=policy, optimizer=optimizer, **options))
        yield {
            "shape": shape,
            "base_type": base_type,
            "tokens": tokens,
            "activations": policy,
            "optimizer": optimizer,
            "isa": side["isa"],
            "precision": side["precision"],
            "threads": side["n_threads"],
            "peak_rss_mb": side["peak_rss_mb"],
            "moments_mb": side["moments_mb"],
            "model_mb": model.stat().st_size // 10**6,
            **rates(tokens, side["seconds"], "tok_s"),
        }


if __name__ == "__main__":
    from cpuft.cli.main import cli

    cli(["bench", "memory", *sys.argv[1:]], prog_name="cpuft")
