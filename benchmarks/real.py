"""Real models: each precision's gradient beside float32's, on real text, with its speed and memory."""

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fresh_process import HERE, figures_of
from benchmarks.options import json_option, threads_option
from benchmarks.precision import Arm, ArmType
from benchmarks.real_models import MODELS, find_model
from benchmarks.real_side import ALPHA, GRADIENT, RANK, Settings, Tensor, run
from benchmarks.report import Row, print_rows
from benchmarks.train_throughput import PEER_PYTHON
from cpuft.engine import FloatArray
from cpuft.machine import cpu

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


def kernel_arms() -> list[Arm]:
    """Every precision by every kernel table that this CPU runs fast; tables without bfloat16 compute it in float32."""
    tables = [isa for isa, needed in cpu.ENGINE_ISAS.items() if needed <= cpu.cpu_features() and isa != "reference"]
    return [
        *(Arm("bf16", isa) for isa in tables),
        *(Arm("int8", isa) for isa in tables if isa not in ("avx2", "avx512")),
    ]


@click.command("real")
@click.option(
    "--model", "names", multiple=True, default=MODELS, show_default="all three", help="A GGUF's name or path."
)
@click.option("--arm", "arms", type=ArmType(), multiple=True, help="Every one that this CPU has by default.")
@click.option("--texts", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=TEXTS)
@click.option("--trained", type=click.IntRange(0), default=0, help="Steps before the gradient; 0: a random adapter.")
@click.option("--repeats", type=click.IntRange(0), default=2, show_default=True, help="Timed passes after the first.")
@click.option("--peer", "peers", type=click.Choice(["f32", "bf16"]), multiple=True, help="transformers + PEFT, too.")
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
    if options["peers"] and not PEER_PYTHON.exists():
        raise click.UsageError(f"--peer needs torch, transformers and peft in {PEER_PYTHON}: run `make peers`")
    models = [find_model(name) for name in names]
    rows = (row for model in models for row in compare(model, arms or kernel_arms(), **options))
    print_rows("real", rows, COLUMNS, as_json)


def compare(
    model: Path,
    arms: Iterable[Arm],
    *,
    peers: Sequence[str] = (),
    texts: Path,
    trained: int,
    repeats: int,
    threads: int,
) -> Iterator[Row]:
    """A row for float32, then one for each arm and peer, at the same parameters."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(str(model), str(texts), folder, repeats=repeats, threads=threads)
        gradient = Path(folder) / GRADIENT
        figures = run(replace(settings, precision=BASELINE.precision, trained=trained))
        wanted = np.load(gradient)
        yield _row(model, BASELINE, figures, figures, distance(figures["tensors"], wanted, wanted), trained)
        for arm in arms:
            got = run(replace(settings, isa=arm.isa, precision=arm.precision))
            found = distance(figures["tensors"], np.load(gradient), wanted)
            yield _row(model, arm, got, figures, found, trained)
        for dtype in peers:
            got = run_peer(settings, dtype, figures["tensors"])
            found = distance(figures["tensors"], np.load(gradient), wanted)
            yield _row(model, f"peft-{dtype}", got, figures, found, trained)


def run_peer(settings: Settings, dtype: str, tensors: Sequence[Tensor]) -> dict[str, Any]:
    """The same of transformers + PEFT, on the file's weights in float32, in autocast where `dtype` is bf16."""
    spec = {
        "model": settings.model,
        "folder": settings.folder,
        "dtype": dtype,
        "rank": RANK,
        "alpha": ALPHA,
        "names": [name for name, *_ in tensors],
        "repeats": settings.repeats,
        "threads": settings.threads,
    }
    figures = figures_of([str(PEER_PYTHON), HERE / "peers" / "peft_real.py", json.dumps(spec)])
    return {"isa": "torch", **figures}


def distance(tensors: Sequence[Tensor], got: FloatArray, wanted: FloatArray) -> Distance:
    """tensors: name, offset and shape of each in both flat gradients."""
    norms = {name: float(np.linalg.norm(_part(wanted, offset, shape))) for name, offset, shape in tensors}
    large = [entry for entry in tensors if norms[entry[0]] >= SMALL * max(norms.values())]
    cosines = {name: _cosine(_part(got, offset, shape), _part(wanted, offset, shape)) for name, offset, shape in large}
    worst = min(cosines, key=lambda name: cosines[name])
    length = float(np.linalg.norm(got.astype(np.float64)) / np.linalg.norm(wanted.astype(np.float64)))
    return Distance(_cosine(got, wanted), cosines[worst], worst, length)


def _row(model: Path, arm: Arm | str, figures: Row, baseline: Row, found: Distance, trained: int) -> Row:
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
