"""Proves that a run outlives who watches it, and that every signal to stop leaves the checkpoint that was promised."""

import contextlib
import errno
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cpuft.errors import ResourceError
from cpuft.train.loop import run_training
from tests.conftest import ROOT
from tests.train.runs import SETTINGS, Inputs

SETTING_OPTIONS = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
ENDLESS = ["--set", "training.num_epochs=10000", "--set", "training.logging_steps=1"]


def command(inputs: Inputs, output: Path, *more: str) -> list[str]:
    """The command line of a run."""
    files = ["--model", inputs.model, "--train", inputs.train, "--output", output]
    return [sys.executable, "-m", "cpuft", "train", *map(str, files), *SETTING_OPTIONS, *more]


def steps(run: Path) -> list[int]:
    """The checkpoints of a run."""
    return sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").iterdir())


def lines(run: Path) -> list[str]:
    """training.log without the time of its lines."""
    return [line.split(" ", 2)[2] for line in (run / "training.log").read_text().splitlines()]


@contextlib.contextmanager
def training(inputs: Inputs, run: Path, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """A run without an end, in its third step or later; killed after the block."""
    with subprocess.Popen(
        command(inputs, run, *ENDLESS), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    ) as process:
        assert process.stdout is not None
        next((line for line in process.stdout if "Step 2/" in line), None)
        try:
            yield process
        finally:
            process.kill()


def test_a_closed_terminal_is_a_request_to_stop(inputs: Inputs, tmp_path: Path) -> None:
    """Its signal comes more than once, and a service manager sends another with it."""
    run = tmp_path / "run"
    with training(inputs, run) as process:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
            process.send_signal(number)
        said, complained = process.communicate(timeout=60)
    assert process.returncode == 130, complained
    assert complained == "Interrupted: run the same command with --resume to go on.\n"
    assert said.endswith(f"Stopped after step {steps(run)[-1]} of 30000.\n")


def test_nohup_is_honoured(inputs: Inputs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with training(inputs, run, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as process:
        process.send_signal(signal.SIGHUP)
        assert process.stdout is not None
        assert next(line for line in process.stdout if "Step 9/" in line)


def test_who_reads_only_the_beginning_does_not_end_the_run(inputs: Inputs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = command(inputs, run, "--set", "training.logging_steps=1")
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" | head -2', "bash", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2
    assert steps(run)[-1] == 9
    assert sum("can no longer be told ([Errno 32] Broken pipe): training goes on" in line for line in lines(run)) == 1
    assert sum("Step " in line for line in lines(run)) == 9


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_an_output_that_takes_nothing_is_not_the_fault_of_the_run(
    more: list[str], inputs: Inputs, tmp_path: Path
) -> None:
    run, config = tmp_path / "run", tmp_path / "config.yaml"
    config.write_text("quantization: {load_in_4bit: true}\n")  # of which there is something to say
    with open("/dev/full", "w") as full:
        words = command(inputs, run, "--config", str(config), *more)
        done = subprocess.run(words, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert steps(run)[-1] == 9
    assert (run / "adapter.gguf").is_file()
    *_, last = done.stderr.splitlines() or [""]
    assert "Traceback" not in done.stderr
    if more:  # what a program waits for was not delivered
        assert (done.returncode, last.startswith("Error: the disk is full")) == (2, True)
    else:
        assert (done.returncode, last) == (0, "")


def test_a_terminal_that_goes_away_leaves_a_checkpoint(inputs: Inputs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, command(inputs, run, *ENDLESS))
    seen = b""
    while b"Step 2/" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    # By then nobody handles the signal, if it comes once more: the checkpoint stands.
    assert os.waitstatus_to_exitcode(status) in (130, -signal.SIGHUP)
    assert steps(run)[-1] >= 2
    logged = [int(found[1]) for line in lines(run) if (found := re.search(r"Step (\d+)/", line))]
    assert logged[-1] == steps(run)[-1]


def test_a_signal_between_two_lines_of_the_loop_leaves_the_checkpoint(inputs: Inputs, tmp_path: Path) -> None:
    """It comes once the loop has asked whether it must save."""
    run = tmp_path / "run"

    def interrupt(*told: Any, **_: str) -> None:
        if told[:2] == ("Training", 3):
            os.kill(os.getpid(), signal.SIGTERM)

    outcome = run_training(inputs.job(run), say=lambda _: None, progress=interrupt)
    assert (outcome.ended, outcome.step) == ("interrupted", 3)
    assert steps(run) == [2, 3]


def test_what_shows_the_run_may_fail(inputs: Inputs, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    outcome = run_training(inputs.job(tmp_path / "run"), say=fail, progress=fail)
    assert (outcome.ended, outcome.step) == ("complete", 9)
    told = [line for line in lines(tmp_path / "run") if "can no longer be told" in line]
    assert told == ["Who listens can no longer be told ([Errno 5] Input/output error): training goes on"]


def test_a_full_disk_under_the_records_of_the_run_ends_it(inputs: Inputs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_training(inputs.job(run, {"training.max_steps": 2}), say=lambda _: None)
    (run / "training.log").unlink()
    (run / "training.log").symlink_to("/dev/full")
    with pytest.raises(ResourceError, match=r"training\.log: the disk is full"):
        run_training(inputs.job(run, {"training.max_steps": 2}, resume=True), say=lambda _: None)
