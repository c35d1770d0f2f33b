"""Proves that a run that is interrupted or killed anywhere and resumed leaves the bytes of one that never stopped."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpuft.adapters.adapter import read_adapter
from cpuft.errors import ConfigError
from cpuft.gguf.reader import read_gguf
from cpuft.train import checkpoint
from cpuft.train.loop import Outcome, run_training
from cpuft.train.run import RunFolder
from tests.conftest import ROOT
from tests.train.runs import Inputs, lasting, metrics

QUIET = lambda _: None  # noqa: E731

# Trains until an operation on a file, named by an audit event and a word in its arguments; there it is killed, or the
# disk is full.
DISTURBED = """
import errno, json, os, signal, sys
from pathlib import Path
from cpuft.train.loop import run_training
from tests.train.runs import Inputs

given, output, event, word, what, settings = json.loads(sys.argv[1])

def disturb(name, arguments):
    if name == event and any(word in str(a) for a in arguments):
        if what == "full disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(disturb)
say = lambda line: sys.audit("cpuft.say", line)
run_training(Inputs(*map(Path, given)).job(Path(output), settings), say=say)
"""
POINTS = [
    ("cpuft.say", "Step 3/"),  # between two checkpoints
    ("cpuft.say", "Model:"),  # before the first
    ("open", ".step-4.partial/optimizer.npy"),  # the checkpoint has its adapter and nothing else
    ("open", ".step-4.partial/state.json"),
    ("os.rename", "checkpoints/step-4"),  # complete, but under its temporary name
    ("shutil.rmtree", "checkpoints/step-2"),  # the new one stands, the old one is about to go
    ("os.remove", "optimizer.npy"),  # the old one is half gone
    ("os.rename", "run/adapter.gguf"),  # a better adapter is written, the older one stands under the name
    ("open", "loss.png"),  # trained to the end
]


def disturb(
    inputs: Inputs, output: Path, event: str, word: str, what: str, settings: Mapping[str, Any] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Trains in a process of its own, until it is disturbed."""
    given = [[str(inputs.model), str(inputs.train), str(inputs.val)], str(output), event, word, what, settings]
    command = [sys.executable, "-c", DISTURBED, json.dumps(given)]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(("event", "word"), POINTS)
