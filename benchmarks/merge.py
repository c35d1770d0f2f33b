"""Merging an adapter and quantizing: `cpuft merge` in one go against an f16 file and llama-quantize."""

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.engine_side import Settings
from benchmarks.fresh_process import measured
from benchmarks.options import json_option, model_options, threads_option
from benchmarks.report import Row, print_row
from benchmarks.shapes import SHAPES, Shape, model_file
from cpuft import toolchain
from cpuft.adapters.adapter import write_adapter
from cpuft.errors import CpuftError
from cpuft.gguf.reader import read_gguf
from cpuft.machine.cpu import available_cpus


@click.command("merge")
@model_options("qwen2.5-3b")
@click.option("--type", "file_type", default="q4_k_m", show_default=True, help="The type of the merged file.")
@click.option("--rank", type=click.IntRange(1), default=Settings.rank, show_default=True, help="Of the adapter.")
@threads_option
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Of both sides in turn.")
@json_option
def main(as_json: bool, **options: Any) -> None:
    """Merging an adapter and quantizing: `cpuft merge` in one go against an f16 file and llama-quantize.

    Base and adapter are random; both sides start from the same two files and end with the same types. Seconds are
    medians, with the least and the most beside them; peak_rss_mb is the most that one process of the side held. Three
    files are written beside the models, the f16 one among them, and removed.

    \b
    Examples:
      cpuft bench merge --json
      cpuft bench merge --shape qwen2.5-0.5b --type q5_k_m --repeats 1
    """
    print_row("merge", compare(**options), as_json)


def compare(*, shape: str, base_type: str, models: Path, file_type: str, rank: int, threads: int, repeats: int) -> Row:
    """Both sides' figures; ratio: their seconds over ours."""
    base = model_file(models, shape, base_type)
    with tempfile.TemporaryDirectory(dir=models, prefix="merge-") as name:
        folder = Path(name)
        adapter = folder / "adapter.gguf"
        write_random_adapter(adapter, SHAPES[shape], rank)
        direct, detour = folder / "direct.gguf", folder / "detour.gguf"
        sides: dict[str, Callable[[], Row]] = {
            "": lambda: merge_directly(base, adapter, file_type, direct, threads),
            "peer_": lambda: merge_through_f16(base, adapter, file_type, detour, threads),
        }
        read_through(base)
        runs = [{prefix: run() for prefix, run in sides.items()} for _ in range(repeats)]
        require_same_types(direct, detour)
    row: Row = {
        "shape": shape,
        "base_type": base_type,
        "type": file_type,
        "rank": rank,
        "threads": threads or available_cpus(),
        "repeats": repeats,
    }
    for prefix in sides:
        row |= _summary(prefix, [run[prefix] for run in runs])
    return row | {"peer": "f16+llama-quantize", "ratio": round(row["peer_seconds"] / row["seconds"], 3)}


def merge_directly(base: Path, adapter: Path, file_type: str, output: Path, threads: int) -> Row:
    """Our side: one command from base and adapter to the quantized file."""
    files: list[str | Path] = ["--model", base, "--adapter", adapter, "--output", output]
    command: list[str | Path] = [sys.executable, "-m", "cpuft", "merge", *files, "--type", file_type]
    return measured([*command, "--threads", str(threads)])


def merge_through_f16(base: Path, adapter: Path, file_type: str, output: Path, threads: int) -> Row:
    """The other: merge into an f16 file, then llama-quantize that."""
    f16 = output.with_name("f16.gguf")
    merged = merge_directly(base, adapter, "f16", f16, threads)
    tool = toolchain.locate().tool("llama-quantize")
    quantized = measured([tool, f16, output, file_type.upper(), str(threads or available_cpus())])
    f16.unlink()
    return {
        "seconds": merged["seconds"] + quantized["seconds"],
        "peak_rss_mb": max(merged["peak_rss_mb"], quantized["peak_rss_mb"]),
    }


def write_random_adapter(path: Path, shape: Shape, rank: int) -> None:
    """An adapter on all linear layers whose B is not zero, or there would be nothing to merge."""
    rng = np.random.default_rng(0)
    matrices = {}
    for layer in range(shape.n_layer):
        for name, (outputs, inputs) in shape.linears.items():
            weight = f"blk.{layer}.{name}.weight"
            matrices[weight + ".lora_a"] = rng.standard_normal((rank, inputs), np.float32) / np.sqrt(inputs)
            matrices[weight + ".lora_b"] = rng.standard_normal((outputs, rank), np.float32) * np.float32(0.01)
    write_adapter(path, matrices, alpha=rank, architecture=shape.architecture)


def read_through(path: Path) -> None:
    """Reads a file to its end, so that neither side waits for a cold disk."""
    with path.open("rb") as stream:
        while stream.read(1 << 24):
            pass


def require_same_types(ours: Path, theirs: Path) -> None:
    """The comparison means nothing unless both sides made the same kind of file.

    Raises:
        CpuftError: some tensor's type differs.
    """
    types = [{name: tensor.type.name for name, tensor in read_gguf(path).tensors.items()} for path in (ours, theirs)]
    if types[0] != types[1]:
        differing = sorted(name for name in types[0] | types[1] if types[0].get(name) != types[1].get(name))
        raise CpuftError(f"the two sides chose different types, for example for {differing[0]}")


def _summary(prefix: str, runs: list[Row]) -> Row:
    seconds = [run["seconds"] for run in runs]
    return {
        f"{prefix}seconds": round(statistics.median(seconds), 2),
        f"{prefix}seconds_min": round(min(seconds), 2),
        f"{prefix}seconds_max": round(max(seconds), 2),
        f"{prefix}peak_rss_mb": max(run["peak_rss_mb"] for run in runs),
    }


if __name__ == "__main__":
    from cpuft.cli.main import cli

    cli(["bench", "merge", *sys.argv[1:]], prog_name="cpuft")
