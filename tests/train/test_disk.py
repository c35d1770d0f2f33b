"""Proves that a run whose checkpoints would fill the disk is refused before it starts, with a setting that fits."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from cpuft.errors import ResourceError
from cpuft.train.disk import folder_bytes
from cpuft.train.loop import run_training
from cpuft.train.memory import Memory
from tests.train.runs import Inputs

MEMORY = Memory({"adapter": 100, "optimizer": 200})


class Disk:
    """A disk with as many bytes free as wanted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch, self._real = monkeypatch, shutil.disk_usage

    def has_free(self, n_bytes: int) -> None:
        """From now on."""
        usage = self._real("/")._replace(free=n_bytes)
        self._monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def needed(inputs: Inputs, output: Path, settings: dict[str, Any]) -> int:
    """What the folder of a run takes at its most."""
    done = output.with_name(f"{output.name}-measured")
    run_training(inputs.job(done, {**settings, "training.save_total_limit": 9}), say=lambda _: None)
    checkpoints = [sum(f.stat().st_size for f in step.iterdir()) for step in (done / "checkpoints").iterdir()]
    return (done / "adapter.gguf").stat().st_size + len(checkpoints) * max(checkpoints)


@pytest.mark.parametrize(
    ("n_steps", "every", "limit", "count"),
    [(9, 2, 2, 3), (9, 2, 3, 4), (9, 2, 4, 5), (9, 2, 7, 5), (9, 50, 3, 1), (9, 3, 2, 3)],
)
def test_no_more_checkpoints_than_a_run_writes(
    n_steps: int, every: int, limit: int, count: int, inputs: Inputs
) -> None:
    settings = {"training.save_steps": every, "training.save_total_limit": limit}
    parts = folder_bytes(inputs.job(Path("run"), settings).config, MEMORY, n_steps)
    assert parts == {"adapter": 100, "checkpoints": count * 300}


def test_a_run_that_the_disk_cannot_hold(inputs: Inputs, disk: Disk, tmp_path: Path) -> None:
    output = tmp_path / "runs" / "one"
    enough = needed(inputs, tmp_path / "one", {})
    for free, setting in ((enough * 6 // 10, "save_total_limit: 2"), (enough * 3 // 10, "save_steps: 9")):
        disk.has_free(free)
        job = inputs.job(output, {"training.save_total_limit": 9})
        with pytest.raises(ResourceError, match=rf"or set training\.{setting}$"):
            run_training(job, say=lambda _: None)
        assert not output.parent.exists()
    disk.has_free(enough // 10)
    with pytest.raises(ResourceError, match=r"give --output on another disk$"):
        run_training(job, say=lambda _: None)
    disk.has_free(enough * 6 // 10)
    run_training(inputs.job(output, {"training.save_total_limit": 2}), say=lambda _: None)


def test_what_a_run_has_written_is_room_for_it(inputs: Inputs, disk: Disk, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run_training(inputs.job(output, {"training.max_steps": 4}), say=lambda _: None)
    held = sum(f.stat().st_size for name in ("checkpoints",) for f in (output / name).rglob("*") if f.is_file())
    disk.has_free(held)  # of three checkpoints two are there
    run_training(inputs.job(output, {"training.max_steps": 4}, resume=True), say=lambda _: None)
    disk.has_free(0)
    with pytest.raises(ResourceError, match="for them"):
        run_training(inputs.job(output, {"training.save_steps": 1}, overwrite=True), say=lambda _: None)
    assert (output / "adapter.gguf").exists()
