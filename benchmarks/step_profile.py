"""Where a training step's time goes, by part, in a fresh process."""

import statistics
import sys
from collections.abc import Iterator
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
from benchmarks.report import Row, print_rows
from benchmarks.shapes import model_file

COLUMNS = ("part", "seconds", "share")
WIDTH = len("adapter_elementwise")  # the longest name of a part
# The parts that are matrix products, and attention: a step should have little beside them.
PRODUCTS = ("base_products", "adapter_products", "head_products", "attention")


@click.command("profile")
@model_options("qwen2.5-0.5b")
@tokens_option
@kernel_options()
@activations_option
@repeats_option
@json_option
def main(as_json: bool, **options: Any) -> None:
    """Where a training step's time goes, by part, in a fresh process.

    seconds: of a step, the mean of --repeats, on the clock of the thread that calls the engine; share: of the whole.
    base_products include the adapter's terms that are added in the same product; other is what no part claims. The last
    two rows sum up: matrix products (with the packing of their operands) and attention, and everything else.

    \b
    Examples:
      cpuft bench profile --json
      cpuft bench profile --shape qwen2.5-3b --precision int8 --tokens 2048
      cpuft bench profile --threads 1 --activations recompute
    """
    print_rows("profile", measure(**options), COLUMNS, as_json, width=WIDTH)


def measure(*, shape: str, base_type: str, models: Path, **options: Any) -> Iterator[Row]:
    """One row a part, and the two that sum up; options: further fields of Settings, tokens among them."""
    settings = Settings(str(model_file(models, shape, base_type)), **options)
    side = run_engine(settings)
    step = statistics.fmean(side["seconds"])
    products = sum(side["parts"][part] for part in PRODUCTS)
    sums = {"gemm + attention": products, "everything else": step - products}
    for part, seconds in (side["parts"] | sums).items():
        yield {
            "shape": shape,
            "base_type": base_type,
            "tokens": settings.tokens,
            "activations": settings.activations,
            "isa": side["isa"],
            "precision": side["precision"],
            "threads": side["n_threads"],
            "repeats": settings.repeats,
            "part": part,
            "seconds": round(seconds, 6),
            "share": round(seconds / step, 4),
        }


if __name__ == "__main__":
    from cpuft.cli.main import cli

    cli(["bench", "profile", *sys.argv[1:]], prog_name="cpuft")
