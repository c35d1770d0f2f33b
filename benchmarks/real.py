"""Real models: each precision's gradient beside float32's, on real text, with its speed and memory."""

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fresh_process import HERE
from benchmarks.options import json_option, threads_option
from benchmarks.precision import Arm, ArmType
from benchmarks.real_side import Settings, run
from benchmarks.report import Row, print_rows
from cpuft.engine import FloatArray
from cpuft.errors import UserError
from cpuft.toolchain import cache, cpu

MODELS = ("gemma-3-270m-q4_k_m", "qwen2.5-coder-0.5b-instruct-q4_k_m", "qwen2.5-coder-1.5b-instruct-q4_k_m")
TEXTS = HERE / "real_texts.jsonl"
BASELINE = Arm("f32")
SMALL = 1e-3  # of the largest tensor's norm: a gradient below counts for nothing
COLUMNS = ("model", "arm", "isa", "cosine", "worst", "worst_tensor", "length", "loss_diff", "tok_s", "peak_rss_mb")


@dataclass(frozen=True)
class Distance:
    """How far a gradient is from the one that it should be.

    cosine: of the whole adapter's. worst: the least of a tensor that is not small. length: the ratio of norms.
    """

    cosine: float
    worst: float
    worst_tensor: str
    length: float


def models_folder() -> Path:
    """Return $CPUFT_REAL_MODELS, else real-models/ in the user's cache."""
    explicit = os.environ.get("CPUFT_REAL_MODELS")
    return Path(explicit) if explicit else Path.home() / ".cache/cpuft/real-models"


def kernel_arms() -> list[Arm]:
    """Every precision by every kernel table that this CPU runs fast; tables without bfloat16 compute it in float32."""
    tables = [isa for isa, needed in cpu.ENGINE_ISAS.items() if needed <= cpu.cpu_features() and isa != "reference"]
    return [
        *(Arm("bf16", isa) for isa in tables),
        *(Arm("int8", isa) for isa in tables if isa not in ("avx2", "avx512")),
    ]


@click.command("real")
@click.option("--model", "names", multiple=True, default=MODELS, show_default="all three", help="A GGUF's name or path.")
@click.option("--arm", "arms", type=ArmType(), multiple=True, help="Every one that this CPU has by default.")
@click.option("--texts", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=TEXTS)
@click.option("--trained", type=click.IntRange(0), default=0, help="Steps before the gradient; 0: a random adapter.")
@click.option("--repeats", type=click.IntRange(0), default=2, show_default=True, help="Timed passes after the first.")
@threads_option
@json_option
def main(names: tuple[str, ...], arms: tuple[Arm, ...], as_json: bool, **options: Any) -> None:
    """Compare each precision's gradient with float32's on real models and real text.

    Over the adapter of rank 16 on all linear layers: the cosine of the whole gradient, the least of a tensor's that is
    not below a thousandth of the largest in norm, the ratio of lengths, and the loss's difference in percent. Speed is
    that of forward and backward pass; memory is the process's peak.

    \b
    Examples:
      cpuft bench real
      cpuft bench real --model qwen2.5-coder-1.5b-instruct-q4_k_m --arm int8 --arm avx512bf16:bf16 --trained 50
    """
    models = [find_model(name) for name in names]
    rows = (row for model in models for row in compare(model, arms or kernel_arms(), **options))
    print_rows("real", rows, COLUMNS, as_json)


def find_model(name: str) -> Path:
    """Return the file of a model in the folder, or at a path.

    Raises:
        UserError: there is none.
    """
    for path in (models_folder() / f"{name}.gguf", Path(name)):
        if path.is_file():
            return path
    raise UserError(f"no model {name} in {models_folder()}: put it there, or set CPUFT_REAL_MODELS")


def compare(
    model: Path, arms: Iterable[Arm], *, texts: Path, trained: int, repeats: int, threads: int
) -> Iterator[Row]:
    """A row for float32, then one for each arm, at the same parameters."""
    with tempfile.TemporaryDirectory() as folder:
        parameters = str(Path(folder) / "parameters.npy") if trained else None

        def side(arm: Arm, steps: int = 0) -> tuple[dict[str, Any], FloatArray]:
            gradient = Path(folder) / "gradient.npy"
            settings = Settings(
                str(model), str(texts), str(gradient), arm.isa, arm.precision, steps, parameters, repeats, threads
            )
            return run(settings), np.load(gradient)

        figures, wanted = side(BASELINE, trained)
        yield _row(model, BASELINE, figures, figures, distance(figures["tensors"], wanted, wanted), trained)
        for arm in arms:
            got_figures, got = side(arm)
            yield _row(model, arm, got_figures, figures, distance(figures["tensors"], got, wanted), trained)


def distance(tensors: Sequence[tuple[str, int, tuple[int, int]]], got: FloatArray, wanted: FloatArray) -> Distance:
    """tensors: name, offset and shape of each in both flat gradients."""
    norms = {name: float(np.linalg.norm(_part(wanted, offset, shape))) for name, offset, shape in tensors}
    large = [entry for entry in tensors if norms[entry[0]] >= SMALL * max(norms.values())]
    cosines = {name: _cosine(_part(got, offset, shape), _part(wanted, offset, shape)) for name, offset, shape in large}
    worst = min(cosines, key=lambda name: cosines[name])
    length = float(np.linalg.norm(got.astype(np.float64)) / np.linalg.norm(wanted.astype(np.float64)))
    return Distance(_cosine(got, wanted), cosines[worst], worst, length)


def _row(model: Path, arm: Arm, figures: Row, baseline: Row, found: Distance, trained: int) -> Row:
    return {
        "model": model.stem,
        "arm": str(arm),
        **{name: figures[name] for name in ("isa", "n_threads", "tokens", "supervised", "tok_s", "peak_rss_mb")},
        "trained": trained,
        "cosine": round(found.cosine, 7),
        "worst": round(found.worst, 6),
        "worst_tensor": found.worst_tensor.removesuffix(".weight"),
        "length": round(found.length, 5),
        "loss": round(figures["loss"], 6),
        "loss_diff": round(100.0 * (figures["loss"] / baseline["loss"] - 1.0), 4) + 0.0,
    }


def _part(flat: FloatArray, offset: int, shape: Sequence[int]) -> FloatArray:
    return flat[offset : offset + shape[0] * shape[1]]


def _cosine(got: FloatArray, wanted: FloatArray) -> float:
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


if __name__ == "__main__":
    from cpuft.cli.main import cli

    cli(["bench", "real", *sys.argv[1:]], prog_name="cpuft")
