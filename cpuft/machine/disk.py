"""How much room a disk has, and one sentence for a disk that is full or refuses a file."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cpuft.errors import ResourceError

FULL = (errno.ENOSPC, errno.EDQUOT)
# What a file system says to a file that cannot be made or written where the user wants it.
REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG, errno.ENXIO, errno.ENODEV, errno.EIO, errno.ESTALE),
)
FREE_SOME = "free some space and run the command again"
ELSEWHERE = "choose another folder"


def free_bytes(path: Path) -> int:
    """What the disk has free on which `path` lies or would lie."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def require_space(path: Path, n_bytes: int, what: str, mend: str) -> None:
    """Raises ResourceError where the disk of `path` has less than `n_bytes` free for `what`; `mend` says what to do.

    A device or a pipe takes what it is given, whatever the disk of its name has.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        return
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
    """Turns a full disk and a refused write into one sentence that names the file and says what to do.

    path: what the block writes. An error that names a file elsewhere, such as one in the folder of temporary files, is
    told of that file.
    """
    try:
        yield
    except OSError as error:
        if (named := disk_error(error, path, full=full, refused=refused)) is None:
            raise
        raise named from error


def disk_error(
    error: OSError, path: Path | None = None, *, full: str = FREE_SOME, refused: str = ELSEWHERE
) -> ResourceError | None:
    """The error that says in a sentence what `disk_errors` does; None for an error of another kind, or of no file."""
    # Of two files, such as those of a copy, the second is written.
    named = error.filename2 or error.filename
    there = Path(os.fsdecode(named)) if isinstance(named, str | bytes) else None
    if there is not None and (path is None or not _belongs(there, path)):
        path, full, refused = there, FREE_SOME, ELSEWHERE
    if path is None:
        return None
    if error.errno in FULL:
        return full_disk(path, full)
    if error.errno in REFUSED:
        return ResourceError(f"{path}: cannot write here ({error.strerror}): {refused}")
    return None


def _belongs(file: Path, path: Path) -> bool:
    """Whether a file is `path`, lies in it, or beside it, as one on the way to it does."""
    real, target = Path(os.path.realpath(file)), Path(os.path.realpath(path))
    return real.parent in (target.parent, path.absolute().parent) or target in real.parents
