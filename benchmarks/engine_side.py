"""Our side of the benchmarks: LoRA steps of the engine, in a fresh process. One JSON line.

Usage: python engine_side.py '{"model": "model.gguf", "tokens": 512}'    (the fields of Settings)
"""

import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fresh_process import figures_of
from benchmarks.peak_rss import own_peak_rss_mb
from cpuft.engine import Batch, Engine
from cpuft.errors import CpuftError

# The optimizers as configurations name them, and how each keeps AdamW's moments.
OPTIMIZERS: dict[str, Literal["f32", "8bit"]] = {"adamw": "f32", "adamw_8bit": "8bit"}
Activations = Literal["keep", "recompute"]
POLICIES: tuple[Activations, ...] = ("keep", "recompute")


@dataclass(frozen=True)
class Settings:
    """What is run: optimizer steps over one sequence of random tokens, all supervised, LoRA on `n_targets` layers."""

    model: str  # path of the GGUF
    tokens: int
    repeats: int = 5  # steps that count, after one that does not
    threads: int = 0  # 0: every CPU
    isa: str | None = None
    precision: str | None = None
    activations: Activations = "keep"
    optimizer: str = "adamw"
    rank: int = 16
    n_targets: int | None = None  # the first so many of the model's; None: all


def run_engine(settings: Settings) -> dict[str, Any]:
    """Measures in a fresh process: isa, precision, n_threads, seconds of each step that counts, peak_rss_mb, moments_mb
    (the optimizer's), and parts: the mean seconds of these steps by part, as Engine.profile names them.

    Raises UserError where the engine refuses the settings.
    """
    return figures_of([sys.executable, str(Path(__file__).resolve()), json.dumps(asdict(settings))])


def measure(settings: Settings) -> dict[str, Any]:
    """What that process does."""
    seconds, profiles = [], []
    with Engine(
        Path(settings.model), threads=settings.threads, isa=settings.isa, precision=settings.precision
    ) as engine:
        engine.adapter_init(
            rank=settings.rank,
            alpha=settings.rank,
            targets=engine.facts["targets"][: settings.n_targets],
            moments=OPTIMIZERS[settings.optimizer],
        )
        engine.set_activations(settings.activations)
        tokens = np.random.default_rng(0).integers(0, engine.facts["n_vocab"], settings.tokens).astype(np.int32)
        batch = Batch(tokens, np.ones(settings.tokens, np.uint8), np.array([settings.tokens], np.int64))
        for number in range(1, settings.repeats + 2):
            start = time.perf_counter()
            engine.forward_backward(batch)
            engine.step(step=number, learning_rate=1e-4, max_grad_norm=1.0)
            seconds.append(time.perf_counter() - start)
            profiles.append(engine.profile())
        facts = {name: engine.facts[name] for name in ("isa", "precision", "n_threads")}
        moments_mb = round(engine.optimizer_state.size / 1e6, 1)
    parts = {part: statistics.fmean(profile[part] for profile in profiles[1:]) for part in profiles[0]}
    memory = {"peak_rss_mb": own_peak_rss_mb(), "moments_mb": moments_mb}
    return {**facts, "seconds": seconds[1:], "parts": parts, **memory}


def main() -> int:
    """Prints the figures, or {"error": sentence}."""
    try:
        print(json.dumps(measure(Settings(**json.loads(sys.argv[1])))))
    except CpuftError as error:
        print(json.dumps({"error": str(error)}))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
