"""Where things that can be made again are kept, and under which key."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import platformdirs

from cpuft.errors import ConfigError

_CHUNK_BYTES = 1 << 20


def cache_dir() -> Path:
    """$CPUFT_CACHE, else the system's folder for a user's caches: on Linux $XDG_CACHE_HOME or ~/.cache.

    Raises ConfigError where that is below a home folder and nobody knows it: a user without an entry, no $HOME.
    """
    try:
        explicit = os.environ.get("CPUFT_CACHE")
        folder = Path(explicit) if explicit else platformdirs.user_cache_path("cpuft", appauthor=False)
        return folder.expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(
            "the home folder of this user is not known, expected it in HOME: set HOME, or CPUFT_CACHE to a folder for "
            "what can be made again"
        ) from error


def key_of(**parts: object) -> str:
    """A short name for what depends on exactly these (JSON) values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def hash_files(root: Path, files: Iterable[Path], on_bytes: Callable[[int], None] | None = None) -> str:
    """A digest of these files' contents and of their places below `root`.

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
