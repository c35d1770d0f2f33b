"""The engine's matrix products on their own: speed, error, and part of the machine's peak, by weight type."""

import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fresh_process import figures_of
from benchmarks.native_program import native_program
from benchmarks.options import json_option, kernel_options, repeats_option
from benchmarks.peak import measure_peak
from benchmarks.report import Row, print_rows, rates
from benchmarks.shapes import SHAPES
from cpuft.gguf.reader import TYPES_BY_NAME

TYPES = ("q4_k", "q5_k", "q6_k", "q8_0", "q4_0", "q5_0", "iq4_xs", "f16", "bf16", "f32")
DIRECTIONS = ("forward", "backward")
COLUMNS = (
    "outputs",
    "inputs",
    "type",
    "direction",
    "precision",
    "gflops",
    "of_peak",
    "pack_share",
    "fill_ns",
    "residual",
    "layers",
)


@dataclass(frozen=True)
class Layers:
    """Linear layers of one size."""

    names: str
    outputs: int
    inputs: int


class Size(click.ParamType[tuple[int, int]]):
    """OUTPUTSxINPUTS: 4096x11008."""

    name = "OUTPUTSxINPUTS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Returns the two numbers."""
        outputs, _, inputs = str(value).partition("x")
        if not (outputs.isdecimal() and inputs.isdecimal() and int(outputs) and int(inputs)):
            self.fail(f"found {value!r}, expected OUTPUTSxINPUTS such as 11008x2048", param, ctx)
        return int(outputs), int(inputs)


@click.command("gemm")
@click.option("--shape", type=click.Choice(list(SHAPES)), default="qwen2.5-3b", show_default=True, help="Whose layers.")
@click.option("--size", "sizes", type=Size(), multiple=True, help="A size of its own instead; may be repeated.")
@click.option("--tokens", type=click.IntRange(1), default=512, show_default=True, help="Rows of X.")
@click.option("--type", "types", type=click.Choice(TYPES), multiple=True, default=TYPES, help="All by default.")
@click.option("--direction", "directions", type=click.Choice(DIRECTIONS), multiple=True, default=DIRECTIONS)
@kernel_options()
@repeats_option
@json_option
def main(as_json: bool, shape: str, sizes: tuple[tuple[int, int], ...], **options: Any) -> None:
    """The engine's matrix products on their own: speed, error, and part of the machine's peak, by weight type.

    \b
    forward     X W^T, what a layer computes            (W: outputs x inputs, as stored in the file)
    backward    dY W, the gradient of its input
    gflops      2 x tokens x outputs x inputs / median seconds, packing the rows of X or dY included
    of_peak     gflops over those of a register-only loop in the same precision, measured right before
    pack_share  part of the time in which rows are packed; layers with the same input share that
    fill_ns     nanoseconds a weight in which one thread, for nothing else, turns W into the panels that are multiplied
    residual    relative L2 distance of some rows to a product in double with the values that W's bits stand for

    \b
    Examples:
      cpuft bench gemm --json
      cpuft bench gemm --type q4_k --size 11008x2048 --tokens 2048
      cpuft bench gemm --shape llama3.2-3b --type q4_k --type q6_k --direction forward --precision f32
    """
    layers = [Layers("-", *size) for size in sizes] or layers_of(shape)
    print_rows("gemm", measure(layers, **options), COLUMNS, as_json)


def layers_of(shape: str) -> list[Layers]:
    """The linear layers of a model, those of one size together."""
    names: dict[tuple[int, int], list[str]] = {}
    for name, size in SHAPES[shape].linears.items():
        names.setdefault(size, []).append(name)
    return [Layers("+".join(same), *size) for size, same in names.items()]


def measure(
    layers: Sequence[Layers],
    *,
    tokens: int,
    types: Sequence[str],
    directions: Sequence[str],
    isa: str | None,
    precision: str | None,
    threads: int,
    repeats: int,
) -> Iterator[Row]:
    """One row for each size, precision, type and direction; precision None: each that the kernels have.

    A type whose blocks do not divide the rows of a size is left out, with a note on stderr.
    """
    program = native_program("gemm")
    kernels: list[str | Path] = [program, isa or os.environ.get("CPUFT_ISA") or "best", str(threads)]
    facts = figures_of(kernels)
    for layer in layers:
        fitting = [name for name in types if layer.inputs % TYPES_BY_NAME[name].block_values == 0]
        if left_out := [name for name in types if name not in fitting]:
            click.echo(
                f"Rows of {layer.inputs} values are no whole blocks of {', '.join(left_out)}: left out.", err=True
            )
        for used in facts["precisions"] if precision is None else [precision]:
            peak = measure_peak(facts["isa"], used, facts["n_threads"])
            for name in fitting:
                for direction in directions:
                    sizes = (str(tokens), str(layer.outputs), str(layer.inputs), str(repeats))
                    product = figures_of([*kernels, used, str(TYPES_BY_NAME[name].id), direction, *sizes])
                    known = {"type": name, "direction": direction, "precision": used}
                    yield _row(layer, tokens, facts, peak, product, known)


def _row(
    layer: Layers, tokens: int, facts: dict[str, Any], peak: float | None, product: dict[str, Any], known: Row
) -> Row:
    billions = 2e-9 * tokens * layer.outputs * layer.inputs
    speed = rates(billions, product["seconds"], "gflops")
    return {
        "layers": layer.names,
        "tokens": tokens,
        "outputs": layer.outputs,
        "inputs": layer.inputs,
        **known,
        "isa": facts["isa"],
        "threads": facts["n_threads"],
        **speed,
        "of_peak": round(speed["gflops"] * 1e9 / peak, 4) if peak else None,
        "peak_gflops": round(peak / 1e9, 1) if peak else None,
        "pack_share": round(sum(product["pack_seconds"]) / sum(product["seconds"]), 4),
        "fill_ns": round(1e9 * statistics.median(product["fill_seconds"]) / (layer.outputs * layer.inputs), 4),
        "residual": product["residual"],
    }


if __name__ == "__main__":
    from cpuft.cli.main import cli

    cli(["bench", "gemm", *sys.argv[1:]], prog_name="cpuft")
