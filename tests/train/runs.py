"""Short training runs, and what of them must be equal from one to the next."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpuft.config.file import load_config
from cpuft.config.keys import TrainJob

# 11 examples, 4 a step: 3 steps an epoch, the last of them partial.
SETTINGS = {
    "lora.r": 4,
    "lora.lora_alpha": 8,
    "lora.lora_dropout": 0.1,
    "training.num_epochs": 3,
    "training.gradient_accumulation_steps": 4,
    "training.learning_rate": 1e-2,
    "training.warmup_steps": 2,
    "training.tokens_per_pass": 200,
    "training.logging_steps": 2,
    "training.eval_steps": 3,
    "training.save_steps": 2,
    "training.save_total_limit": 2,
    "training.date": "2026-01-31",
    "training.threads": 1,
}


@dataclass(frozen=True)
class Inputs:
    """The files of a run."""

    model: Path
    train: Path
    val: Path | None

    def job(self, output: Path, settings: Mapping[str, Any] | None = None, **options: Any) -> TrainJob:
        """A run over these files with SETTINGS, `settings` put over them."""
        config, _ = load_config(None, {**SETTINGS, **(settings or {})})
        return TrainJob(self.model, self.train, output, config, **{"val": self.val, **options})


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def lasting(run: Path) -> dict[str, Any]:
    """All of a finished run but what the clock and the machine's memory decide."""
    timeless = [{k: v for k, v in line.items() if k not in ("tok_s", "rss_mb")} for line in metrics(run)]
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name.removeprefix("step-")))
    files = [run / "adapter.gguf", run / "config.yaml", newest / "adapter.gguf", newest / "optimizer.npy"]
    return {
        "metrics": timeless,
        "newest": newest.name,
        **{f"{i} {f.name}": f.read_bytes() for i, f in enumerate(files)},
    }
