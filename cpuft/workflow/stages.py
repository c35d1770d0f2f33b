"""Work in stages, each done once: a stage whose inputs have not changed, by their digest, is kept."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cpuft.errors import ConfigError
from cpuft.machine.disk import disk_errors
from cpuft.machine.files import file_digest, read_json, write_json

STATE = "state.json"


class Stages:
    """The stages of a piece of work in a folder. Its state.json says which were begun and which are done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._state = read_json(folder / STATE)
        if not self._state and (folder / STATE).exists():
            raise ConfigError(
                f"{folder / STATE}: damaged, so nobody knows what is done: give another folder, or remove it"
            )

    def run(self, name: str, inputs: Mapping[str, Any], outputs: Sequence[Path], work: Callable[[], object]) -> bool:
        """Does `work`, unless it was done with the same inputs and left the same outputs; returns whether it did.

        inputs:  what the outputs depend on: values of JSON, and paths, which stand for the content of their files.
        outputs: files and folders that the work makes. Those of other inputs are removed first; those of the same,
                 which a stopped run left, are the work's to go on with.
        Raises ConfigError where outputs are there that no run of this has made.
        """
        digest = _digest(inputs)
        known = self._state.get(name, {})
        if known.get("inputs") == digest:
            if known.get("outputs") is not None and known["outputs"] == self._contents(outputs):
                return False
        else:
            if not known and any(os.path.lexists(path) for path in outputs):
                there = next(path for path in outputs if os.path.lexists(path))
                raise ConfigError(
                    f"{there}: it is there already, and was not made here: move it, or give another folder"
                )
            with disk_errors(self.folder):
                for path in outputs:
                    _remove(path)
        self._note(name, {"inputs": digest})
        work()
        self._note(name, {"inputs": digest, "outputs": self._contents(outputs)})
        return True

    def _note(self, name: str, entry: dict[str, Any]) -> None:
        self._state[name] = entry
        write_json(self.folder / STATE, self._state)

    def _contents(self, outputs: Sequence[Path]) -> dict[str, str] | None:
        """The digest of each output by its name; None where one is missing. Of a folder it is there or not."""
        if not all(path.exists() for path in outputs):
            return None
        with disk_errors(self.folder):
            return {str(p.relative_to(self.folder)): file_digest(p) if p.is_file() else "folder" for p in outputs}


def _digest(inputs: Mapping[str, Any]) -> str:
    values = {name: file_digest(value) if isinstance(value, Path) else value for name, value in inputs.items()}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