def test_kill_and_resume(
    event: str, word: str, inputs: Inputs, whole_run: tuple[Path, Outcome], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    assert disturb(inputs, output, event, word, "kill").returncode == -signal.SIGKILL
    outcome = run_training(inputs.job(output, resume=True), say=QUIET)
    assert outcome.ended == "complete"
    assert lasting(output) == lasting(whole_run[0])
    assert not list(output.rglob("*.partial"))


@pytest.mark.parametrize("word", [".step-4.partial/optimizer.npy", ".adapter.gguf", "loss.png"])
def test_a_full_disk_and_resume(word: str, inputs: Inputs, whole_run: tuple[Path, Outcome], tmp_path: Path) -> None:
    output = tmp_path / "run"
    ended = disturb(inputs, output, "open", word, "full disk")
    assert "cpuft.errors.ResourceError" in ended.stderr
    assert re.search(r": the disk is full, \d+ MB are free: free some space and run the command again$", ended.stderr)
    assert not list(output.rglob("*.partial"))
    assert run_training(inputs.job(output, resume=True), say=QUIET).ended == "complete"
    assert lasting(output) == lasting(whole_run[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_and_resume(
    number: signal.Signals, inputs: Inputs, whole_run: tuple[Path, Outcome], tmp_path: Path
) -> None:
    """The step at hand is finished and saved; the handlers are the former ones afterwards."""

    def interrupt(line: str) -> None:
        if "Step 3/" in line:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    job = inputs.job(tmp_path / "run")
    outcome = run_training(job, say=interrupt)
    assert signal.getsignal(number) is before
    assert (outcome.ended, outcome.step) == ("interrupted", 3)
    assert (tmp_path / "run" / "checkpoints" / "step-3").is_dir()
    resumed = run_training(replace(job, resume=True), say=QUIET)
    assert (resumed.ended, resumed.step) == ("complete", 9)
    assert lasting(tmp_path / "run") == lasting(whole_run[0])


def test_a_second_interrupt_stops_at_once(inputs: Inputs, tmp_path: Path) -> None:
    def interrupt_twice(line: str) -> None:
        if "Step 2/" in line:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_training(inputs.job(tmp_path / "run"), say=interrupt_twice)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def copy_of(whole_run: tuple[Path, Outcome], tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run[0], tmp_path / "run"))


def test_a_damaged_checkpoint_is_passed_over(inputs: Inputs, whole_run: tuple[Path, Outcome], tmp_path: Path) -> None:
    run = copy_of(whole_run, tmp_path)
    with (run / "checkpoints" / "step-9" / "optimizer.npy").open("r+b") as stream:
        stream.seek(200)
        stream.write(b"damage")
    said: list[str] = []
    outcome = run_training(inputs.job(run, resume=True), say=said.append)
    assert outcome.ended == "complete"
    assert "Passed over: step-9 (damaged: its files do not have their sums); the run goes on from step 8" in said
    assert "Resumed after step 8" in (run / "training.log").read_text()
    assert lasting(run) == lasting(whole_run[0])
    assert sorted(os.listdir(run / "checkpoints")) == ["step-8", "step-9"]


@pytest.mark.parametrize(
    ("ours", "theirs", "why"),
    [
        ('"format": 1', '"format": 2', "of format 2, expected 1: another version of cpuft wrote it"),
        ('"n_tokens"', '"n_words"', "state.json holds other things than expected: another version of cpuft wrote it"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_is_passed_over_and_kept(
    ours: str, theirs: str, why: str, inputs: Inputs, whole_run: tuple[Path, Outcome], tmp_path: Path
) -> None:
    run = copy_of(whole_run, tmp_path)
    state = run / "checkpoints" / "step-9" / "state.json"
    state.write_text(state.read_text().replace(ours, theirs))
    later, said = state.read_bytes(), list[str]()
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "other"}\n')
    with pytest.raises(ConfigError, match="begun with another training data"):
        run_training(replace(inputs, train=other).job(run, resume=True), say=QUIET)
    assert state.read_bytes() == later
    run_training(inputs.job(run, {"training.save_total_limit": 1}, resume=True), say=said.append)
    assert f"Passed over: step-9 ({why}); the run goes on from step 8" in said
    kept, new = sorted((run / "checkpoints").iterdir(), key=lambda path: len(path.name), reverse=True)
    assert (kept.name.startswith("step-9.passed-over-"), new.name) == (True, "step-9")
    assert (kept / "state.json").read_bytes() == later
    assert (new / "adapter.gguf").read_bytes() == (run / "adapter.gguf").read_bytes()


def test_a_disk_that_does_not_read_removes_nothing(whole_run: tuple[Path, Outcome], tmp_path: Path) -> None:
    """/proc/self/mem stands for it: it opens, and reading its beginning is an input/output error."""
    run = copy_of(whole_run, tmp_path)
    optimizer = run / "checkpoints" / "step-9" / "optimizer.npy"
    optimizer.rename(tmp_path / "optimizer.npy")
    optimizer.symlink_to("/proc/self/mem")
    found, notes = checkpoint.newest(run / "checkpoints")
    assert found is not None
    assert found.path.name == "step-8"
    assert notes == ["Passed over: step-9 (it cannot be read: Input/output error); the run goes on from step 8"]
    optimizer.unlink()
    (tmp_path / "optimizer.npy").rename(optimizer)  # it was a loose cable
    found, notes = checkpoint.newest(run / "checkpoints")
    assert found is not None
    assert (found.path.name, notes) == ("step-9", [])


def test_no_checkpoint_is_told_and_none_of_use_begins_no_run_anew(
    inputs: Inputs, whole_run: tuple[Path, Outcome], tmp_path: Path
) -> None:
    run, said = copy_of(whole_run, tmp_path), list[str]()
    for step in (8, 9):
        (run / "checkpoints" / f"step-{step}" / "state.json").unlink()
    before = (run / "adapter.gguf").read_bytes()
    with pytest.raises(ConfigError, match=r"step-9 \(damaged: it has no state.json\); step-8 .* give --overwrite"):
        run_training(inputs.job(run, resume=True), say=QUIET)
    assert (run / "adapter.gguf").read_bytes() == before
    for step in (8, 9):
        shutil.rmtree(run / "checkpoints" / f"step-{step}")
    run_training(inputs.job(run, resume=True), say=said.append)
    assert "No checkpoint yet: begun at step 1" in said
    assert lasting(run) == lasting(whole_run[0])


def test_later_checkpoints_that_were_passed_over_push_out_no_new_one(
    inputs: Inputs, whole_run: tuple[Path, Outcome], tmp_path: Path
) -> None:
    run = copy_of(whole_run, tmp_path)
    shutil.rmtree(run / "checkpoints" / "step-8")
    (run / "checkpoints" / "step-9").rename(run / "checkpoints" / "step-99")
    state = run / "checkpoints" / "step-99" / "state.json"
    state.write_text(state.read_text().replace('"format": 1', '"format": 2'))
    shutil.copytree(run / "checkpoints" / "step-99", run / "checkpoints" / "step-1")
    first = run / "checkpoints" / "step-1" / "state.json"
    content = json.loads(first.read_text()) | {"format": 1, "step": 1}
    first.write_text(json.dumps(content))
    run_training(inputs.job(run, {"training.save_total_limit": 1}, resume=True), say=QUIET)
    assert sorted(os.listdir(run / "checkpoints")) == ["step-9", "step-99"]


def test_lines_after_the_checkpoint_and_half_a_line_are_forgotten(
    inputs: Inputs, whole_run: tuple[Path, Outcome], tmp_path: Path
) -> None:
    run = copy_of(whole_run, tmp_path)
    shutil.rmtree(run / "checkpoints" / "step-9")
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 3, "epo')
    run_training(inputs.job(run, resume=True), say=QUIET)
    assert lasting(run) == lasting(whole_run[0])


def test_8bit_moments_resume(inputs: Inputs, tmp_path: Path) -> None:
    """Interrupted twice, and never; the checkpoint holds the 8-bit state itself."""

    def interrupt(line: str) -> None:
        if "Step 3/" in line or "Step 6/" in line:
            os.kill(os.getpid(), signal.SIGINT)

    settings, whole, parts = {"training.optim": "adamw_8bit"}, tmp_path / "whole", tmp_path / "parts"
    run_training(inputs.job(whole, settings), say=QUIET)
    for step in (3, 6, 9):
        outcome = run_training(inputs.job(parts, settings, resume=step > 3), say=interrupt)
        assert outcome.step == step
    assert lasting(parts) == lasting(whole)
    state = np.load(whole / "checkpoints" / "step-9" / "optimizer.npy")
    sizes = [values.size for values in read_adapter(whole / "adapter.gguf").tensors.values()]
    assert state.nbytes == sum(2 * size + 8 * -(-size // 256) for size in sizes)
    with pytest.raises(ConfigError, match=r"training\.optim was 'adamw_8bit' and is 'adamw'"):
        run_training(inputs.job(parts, resume=True), say=QUIET)


def test_a_run_cannot_be_resumed_as_another(inputs: Inputs, whole_run: tuple[Path, Outcome], tmp_path: Path) -> None:
    run = copy_of(whole_run, tmp_path)
    with pytest.raises(ConfigError, match=r"training\.seed was 0 and is 7.*--init-adapter"):
        run_training(inputs.job(run, {"training.seed": 7}, resume=True), say=QUIET)
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "other"}\n')
    with pytest.raises(ConfigError, match="begun with another training data: give the same to resume it"):
        run_training(replace(inputs, train=other).job(run, resume=True), say=QUIET)
    with pytest.raises(ConfigError, match="begun with another validation data"):
        run_training(inputs.job(run, resume=True, val=None), say=QUIET)
    with pytest.raises(ConfigError, match="begun with another initial adapter"):
        run_training(inputs.job(run, {"lora.init_adapter": str(run / "adapter.gguf")}, resume=True), say=QUIET)
    with pytest.raises(ConfigError, match="begun with another model"):
        run_training(
            replace(inputs, model=_one_weight_changed(inputs.model, tmp_path)).job(run, resume=True), say=QUIET
        )
    assert lasting(run) == lasting(whole_run[0])


def _one_weight_changed(model: Path, folder: Path) -> Path:
    """A copy that differs in the sign of a single weight in the middle of the file."""
    data = bytearray(model.read_bytes())
    tensors = read_gguf(model).tensors.values()
    middle = next(tensor for tensor in tensors if tensor.offset <= len(data) // 2 < tensor.offset + tensor.size)
    assert middle.type.name == "f32"
    data[middle.offset + 4 * (middle.size // 8) + 3] ^= 0x80
    changed = folder / model.name
    changed.write_bytes(data)
    return changed


def test_more_checkpoints_and_other_threads_are_no_other_run(
    inputs: Inputs, whole_run: tuple[Path, Outcome], tmp_path: Path
) -> None:
    run = copy_of(whole_run, tmp_path)
    shutil.rmtree(run / "checkpoints" / "step-9")
    run_training(inputs.job(run, {"training.save_steps": 1, "training.threads": 2}, resume=True), say=QUIET)
    assert metrics(run)[-1]["val_loss"] == metrics(whole_run[0])[-1]["val_loss"]


def test_when_a_folder_is_refused(inputs: Inputs, whole_run: tuple[Path, Outcome], tmp_path: Path) -> None:
    run = copy_of(whole_run, tmp_path)
    before = lasting(run)
    with pytest.raises(ConfigError, match=r"the folder is not empty: give --resume .* --overwrite .* another --output"):
        run_training(inputs.job(run), say=QUIET)
    with pytest.raises(ConfigError, match="give one of them"):
        run_training(inputs.job(run, resume=True, overwrite=True), say=QUIET)
    with pytest.raises(ConfigError, match="there is no run to resume"):
        run_training(inputs.job(tmp_path / "none", resume=True), say=QUIET)
    with pytest.raises(ConfigError, match="a file, expected a folder"):
        run_training(inputs.job(inputs.train), say=QUIET)
    assert lasting(run) == before
    (run / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"the folder also holds thesis\.tex: give another --output"):
        run_training(inputs.job(run, overwrite=True), say=QUIET)


def test_overwrite_replaces_a_run(inputs: Inputs, whole_run: tuple[Path, Outcome], tmp_path: Path) -> None:
    run = copy_of(whole_run, tmp_path)
    run_training(inputs.job(run, {"training.max_steps": 1}, overwrite=True), say=QUIET)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-1"]
    assert {line["step"] for line in metrics(run)} == {1}


def test_a_run_that_ended_while_another_read_its_data_stays(whole_run: tuple[Path, Outcome], tmp_path: Path) -> None:
    output = tmp_path / "run"
    late = RunFolder(output)
    late.require(resume=False, overwrite=False)
    shutil.copytree(whole_run[0], output)
    with pytest.raises(ConfigError, match="the folder is not empty"), late.opened(resume=False, overwrite=False):
        pass
    assert lasting(output) == lasting(whole_run[0])


def test_two_processes_do_not_share_a_folder(inputs: Inputs, tmp_path: Path) -> None:
    job = inputs.job(tmp_path / "run")

    def train_again(line: str) -> None:
        if "Step 2/" in line:
            with pytest.raises(ConfigError, match="another process is training in this folder"):
                run_training(replace(job, resume=True), say=QUIET)

    assert run_training(job, say=train_again).ended == "complete"
