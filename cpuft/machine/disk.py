"""How much room a disk has, and one sentence for a disk that is full or refuses a file."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cpuft.errors import ResourceError

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)
FREE_SOME = "free some space and run the command again"
ELSEWHERE = "choose another folder"


def free_bytes(path: Path) -> int:
    """What the disk has free on which `path` lies or would lie."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def require_space(path: Path, n_bytes: int, what: str, mend: str) -> None:
    """Raises ResourceError where the disk of `path` has less than `n_bytes` free for `what`; `mend` says what to do."""
    free = free_bytes(path)
    if free < n_bytes:
        raise ResourceError(
            f"{path}: the disk has {free / 1e6:,.1f} MB free and {what} needs {n_bytes / 1e6:,.1f} MB: {mend}"
        )


def full_disk(path: Path, mend: str = FREE_SOME) -> ResourceError:
    """The error for a disk that filled up while something was written to `path`."""
    left = ""
    with suppress(OSError):
        left = f", {free_bytes(path) / 1e6:.0f} MB are free"
    return ResourceError(f"{path}: the disk is full{left}: {mend}")


@contextmanager
def disk_errors(path: Path, *, full: str = FREE_SOME, refused: str = ELSEWHERE) -> Iterator[None]:
    """Turns a full disk and a refused write into one sentence that names the file and says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise full_disk(path, full) from error
        if error.errno in REFUSED:
            raise ResourceError(f"{path}: cannot write here ({error.strerror}): {refused}") from error
        raise
