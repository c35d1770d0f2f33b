"""Files that are written whole or not at all, even when the process is killed or the disk is full."""

import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cpuft.errors import ConfigError
from cpuft.machine.disk import disk_errors
from cpuft.machine.locks import hidden, lock_now, remove_left, stands_at, sweep, take_folder
from cpuft.machine.progress import Progress, silent

# What fsync(2) says of a file system, or of a folder in it, that it cannot sync.
UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EROFS)
BLOCK = 1 << 22  # bytes of a file that are read at a time for its digest


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; after the block its content stands at `path`, synced to the disk.

    If the block raises, `path` is as it was before and the temporary file is gone; what a killed process left is gone
    after the next call for the same path. Links are followed. A device or a pipe is given as it is: it is written
    through. Raises ResourceError: a full disk, or a place that cannot be written.
    """
    with disk_errors(path):
        target = destination(path)
        if target is None:
            yield path
            return
        temporary, lock = _new_file(target)
        try:
            yield temporary
            sync(temporary)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(lock)
        sync_folder(target.parent)


def destination(path: Path) -> Path | None:
    """The regular file that a write to `path` reaches, there or not, whatever links lead to it.

    None for a device, a pipe, or a file that has no name any more: nothing can take the place of such.
    """
    target = Path(os.path.realpath(path))
    try:
        there = path.stat()
    except FileNotFoundError:
        return target
    if stat.S_ISDIR(there.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    named = target.exists() and os.path.samestat(there, target.stat())
    return target if stat.S_ISREG(there.st_mode) and named else None


def _new_file(target: Path) -> tuple[Path, int]:
    """Makes the temporary file of `target`; returns it with the descriptor that keeps its lock until it is closed.

    The lock tells a file that is being written from one that a killed process left, which is removed. Where another
    process writes to the same target, the file has one more word in its name.
    """
    temporary = hidden(target, "partial")
    remove_left(temporary)
    while True:
        try:
            # With the rights of any new file: the umask takes away from these.
            lock = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            before = hidden(target, "12345678.partial").name.removesuffix("12345678.partial")
            sweep(target.parent, f"{glob.escape(before)}*.partial")
            temporary = hidden(target, f"{secrets.token_hex(4)}.partial")
            continue
        if lock_now(lock) is not False and stands_at(lock, temporary):
            return temporary, lock
        os.close(lock)  # another process swept it before it was locked


def require_place(path: Path, what: str, inputs: Iterable[Path] = ()) -> None:
    """Raises ConfigError unless a file can stand at `path`: `what`, such as "the merged model".

    inputs: what it is made from, files and folders of files, which it must not take the place of.
    """
    with disk_errors(path):
        path.exists()  # or its name is impossible
    if path.is_dir():
        raise ConfigError(f"{path}: a folder, expected the name of a file for {what}")
    if not path.exists() or path.is_file():
        _require_parent(Path(os.path.realpath(path)), what)
    for given in inputs:
        for file in given.iterdir() if given.is_dir() else [given]:
            if path.exists() and file.exists() and path.samefile(file):
                raise ConfigError(f"{path}: the output is also an input: give another path to --output")


def require_regular(path: Path, what: str) -> Path:
    """The regular file that stands or will stand behind `path`. Raises ConfigError for a device, a pipe or a folder."""
    with disk_errors(path):
        target = destination(path)
    if target is None:
        raise ConfigError(f"{path}: no regular file, expected the name of one for {what}")
    return target


def require_new(path: Path, what: str) -> None:
    """Raises ConfigError unless a new folder can be made at `path` for `what`."""
    with disk_errors(path):
        there = os.path.lexists(path)
    if there:
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
    Raises ConfigError where another process is making the folder, ResourceError as `atomic_write`.
    """
    temporary = hidden(path, "partial")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = take_folder(temporary, path)
        try:
            yield temporary
            for entry in temporary.iterdir():
                sync(entry)
            sync_folder(temporary)
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            os.close(lock)
        sync_folder(path.parent)


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


def file_digest(path: Path, progress: Progress = silent) -> str:
    """The sha256 of a whole file: a model that was merged or edited may differ in a single row."""
    digest, total = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            progress(f"checksum of {path.name}", stream.tell(), total)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Waits until a file is on the disk, where its file system can tell."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Waits until a folder's entries are on the disk.

    Where the folder cannot be opened or synced nothing is lost: what was written is there, if not yet for a power cut.
    """
    with suppress(OSError):
        sync(path)
