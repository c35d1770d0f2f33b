"""Logits are compared a few at a time: memory does not grow with the length of an example."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.shapes import SHAPES, TINY, write_model
from cpuft.toolchain import Toolchain

# The peak of resident memory in megabytes: before, with a comparison, and with the logits of one example whole.
PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from cpuft.data.examples import Example
from cpuft.engine import Engine
from cpuft.release import divergence

divergence.LOGITS = 1 << 20
divergence.BLOCK_VALUES = 1 << 18
tokens = np.arange(3000, dtype=np.int32)
supervised = np.ones(3000, np.uint8)
supervised[0] = 0

def peak():
    status = Path("/proc/self/status").read_text().splitlines()  # getrusage would count the parent's, too
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024 / 1e6

with Engine(Path(sys.argv[1]), threads=2, precision="f32") as engine:
    engine.forward_hidden(tokens, np.array([3000]))
    peaks = [peak()]
    with divergence.ReferenceLogits(engine, [Example(tokens, supervised, "all")]) as reference:
        found = reference.compare(engine, "itself")
    assert (found.n_tokens, found.kl) == (2999, 0.0)
    peaks.append(peak())
    engine.logits(tokens, np.array([3000]))
    peaks.append(peak())
print(json.dumps(peaks))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_of_a_long_example(built: Toolchain, tmp_path: Path) -> None:
    """Its logits, 384 MB for 3000 tokens and a vocabulary of 32 000, never exist whole."""
    assert built
    write_model(tmp_path / "model.gguf", SHAPES[TINY], "q8_0")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "model.gguf")]
    done = subprocess.run(command, cwd=Path(__file__).resolve().parents[2], check=True, capture_output=True, text=True)
    before, compared, whole = json.loads(done.stdout)
    assert compared - before < 60
    assert whole - before > 350
