"""One process at a time: locks on files and folders that the kernel takes back when their holder ends, however it ends.

They are flock(2)s, which a child inherits with the descriptor: a compiler that outlives its parent still holds its own.
Some file systems, such as network drives, have no locks: work goes on there without.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cpuft.errors import ConfigError
from cpuft.machine.disk import disk_errors

LOCK = ".lock"
UNFINISHED = ".*.partial"  # what is on its way to a name of its own, see `hidden`
# What flock(2) says where a file system has no locks; the last one is NFS's for a folder, which cannot be opened for
# writing.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)
LONGEST_NAME = 255  # bytes, on nearly every file system


@contextmanager
def waiting_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[int]:
    """Holds the lock at `path`, waiting for it; `on_wait` is called once if another process has it.

    Yields the lock's file descriptor, for children to inherit.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if lock_now(descriptor) is False:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def sole_use(folder: Path, what: str) -> Iterator[str | None]:
    """Keeps other processes that call this out of a folder, `what` is done in it, until the block ends.

    Then what a killed process left unfinished is removed. Raises ConfigError where another process is in it.

    Yields a sentence for the user where the file system has no locks and cannot keep anyone out.
    """
    with (folder / LOCK).open("w") as lock:
        locked = lock_now(lock.fileno())
        if locked is False:
            raise ConfigError(f"{folder}: another process is {what} in this folder")
        sweep(folder)
        yield None if locked else f"{folder} is on a file system without locks: keep other runs out of it yourself"


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Gives an empty folder beside `path`, and so on its disk, for files on the way to it; it is gone after the block.

    One process at a time has it. What a killed one left in it goes when the next one takes it.
    Raises ConfigError where another process has it, ResourceError where no folder can be made.
    """
    folder = hidden(path, "scratch")
    lock = take_folder(folder, path)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # before the lock is given back: nobody else is in it
        os.close(lock)


def take_folder(folder: Path, path: Path) -> int:
    """Makes an empty folder on the way to `path`, or takes and empties the one that a killed process left.

    Returns the descriptor that keeps its lock until it is closed. Raises as `scratch_folder`.
    """
    while True:
        with disk_errors(path):
            with suppress(FileExistsError):
                folder.mkdir()
            try:
                lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except FileNotFoundError:  # who had it has just removed it
                continue
        locked = lock_now(lock)
        if locked is not False and stands_at(lock, folder):
            for left in folder.iterdir():
                _remove(left)
            return lock
        os.close(lock)  # else of a folder that its holder removed in between
        if locked is False:
            raise ConfigError(f"{path}: another process is making it: wait for its end, or give another path")


def sweep(folder: Path, pattern: str = UNFINISHED) -> None:
    """Removes what killed processes left in a folder: files and folders of a pattern, as `remove_left`."""
    for entry in list(folder.glob(pattern)):
        remove_left(entry)


def remove_left(entry: Path) -> None:
    """Removes a file or folder that no living process has locked, if there is one.

    Where the file system has no locks it stays, since nobody knows whether it is in use.
    """
    with suppress(OSError):  # another process removes it, too, or it may not be removed: it stays
        access = os.O_RDONLY if entry.is_dir() else os.O_RDWR  # NFS locks only what is open for writing
        descriptor = os.open(entry, access | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if lock_now(descriptor) and stands_at(descriptor, entry):
                _remove(entry)
        finally:
            os.close(descriptor)


def lock_now(descriptor: int) -> bool | None:
    """Whether this process now has the lock of an open file or folder, until it is closed; None: there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise
    return True


def stands_at(descriptor: int, path: Path) -> bool:
    """Whether an open file or folder is still the one of that name: it may have been removed before it was locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _remove(entry: Path) -> None:
    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def hidden(path: Path, ending: str) -> Path:
    """The path `.NAME.ending` beside `path`; a NAME that would make it too long is cut."""
    room, name = LONGEST_NAME - len(f"..{ending}"), os.fsencode(path.name)
    kept = path.name if len(name) <= room else name[:room].decode(errors="ignore")
    return path.with_name(f".{kept}.{ending}")
