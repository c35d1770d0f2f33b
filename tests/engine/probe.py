"""Opens and uses model files in a process of their own, so that a crash is a result and not the end of the tests."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cpuft.engine import Batch, Engine
from cpuft.errors import CpuftError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """What became of one file. error: "" where the model worked, else an error's class, or "crash"."""

    path: Path
    error: str
    message: str


def probe(paths: Sequence[Path]) -> list[Outcome]:
    """Every file's outcome; after a crash the rest goes to a new process."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(paths):
        remaining = [str(path) for path in paths[len(outcomes) :]]
        command = [sys.executable, "-m", "tests.engine.probe"]
        # ggml prints a backtrace with the help of a debugger when it aborts; nobody reads it here.
        environment = os.environ | {"GGML_NO_BACKTRACE": "1"}
        done = subprocess.run(
            command, input="\n".join(remaining), capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300
        )
        outcomes += [Outcome(Path(path), *rest) for path, *rest in map(json.loads, done.stdout.splitlines())]
        if len(outcomes) < len(paths):
            culprit = paths[len(outcomes)]
            outcomes.append(Outcome(culprit, "crash", f"exit code {done.returncode}: {done.stderr[-1000:]}"))
    return outcomes


def use(path: Path) -> None:
    """One short life of an engine: open, tokenize, a pass forward and backward, a step."""
    with Engine(path, threads=1) as engine:
        tokens = engine.tokenize("to be or not, ünï 42", add_special=True)
        engine.detokenize(tokens)
        engine.adapter_init(rank=2, alpha=4.0)
        n = 5
        supervised = np.ones(n, np.uint8)
        engine.forward_backward(Batch(np.arange(n, dtype=np.int32), supervised, np.array([n], np.int64)))
        engine.step(
            step=1, learning_rate=1e-3, beta1=0.9, beta2=0.99, epsilon=1e-8, weight_decay=0.0, max_grad_norm=1.0
        )


def main() -> None:
    """Reads paths from standard input and writes a JSON line for each: path, error class, message."""
    for path in sys.stdin.read().splitlines():
        error, message = "", ""
        try:
            use(Path(path))
        except CpuftError as failure:
            error, message = type(failure).__name__, str(failure)
        print(json.dumps([path, error, message]), flush=True)


if __name__ == "__main__":
    main()
