"""A model file that is cut while a pass reads it ends the pass with a sentence; any other SIGBUS is whose it was."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.gguf.tiny import write_tiny_model

# Engines whose passes take some tenths of a second, on copies of the model that may be spoilt.
OPENED = """
import faulthandler, os, random, shutil, signal, sys, threading, time
from pathlib import Path
import numpy as np
from cpuft.engine import Batch, Engine
from cpuft.errors import ModelError

source, folder = Path(sys.argv[1]), Path(sys.argv[2])
tokens = np.random.default_rng(0).integers(3, 200, 384, dtype=np.int32)
batch = Batch(tokens, np.ones(len(tokens), np.uint8), np.array([len(tokens)], np.int64))
SAID = "had {} bytes when it was opened and has"

def opened(name):
    engine = Engine(Path(shutil.copy(source, folder / name)), threads=2)
    engine.adapter_init(rank=2, alpha=4.0)
    return engine

def refused(run, sentence):
    try:
        run()
    except ModelError as error:
        assert sentence in str(error), error
    else:
        raise AssertionError("it gave numbers")

def still_mapped(model):  # bytes, in whole pages
    lines = [line.split()[0].split("-") for line in open("/proc/self/maps") if line.rstrip().endswith(str(model))]
    return sum(int(end, 16) - int(begin, 16) for begin, end in lines)
"""

# Cuts a model at any moment of a pass, to any size, argv[3] times. Prints how often zeros took the place of the file.
CUT = """
random.seed(0)
mended = 0
for repetition in range(int(sys.argv[3])):
    model = folder / "model.gguf"
    with opened("model.gguf") as engine:
        size, started = model.stat().st_size, time.monotonic()
        engine.forward_backward(batch)
        seconds = time.monotonic() - started
        engine.step(step=1, learning_rate=1e-3)
        parameters, state = engine.parameters.copy(), engine.optimizer_state.copy()
        run = engine.forward if repetition % 3 == 0 else engine.forward_backward

        def run_on():
            while True:
                run(batch)

        cut = threading.Timer(random.random() * seconds, os.truncate, (model, random.randrange(size)))
        cut.start()
        refused(run_on, SAID.format(size))
        cut.join()
        mended += still_mapped(model) < size
        refused(lambda: run(batch), SAID.format(size))
        if run == engine.forward_backward and engine.gradients.any():  # the cut fell between two passes
            engine.zero_gradients()
        refused(lambda: engine.step(step=2, learning_rate=1e-3), "there is no gradient")
        assert np.array_equal(engine.parameters, parameters) and np.array_equal(engine.optimizer_state, state)
        assert engine.detokenize(engine.tokenize("to be")).strip() == b"to be"
print(mended)
"""

# The file looks as before when the pass ends, by size and time.
PUT_BACK = """
model = folder / "model.gguf"
with opened("model.gguf") as engine:
    status = model.stat()

    def spoil():
        time.sleep(0.02)
        os.truncate(model, 0)
        while still_mapped(model) >= status.st_size:
            time.sleep(0.001)
        os.truncate(model, status.st_size)
        os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))

    cut = threading.Thread(target=spoil)
    cut.start()
    for _ in range(2):
        refused(lambda: engine.forward_backward(batch), "could not be read: it was cut for a while")
        cut.join()
    assert not engine.gradients.any()
"""

# Two engines at work, each on its thread.
OTHERS = """
with opened("a.gguf") as spoilt, opened("b.gguf") as whole:
    wanted = whole.forward(batch)
    losses = []
    work = threading.Thread(target=lambda: losses.extend(whole.forward(batch) for _ in range(4)))
    work.start()
    threading.Timer(0.1, os.truncate, (folder / "a.gguf", 0)).start()
    refused(lambda: [spoilt.forward_backward(batch) for _ in range(100)], SAID.format(source.stat().st_size))
    work.join()
    assert losses == 4 * [wanted]
"""

# Passes run on a thread without an end; meanwhile reads behind the end of another file, sends the signal, or forks.
AT_WORK = """
def work():
    with opened("model.gguf") as engine:
        while True:
            engine.forward(batch)
            passes.append(time.monotonic())

def after_passes(n):
    wanted = len(passes) + n
    while len(passes) < wanted:
        time.sleep(0.01)
    time.sleep(0.05)  # into the next

def read_elsewhere():
    (folder / "other").write_bytes(bytes(8192))
    other = np.memmap(folder / "other", np.uint8, "r")
    os.truncate(folder / "other", 0)
    print("reading", flush=True)
    print(other[0])

passes = []
worker = threading.Thread(target=work, daemon=True)
if "early" in sys.argv:
    faulthandler.enable()
worker.start()
after_passes(1)
if "late" in sys.argv:
    faulthandler.enable()
    after_passes(2)
if "sent" in sys.argv:
    heard = []
    signal.signal(signal.SIGBUS, lambda *_: heard.append(1))
    for n in range(1, 4):
        os.kill(os.getpid(), signal.SIGBUS)
        after_passes(1)
        assert len(heard) == n, heard
elif "forked" in sys.argv:
    for spoilt in ("other", "own"):
        child = os.fork()
        if child == 0 and spoilt == "other":
            read_elsewhere()
        if child == 0:
            with opened("child.gguf") as engine:
                threading.Timer(0.05, os.truncate, (folder / "child.gguf", 0)).start()
                refused(lambda: [engine.forward(batch) for _ in range(100)], SAID.format(source.stat().st_size))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (-signal.SIGBUS if spoilt == "other" else 0)
        after_passes(1)
else:
    read_elsewhere()
os.truncate(folder / "model.gguf", 0)  # the handler is there for the next pass
worker.join()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 million parameters."""
    path = tmp_path_factory.mktemp("cut") / "base.gguf"
    return write_tiny_model(path, n_layer=4, n_embd=512, n_ff=1408, half=True)


def run(program: str, model: Path, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """What becomes of a program in a process of its own."""
    command = [sys.executable, "-c", OPENED + program, str(model), str(folder), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_a_cut_in_the_middle_of_a_pass(model: Path, tmp_path: Path) -> None:
    done = run(CUT, model, tmp_path, "12")
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) >= 3  # in others, no pass had yet to read what was cut off


@pytest.mark.parametrize("program", [PUT_BACK, OTHERS], ids=["put back", "beside another"])
def test_what_a_cut_spoils(program: str, model: Path, tmp_path: Path) -> None:
    done = run(program, model, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("enabled", ["never", "early", "late"])
def test_a_fault_elsewhere_ends_the_process(enabled: str, model: Path, tmp_path: Path) -> None:
    """With the traceback of Python's faulthandler, whether that was enabled before the first pass or during one."""
    done = run(AT_WORK, model, tmp_path, enabled)
    assert (done.returncode, done.stdout) == (-signal.SIGBUS, "reading\n")
    assert done.stderr.count("Fatal Python error: Bus error") == (enabled != "never"), done.stderr


@pytest.mark.parametrize("what", ["sent", "forked"])
def test_neither_a_signal_that_was_sent_nor_a_fork_is_in_the_way(what: str, model: Path, tmp_path: Path) -> None:
    done = run(AT_WORK, model, tmp_path, what)
    assert done.returncode == 0, done.stderr
    assert f"had {model.stat().st_size} bytes" in done.stderr  # what the last pass on the thread said
