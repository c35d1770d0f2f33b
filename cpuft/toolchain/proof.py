"""Proves what was built: every program of llama.cpp and every kernel table of the engine works once, on a tiny model.

A program that was compiled for more than the CPU has, or compiled wrongly, dies of a signal or gives wrong numbers. It
should do so here, and not in the middle of a user's work.
"""

import contextlib
import json
import math
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from cpuft.demo import BASE_MODEL
from cpuft.errors import ToolchainError
from cpuft.machine.child_process import bound
from cpuft.toolchain.locate import LISTENING, tool_environment
from cpuft.toolchain.sources import PACKAGE

PROGRAMS = ("llama-quantize", "llama-imatrix", "llama-bench", "llama-perplexity", "llama-server")
# Ends of a program for which the code in it is to blame. SIGKILL is not among them: that is a lack of memory.
CRASHES = {signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS}

TEXT = "The business analyst writes down what the system must do, for whom, and how anyone can tell that it does it. "
# What the bundled model's perplexity on 12 times this text is with plain C code, and how far other code may be off it.
PERPLEXITY, TOLERANCE = 133.2, 0.03
# A step of training in float32 and one in bytes start from losses this much apart at most.
LOSS_TOLERANCE = 0.03

_CHUNK = "64"  # tokens that are read at a time
READING = ("--ctx-size", _CHUNK, "--batch-size", _CHUNK, "--ubatch-size", _CHUNK, "--threads", "1")
_SECONDS = 300.0  # far more than any of these programs takes on any machine
_ESTIMATE = re.compile(r"Final estimate: PPL = (\S+)")
_ERROR = re.compile(r"^(?:\S+ E |error: |Error: )(.*)$", re.MULTILINE)
_POLL_SECONDS = 0.02
_TRIES = 5  # of llama-perplexity: without our mends it may lose what it prints last


@dataclass(frozen=True)
class Fault:
    """A program that does not work. `how` is what became of it: "died of SIGILL"."""

    program: str
    how: str

    def __str__(self) -> str:
        return f"{self.program} {self.how}"


def prove_llama(lib_dir: Path, log: Path) -> Fault | None:
    """Runs each program of llama.cpp in `lib_dir` once; returns the first fault of the code in one of them.

    log: what they print.

    Raises:
        ToolchainError: a program refuses to work for another reason, which it names.
    """
    with tempfile.TemporaryDirectory(prefix="cpuft-proof-") as name, log.open("wb") as output:
        folder = Path(name)
        text, smaller = folder / "text", folder / "q4_0.gguf"
        text.write_text(12 * TEXT, encoding="utf-8")
        reading = ["--file", text, *READING]
        quantize, imatrix, bench, perplexity, server = PROGRAMS
        commands: list[tuple[str, list[object]]] = [
            (quantize, ["--allow-requantize", BASE_MODEL, smaller, "q4_0"]),
            (imatrix, ["--model", BASE_MODEL, *reading, "--output-file", folder / "imatrix.gguf"]),
            (bench, ["--model", smaller, "-p", _CHUNK, "-n", 2, "-r", 1]),
            (perplexity, ["--model", BASE_MODEL, *reading]),
        ]
        for program, arguments in commands:
            command = [str(lib_dir / program), *map(str, arguments)]
            end = _run(command, folder) if program != perplexity else _run_perplexity(command, folder)
            output.write(end.output.encode())
            output.flush()
            if fault := _fault(program, end, log):
                return fault
        return _wrong(end.output) or _ask_server(lib_dir / server, folder, log)


def prove_engine(library: Path, isas: Sequence[str], log: Path) -> dict[str, Fault]:
    """Trains one step with each kernel table of the engine; returns the faults by table.

    isas: the tables that this CPU runs, with that of plain C++ first: the others' losses are compared with its.

    Raises:
        ToolchainError: the engine refuses to work.
    """
    end = _run([sys.executable, "-m", "cpuft.engine.trial", str(library), str(BASE_MODEL), *isas], PACKAGE.parent)
    log.write_text(end.output, encoding="utf-8")
    trials = [json.loads(line) for line in end.output.splitlines() if line.startswith('{"isa"')]
    if end.status != 0 or [trial["isa"] for trial in trials] != list(isas):
        raise ToolchainError(f"the engine could not be tried ({_last_line(end.output)}): the whole log is {log}")
    faults = {}
    for trial in trials:
        name = f"the engine's {trial['isa']} code"
        if fault := _fault(name, _End(trial["status"], trial["said"]), log):
            faults[trial["isa"]] = fault
        elif not _near(trial["loss"], trials[0]["loss"], LOSS_TOLERANCE) or not math.isfinite(trial["grad_norm"]):
            faults[trial["isa"]] = Fault(name, f"gave a loss of {trial['loss']} instead of {trials[0]['loss']}")
    return faults


