"""Where built things are kept, under which key, and how one process at a time writes there.

CACHE/sources/PACKAGE-VERSION-SHA-MENDS/
                                      the unpacked and mended llama.cpp, complete if it exists
CACHE/llama/KEY/                      a build of llama.cpp: bin/ (libraries and tools), build.log, proof.log, and
                                      complete.json once its programs have worked
CACHE/engine/KEY/libcpuft.so          a build of the engine, and proven.json once each kernel table was tried
CACHE/engine/trees/KEY/               its build tree: one for each checkout, so that an edit recompiles one file
CACHE/checkouts/KEY.json              what the last `cpuft build` of a checkout chose
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from cpuft.errors import ToolchainError

_CHUNK_BYTES = 1 << 20


def cache_dir() -> Path:
    """Return $CPUFT_CACHE, else cpuft/ in $XDG_CACHE_HOME, else ~/.cache/cpuft."""
    if explicit := os.environ.get("CPUFT_CACHE"):
        return Path(explicit).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "cpuft"


def key_of(**parts: object) -> str:
    """Return a short name for a build that depends on exactly these (JSON) values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def hash_files(root: Path, files: Iterable[Path], on_bytes: Callable[[int], None] | None = None) -> str:
    """Return a digest of these files' contents and of their places below `root`.

    on_bytes: called with the size of each chunk that was read.
    """
    digest = hashlib.sha256()
    for path in sorted(files):
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{path.relative_to(root).as_posix()}\0{size}\0".encode())
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                if on_bytes is not None:
                    on_bytes(len(chunk))
    return digest.hexdigest()


@contextlib.contextmanager
def locked(root: Path, on_wait: Callable[[], None]) -> Iterator[int]:
    """Hold the cache's lock; `on_wait` is called once if another process has it.

    Yields the lock's file descriptor. A child that inherits it keeps the lock until it ends, so a compiler that
    outlives its killed parent is never joined by a second one in the same tree.
    """
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `path` so that a killed process leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return what `write_json` wrote; empty where there is no such file or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def require_space(directory: Path, n_bytes: int) -> None:
    """Refuse to start what would fill the disk.

    Raises:
        ToolchainError: less than `n_bytes` are free where `directory` is.
    """
    free = shutil.disk_usage(directory).free
    if free < n_bytes:
        raise ToolchainError(
            f"the disk of {directory} has {free / 1e6:.0f} MB free and the build needs {n_bytes / 1e6:.0f} MB: "
            "free some, or point CPUFT_CACHE at another disk"
        )


def disk_full(directory: Path) -> ToolchainError:
    """Return the error for a disk that filled up in the middle of a build."""
    return ToolchainError(
        f"the disk of {directory} is full: free some space or point CPUFT_CACHE at another disk, "
        "then run `cpuft build` again"
    )


@contextlib.contextmanager
def naming_disk_faults(directory: Path) -> Iterator[None]:
    """Turn a full disk or a directory that cannot be written into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(directory) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
            raise ToolchainError(
                f"the build cache {directory} cannot be written ({error}): mend that or point CPUFT_CACHE elsewhere"
            ) from error
        raise
