"""A forked child of a process with an open engine can use it, with one thread, and close it."""

import os
import subprocess
import sys
from pathlib import Path

from .random_model import ModelSpec, write_model

SPEC = ModelSpec("llama", n_layer=1, n_embd=48, n_ff=64, n_head=3, n_head_kv=1, head_size=16, seed=45)

# The child's loss and exit; then the parent's, whose workers go on.
PROGRAM = """
import os, sys
from pathlib import Path
import numpy as np
from cpuft.engine import Batch, Engine

n = 64
batch = Batch(np.arange(n, dtype=np.int32), np.ones(n, np.uint8), np.array([n], np.int64))
engine = Engine(Path(sys.argv[1]), threads=4, precision="f32")
engine.adapter_init(rank=2, alpha=4.0)
print(engine.forward_backward(batch), flush=True)
if os.fork() == 0:
    print(engine.forward_backward(batch), flush=True)
    engine.close()
    print("closed", flush=True)
    os._exit(0)
_, status = os.wait()
print(status, engine.forward_backward(batch))
engine.close()
"""


def test_a_forked_child_computes_and_closes(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", SPEC)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, model], capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    before, child, closed, after = done.stdout.splitlines()
    assert (child, closed, after) == (before, "closed", f"0 {before}")
