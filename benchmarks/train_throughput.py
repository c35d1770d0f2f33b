"""Training speed and memory on random weights in the exact shape of a public model, beside a peer in the same run.

One optimizer step over one sequence of --tokens tokens, all supervised, LoRA rank 16 on the seven linear layers, AdamW:
the median of --repeats steps after a warm-up. Each side runs in a process of its own, so that its memory is its own.

Example:
    python benchmarks/train_throughput.py --shape qwen2.5-0.5b --base-type q4_k_m --tokens 512 --peer peft-bf16 --json
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.shapes import SHAPES, model_file
from cpuft.engine import Batch, Engine
from cpuft.toolchain import cache
from cpuft.toolchain.compiler import find_compilers

HERE = Path(__file__).resolve().parent
PEER_PYTHON = HERE.parent / ".venv-peers" / "bin" / "python"  # has torch, transformers and peft: `make peers`
RANK, ALPHA = 16, 16.0
PEERS = {"peft-bf16": "bfloat16", "peft-f32": "float32", "none": ""}


@dataclass(frozen=True)
class Settings:
    """What one side is asked to run."""

    model: str  # path of the GGUF
    tokens: int
    repeats: int
    threads: int
    isa: str | None
    precision: str | None
    activations: str


@click.command(help=__doc__)
@click.option("--shape", type=click.Choice(list(SHAPES)), required=True)
@click.option("--base-type", default="q4_k_m", show_default=True, help="A file type of llama-quantize.")
@click.option("--tokens", type=click.IntRange(2), default=512, show_default=True, help="Length of the sequence.")
@click.option("--peer", type=click.Choice(list(PEERS)), default="none", show_default=True)
@click.option("--peer-python", type=click.Path(dir_okay=False, path_type=Path), default=PEER_PYTHON, show_default=True)
@click.option("--peer-checkpointing", is_flag=True, help="The peer recomputes its activations.")
@click.option("--isa", help="The engine's kernels; the best of this CPU by default.")
@click.option("--precision", type=click.Choice(["f32", "bf16"]))
@click.option("--activations", type=click.Choice(["keep", "recompute"]), default="keep", show_default=True)
@click.option("--threads", type=click.IntRange(0), default=0, help="0: every CPU.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--models", type=click.Path(path_type=Path), help="Where models are kept; in the cache by default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line instead of a table.")
def main(as_json: bool, peer: str, peer_python: Path, **options: Any) -> None:
    """Run both sides and print their figures."""
    if peer != "none" and not peer_python.exists():
        raise click.UsageError(f"--peer needs torch, transformers and peft in {peer_python}: run `make peers`")
    result = measure(peer=peer, peer_python=peer_python, **options)
    print(json.dumps(result) if as_json else "\n".join(f"{name:16} {value}" for name, value in result.items()))


def measure(
    *,
    shape: str,
    base_type: str,
    tokens: int,
    repeats: int,
    models: Path | None,
    peer: str,
    peer_python: Path,
    peer_checkpointing: bool,
    **options: Any,
) -> dict[str, Any]:
    """Both sides' figures. mfu: useful operations a second over those of the register-only loop."""
    model = model_file(models or cache.cache_dir() / "benchmarks", shape, base_type)
    ours = run_engine(Settings(str(model), tokens, repeats, **options))
    theirs = run_peer(peer_python, shape, peer, tokens, repeats, peer_checkpointing) if peer != "none" else None
    peak = measure_peak(ours["isa"], ours["precision"], ours["n_threads"])
    useful = SHAPES[shape].operations(tokens, RANK) * ours["tok_s"]
    return {
        "shape": shape,
        "base_type": base_type,
        "tokens": tokens,
        "isa": ours["isa"],
        "precision": ours["precision"],
        "threads": ours["n_threads"],
        "activations": options["activations"],
        "tok_s": round(ours["tok_s"], 2),
        "peak_rss_mb": ours["peak_rss_mb"],
        "mfu": round(useful / peak, 4) if peak else None,
        "peak_gflops": round(peak / 1e9, 1) if peak else None,
        "peer": peer if theirs else None,
        "peer_tok_s": round(theirs["tok_s"], 2) if theirs else None,
        "peer_peak_rss_mb": theirs["peak_rss_mb"] if theirs else None,
        "ratio": round(ours["tok_s"] / theirs["tok_s"], 3) if theirs else None,
    }


# ---- Our side ------------------------------------------------------------------------------------------------------


def run_engine(settings: Settings) -> dict[str, Any]:
    """Measures the engine in a fresh process."""
    return _last_line([sys.executable, str(Path(__file__).resolve()), "--engine-side", json.dumps(asdict(settings))])


def engine_side(settings: Settings) -> None:
    """What that process does; prints its figures as JSON."""
    rng = np.random.default_rng(0)
    seconds = []
    with Engine(
        Path(settings.model), threads=settings.threads, isa=settings.isa, precision=settings.precision
    ) as engine:
        engine.adapter_init(rank=RANK, alpha=ALPHA)
        engine.set_activations("keep" if settings.activations == "keep" else "recompute")
        tokens = rng.integers(0, engine.facts["n_vocab"], settings.tokens).astype(np.int32)
        supervised = np.ones(settings.tokens, np.uint8)
        batch = Batch(tokens, supervised, np.array([settings.tokens], np.int64))
        for number in range(1, settings.repeats + 2):
            start = time.perf_counter()
            engine.forward_backward(batch)
            engine.step(step=number, learning_rate=1e-4, max_grad_norm=1.0)
            seconds.append(time.perf_counter() - start)
        facts = {name: engine.facts[name] for name in ("isa", "precision", "n_threads")}
    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 10**6
    tok_s = settings.tokens / statistics.median(seconds[1:])
    print(json.dumps({**facts, "tok_s": tok_s, "peak_rss_mb": peak_rss, "seconds": seconds}))


# ---- The others ----------------------------------------------------------------------------------------------------


def run_peer(python: Path, shape: str, peer: str, tokens: int, repeats: int, checkpointing: bool) -> dict[str, Any]:
    """Measures transformers + PEFT on the same shape, in their own Python."""
    settings = {
        **asdict(SHAPES[shape]),
        "dtype": PEERS[peer],
        "tokens": tokens,
        "repeats": repeats,
        "rank": RANK,
        "alpha": ALPHA,
        "checkpointing": checkpointing,
    }
    return _last_line([str(python), str(HERE / "peers" / "peft_lora.py"), json.dumps(settings)])


def measure_peak(isa: str, precision: str, threads: int) -> float | None:
    """Operations a second of a register-only loop now, on this machine; None where peak.cpp has no such loop."""
    if isa == "reference":
        return None
    program = cache.cache_dir() / "benchmarks" / "peak"
    source = HERE / "peak.cpp"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(parents=True, exist_ok=True)
        compiler = str(find_compilers().cxx)
        subprocess.run([compiler, "-O2", "-std=c++17", "-pthread", source, "-o", program], check=True)
    return float(subprocess.check_output([program, isa, precision, str(threads)]))


def _last_line(command: list[str]) -> dict[str, Any]:
    """The JSON object that a process prints last."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    if done.returncode != 0:
        raise click.ClickException(f"{command[1]} failed with exit code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    if sys.argv[1:2] == ["--engine-side"]:
        engine_side(Settings(**json.loads(sys.argv[2])))
    else:
        main()
