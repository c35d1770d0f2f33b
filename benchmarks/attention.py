"""The engine's attention on its own: speed, error, and part of the speed of its matrix product, by head size."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fresh_process import figures_of
from benchmarks.native_program import native_program
from benchmarks.options import json_option, kernel_options, repeats_option
from benchmarks.report import Row, print_rows, rates

HEAD_SIZES = (64, 128, 256)
# Products of T x T x head size for each query head: scores and output; scores again, dv, dp, dk and dq. What a pass
# computes twice does not count.
PRODUCTS = {"forward": 2, "backward": 5}
COLUMNS = ("tokens", "head_size", "heads", "kv_heads", "direction", "precision", "gflops", "of_gemm", "residual")


@click.command("attention")
@click.option("--tokens", type=click.IntRange(1), default=2048, show_default=True, help="Length of the sequence.")
@click.option("--head-size", "head_sizes", type=click.IntRange(1), multiple=True, default=HEAD_SIZES, show_default=True)
@click.option("--heads", type=click.IntRange(1), default=8, show_default=True, help="Query heads.")
@click.option("--kv-heads", type=click.IntRange(1), default=2, show_default=True, help="Heads of keys and values.")
@kernel_options()
@repeats_option
@json_option
def main(as_json: bool, **options: Any) -> None:
    """The engine's attention on its own: speed, error, and part of the speed of its matrix product, by head size.

    \b
    gflops      2 (forward) or 5 (backward) products of tokens x tokens x head size for each query head, of which
                causality needs half, over the median seconds
    of_gemm     gflops over those of a matrix product with the same kernels, measured in turn with it
    residual    the largest relative L2 distance of output and gradients of 150 tokens to plain loops in double

    \b
    Examples:
      cpuft bench attention --threads 1 --json
      cpuft bench attention --tokens 512 --head-size 64 --heads 14 --kv-heads 2
    """
    print_rows("attention", measure(**options), COLUMNS, as_json)


def measure(
    *,
    tokens: int,
    head_sizes: Sequence[int],
    heads: int,
    kv_heads: int,
    isa: str | None,
    precision: str | None,
    threads: int,
    repeats: int,
) -> Iterator[Row]:
    """One row for each head size, precision and direction.

    precision None: float32, and bfloat16 where the kernels multiply it; with int8, attention is computed as with bf16.
    """
    program = native_program("attention")
    kernels: list[str | Path] = [program, isa or os.environ.get("CPUFT_ISA") or "best", str(threads)]
    facts = figures_of(kernels)
    for head_size in head_sizes:
        for used in [name for name in facts["precisions"] if name != "int8"] if precision is None else [precision]:
            sizes = map(str, (tokens, head_size, heads, kv_heads, repeats))
            figures = figures_of([*kernels, used, *sizes])
            for direction, products in PRODUCTS.items():
                billions = products * 1e-9 * heads * head_size * tokens**2
                speed = rates(billions, figures[f"{direction}_seconds"], "gflops")
                yield {
                    "tokens": tokens,
                    "head_size": head_size,
                    "heads": heads,
                    "kv_heads": kv_heads,
                    "direction": direction,
                    "precision": used,
                    "isa": facts["isa"],
                    "threads": facts["n_threads"],
                    **speed,
                    "of_gemm": round(speed["gflops"] / figures["gemm_gflops"], 4),
                    "gemm_gflops": figures["gemm_gflops"],
                    "residual": figures["residual"],
                }


if __name__ == "__main__":
    from cpuft.cli.main import cli

    cli(["bench", "attention", *sys.argv[1:]], prog_name="cpuft")
