"""The folder of a training run: which files it has, when it may be written, and by one process at a time.

config.yaml       the configuration as resolved
adapter.gguf      the best adapter so far
checkpoints/      step-N/: all that a resumed run needs (see `checkpoint`)
metrics.jsonl     a line for each logged step and each validation
training.log      the same in words
tensorboard/      the same as TensorBoard events
loss.png          the same as a picture, drawn at the end
"""

import contextlib
import datetime
import json
import shutil
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import yaml

from cpuft.config.file import changed_keys, load_config, to_document
from cpuft.config.keys import Config
from cpuft.errors import ConfigError
from cpuft.machine.disk import disk_errors
from cpuft.machine.files import write_text
from cpuft.machine.locks import LOCK, sole_use

FILES = ("config.yaml", "adapter.gguf", "checkpoints", "metrics.jsonl", "training.log", "tensorboard", "loss.png")


class RunFolder:
    """A run's folder. Nothing is written before `opened`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.adapter, self.checkpoints, self.metrics, self.log, self.tensorboard, self.plot = (
            path / name for name in FILES
        )

    def require(self, *, resume: bool, overwrite: bool) -> None:
        """Raises ConfigError unless a run may begin or go on in this folder."""
        if resume and overwrite:
            raise ConfigError("--resume goes on with a run and --overwrite discards it: give one of them")
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path}: a file, expected a folder for the run")
        if resume and not self.config.is_file():
            raise ConfigError(f"{self.path}: there is no run to resume (no config.yaml): leave out --resume")
        if resume:
            return
        present = (
            sorted(entry.name for entry in self.path.iterdir() if entry.name != LOCK) if self.path.exists() else []
        )
        if present and not overwrite:
            raise ConfigError(
                f"{self.path}: the folder is not empty: give --resume to go on with the run in it, "
                "--overwrite to replace that run, or another --output"
            )
        foreign = [name for name in present if name not in FILES and not name.endswith(".partial")]
        if foreign:
            raise ConfigError(
                f"{self.path}: --overwrite removes training runs only, and the folder also holds "
                f"{', '.join(foreign[:5])}: give another --output"
            )

    def settled(self, config: Config, *, resume: bool) -> Config:
        """The configuration that this run has: with its date, and checked against what it was before.

        A date in a chat template would make the same run differ from one day to the next, so a run keeps its first.
        """
        today = datetime.date.today().isoformat()
        if resume:
            before, _ = load_config(self.config)
            today = before.training.date or today
        training = replace(config.training, date=config.training.date or today)
        if resume and training.max_ram is not None:  # which may have been reason for smaller passes
            training = replace(training, tokens_per_pass=min(before.training.tokens_per_pass, training.tokens_per_pass))
        settled = replace(config, training=training)
        if resume and (changes := changed_keys(before, settled)):
            raise ConfigError(
                f"{self.path}: the run cannot be resumed with another configuration: {'; '.join(changes)}: "
                "take these back, or begin a new run from its adapter with --init-adapter"
            )
        return settled

    @contextlib.contextmanager
    def opened(self, *, resume: bool, overwrite: bool) -> Iterator[list[str]]:
        """Makes the folder ready, keeps other processes out of it until the block ends; yields notes for the user."""
        with contextlib.ExitStack() as held:
            with disk_errors(self.path):  # what happens in the block is none of the folder's faults
                self.path.mkdir(parents=True, exist_ok=True)
                unlocked = held.enter_context(sole_use(self.path, "training"))
                self.require(resume=resume, overwrite=overwrite)  # again: a run may have ended in it since
                self._clear(() if resume else FILES)
                self.checkpoints.mkdir(exist_ok=True)
            yield [] if unlocked is None else [unlocked]

    def begin(self, config: Config, step: int) -> None:
        """Records the configuration and forgets the metrics of later steps than `step`: they are written again.

        The last thing before training: what was refused must leave a run as it was.
        """
        write_text(self.config, yaml.safe_dump(to_document(config), sort_keys=False))
        if not self.metrics.exists():
            return
        kept = [line for line in self.metrics.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        write_text(self.metrics, "".join(f"{line}\n" for line in kept))

    def _clear(self, names: Collection[str]) -> None:
        for entry in self.path.iterdir():
            if entry.name in names:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def precision_of(config: Config) -> str | None:
    """The engine's precision for a run; None leaves it to the engine."""
    return None if config.training.precision == "auto" else config.training.precision


def _step_of(line: str) -> float:
    """A metrics line's step; infinity for a line that a killed process left unfinished."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
