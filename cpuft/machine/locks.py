"""One process at a time: locks on files and folders that the kernel takes back when their holder ends, however it ends.

They are flock(2)s, which a child inherits with the descriptor: a compiler that outlives its parent still holds its own.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cpuft.errors import ConfigError
from cpuft.machine.disk import disk_errors

LOCK = ".lock"


@contextmanager
def waiting_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[int]:
    """Holds the lock at `path`, waiting for it; `on_wait` is called once if another process has it.

    Yields the lock's file descriptor, for children to inherit.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _taken(descriptor):
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def sole_use(folder: Path, what: str) -> Iterator[None]:
    """Keeps other processes that call this out of a folder, `what` is done in it, until the block ends.

    Then what a killed process left unfinished is removed. Raises ConfigError where another process is in it.
    """
    with (folder / LOCK).open("w") as lock:
        if not _taken(lock.fileno()):
            raise ConfigError(f"{folder}: another process is {what} in this folder")
        for entry in folder.glob(".*.partial"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        yield


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
        if not _taken(lock):
            raise ConfigError(f"{path}: another process is making it: wait for its end, or give another path")
        try:
            for left in folder.iterdir():
                left.unlink()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _taken(descriptor: int) -> bool:
    """Whether this process now has the lock of an open file or folder, until it is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
