"""Files that are written whole or not at all, even when the process is killed or the disk is full."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cpuft.errors import ConfigError, ResourceError

LOCK = ".lock"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


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


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Gives an empty folder beside `path`, and so on its disk, for files on the way to it; it is gone after the block.

    One process at a time has it. What a killed one left in it goes when the next one takes it.
    Raises ConfigError where another process has it, ResourceError where no folder can be made.
    """
    folder = path.parent / f".{path.name}.scratch"
    with disk_errors(path):
        folder.mkdir(exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        _lock(lock, f"{path}: another process is making it: wait for its end, or give another path")
        try:
            for left in folder.iterdir():
                left.unlink()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


@contextmanager
def sole_use(folder: Path, what: str) -> Iterator[None]:
    """Keeps other processes that call this out of a folder, `what` is done in it, until the block ends.

    Then what a killed process left unfinished is removed. Raises ConfigError where another process is in it.
    """
    with (folder / LOCK).open("w") as lock:
        _lock(lock.fileno(), f"{folder}: another process is {what} in this folder")
        for entry in folder.glob(".*.partial"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        yield


def _lock(descriptor: int, busy: str) -> None:
    """Locks an open file or folder until it is closed. Raises ConfigError, which says `busy`, where another has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(busy) from None


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk and a refused write into one sentence that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise ResourceError(f"{path}: {_full_disk(path)}: free some space and run the command again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ResourceError(f"{path}: cannot write here ({error.strerror}): choose another folder") from error
        raise


def sync(path: Path) -> None:
    """Waits until a file or a folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _full_disk(path: Path) -> str:
    with suppress(OSError):
        return f"the disk is full, {shutil.disk_usage(path.parent).free / 1e6:.0f} MB are free"
    return "the disk is full"


def _umask() -> int:
    """The process's file mode mask; reading it means setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
