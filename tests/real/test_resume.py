"""A run on a real model that is killed and resumed leaves the bytes of one that never stopped."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import ROOT, RunCpuft
from tests.real import appointments, models
from tests.train.runs import lasting, metrics

SETTINGS = {
    "lora.r": 4,
    "lora.lora_dropout": 0.1,
    "training.max_steps": 6,
    "training.gradient_accumulation_steps": 4,
    "training.logging_steps": 1,
    "training.eval_steps": 3,
    "training.save_steps": 2,
    "training.date": "2026-01-31",
}
N_STEPS, KILLED_AFTER = 6, 3  # between two checkpoints


def test_kill_and_resume(gemma: Path, run_cpuft: RunCpuft, tmp_path: Path) -> None:
    """`cpuft train` gets SIGKILL on its way; with --resume it ends with the files of an uninterrupted run."""
    train, val = (_texts(tmp_path / f"{name}.jsonl", n, seed) for name, n, seed in (("train", 16, 1), ("val", 4, 2)))
    files = ("--model", gemma, "--train", train, "--val", val)
    given = {**SETTINGS, "training.threads": models.threads()}
    settings = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run_cpuft("train", *files, *settings, "--output", whole)
    assert done.returncode == 0, done.stderr
    _train_and_kill(*files, *settings, "--output", killed)
    assert KILLED_AFTER <= _last_step(killed) < N_STEPS
    done = run_cpuft("train", *files, "--output", killed, "--resume")
    assert done.returncode == 0, done.stderr
    assert "Resumed after step" in (killed / "training.log").read_text()
    assert lasting(killed) == lasting(whole)


def _texts(path: Path, count: int, seed: int) -> Path:
    """Appointments without a chat template: the model has none."""
    lines = [
        json.dumps({"prompt": asked["content"] + "\n", "completion": form["content"]}) + "\n"
        for asked, form in appointments.conversations(count, seed=seed)
    ]
    path.write_text("".join(lines))
    return path


def _train_and_kill(*arguments: str | Path) -> None:
    """Trains until the log tells of step KILLED_AFTER."""
    run = Path(arguments[-1])
    command = [sys.executable, "-m", "cpuft", "train", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and _last_step(run) < KILLED_AFTER:
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL


def _last_step(run: Path) -> int:
    """The last step that is on the disk, 0 for none."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        lines = metrics(run)
        return int(lines[-1]["step"]) if lines else 0
    return 0
