"""Files that are written whole or not at all, even when the process is killed or the disk is full."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cpuft.errors import ConfigError
from cpuft.machine.disk import disk_errors


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; after the block its content stands at `path`, synced to the disk.

    If the block raises, `path` is as it was before and the temporary file is gone. A full disk is a ResourceError.
    """
    with disk_errors(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner can read
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def require_place(path: Path, what: str, inputs: Iterable[Path] = ()) -> None:
    """Raises ConfigError unless a file can stand at `path`: `what`, such as "the merged model".

    inputs: what it is made from, files and folders of files, which it must not take the place of.
    """
    if path.is_dir():
        raise ConfigError(f"{path}: a folder, expected the name of a file for {what}")
    _require_parent(path, what)
    for given in inputs:
        for file in given.iterdir() if given.is_dir() else [given]:
            if path.exists() and file.exists() and path.samefile(file):
                raise ConfigError(f"{path}: the output is also an input: give another path to --output")


def require_new(path: Path, what: str) -> None:
    """Raises ConfigError unless a new folder can be made at `path` for `what`."""
    if path.exists():
        raise ConfigError(f"{path}: it is there already, expected the name of a new folder for {what}: give another")
    _require_parent(path, what)


def _require_parent(path: Path, what: str) -> None:
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: no such folder, expected an existing one for {what}")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Gives a new folder beside `path`; after the block it stands at `path` (which must not exist), all of it synced.

    A killed process leaves nothing but a folder `.NAME.partial`, which the next call for the same path removes.
    """
    temporary = path.parent / f".{path.name}.partial"
    with disk_errors(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for entry in temporary.iterdir():
                sync(entry)
            sync(temporary)
            temporary.rename(path)
            sync(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all, into a folder that is made if need be."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no such file or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def sync(path: Path) -> None:
    """Waits until a file or a folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """The process's file mode mask; reading it means setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