@dataclass(frozen=True)
class _End:
    """How a program ended: its exit status, negative for a signal, and what it printed."""

    status: int
    output: str


def _run(command: list[str], folder: Path) -> _End:
    try:
        done = subprocess.run(
            command, cwd=folder, env=tool_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ToolchainError(f"{command[0]} did not end within {_SECONDS:.0f} seconds: run `cpuft build`") from error
    return _End(done.returncode, done.stdout)


def _run_perplexity(command: list[str], folder: Path) -> _End:
    """Runs it again where it ended well without its estimate: it does not wait for its thread that prints."""
    for _ in range(_TRIES):
        end = _run(command, folder)
        if end.status != 0 or _ESTIMATE.search(end.output):
            break
    return end


def _fault(program: str, end: _End, log: Path) -> Fault | None:
    """Tells a fault of the code in a program from one of its surroundings, which is raised."""
    if -end.status in CRASHES:
        return Fault(program, f"died of {signal.Signals(-end.status).name}")
    if end.status == 0:
        return None
    said = found[1] if (found := _ERROR.search(end.output)) else _last_line(end.output)
    killed = f"was ended by signal {-end.status}" if end.status < 0 else f"ended with status {end.status}"
    raise ToolchainError(f"{program} {killed} when it was tried ({said.strip()}): the whole log is {log}")


def _wrong(output: str) -> Fault | None:
    """Compares the perplexity; where its line was lost there is nothing to hold against the code."""
    found = _ESTIMATE.search(output)
    if found is None or _near(float(found[1]), PERPLEXITY, TOLERANCE):
        return None
    return Fault("llama-perplexity", f"gave {found[1]} instead of {PERPLEXITY}")


def _ask_server(program: Path, folder: Path, log: Path) -> Fault | None:
    """Starts llama-server, get one answer of it, end it."""
    command: list[str | Path] = [program, "--model", BASE_MODEL, "--host", "127.0.0.1", "--port", "0"]
    command += ["--ctx-size", "256", "--parallel", "1", "--offline", "--no-ui"]
    printed = folder / "server"
    with printed.open("wb") as output:
        process = subprocess.Popen(
            bound(command), cwd=folder, env=tool_environment(),
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            answered = _answer(process, printed)
        finally:
            process.terminate()
            process.wait()
    text = printed.read_text(errors="replace")
    with log.open("a", encoding="utf-8") as whole:
        whole.write(text)
    # An end after the answer is ours: no fault.
    return None if answered else _fault(program.name, _End(process.returncode or 1, text), log)


def _answer(process: "subprocess.Popen[bytes]", printed: Path) -> bool:
    """Whether the server answers before it ends."""
    deadline = time.monotonic() + _SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if found := LISTENING.search(printed.read_bytes()):
            body = json.dumps({"prompt": TEXT, "n_predict": 2}).encode()
            request = urllib.request.Request(
                f"{found[1].decode()}/completion", data=body, headers={"Content-Type": "application/json"}
            )
            try:
                with _OPENER.open(request, timeout=_SECONDS) as reply:
                    return "content" in json.load(reply)
            except urllib.error.HTTPError as error:
                if error.code == HTTPStatus.SERVICE_UNAVAILABLE:  # it listens before its model is loaded
                    time.sleep(_POLL_SECONDS)
                    continue
            except (OSError, ValueError):
                pass
            with contextlib.suppress(subprocess.TimeoutExpired):  # it may be dying of what it was asked
                process.wait(5)
            return False
        time.sleep(_POLL_SECONDS)
    return False


def _near(value: float, wanted: float, tolerance: float) -> bool:
    return abs(value - wanted) <= tolerance * abs(wanted)


def _last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


# No proxy stands between two programs of one machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
