"""How much memory this machine still has for this process, by the system's account and the limits of control groups;
and how much the process has held.
"""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from cpuft.machine.cgroups import group_folders

MEMINFO = Path("/proc/meminfo")
# Names of the limit, of what is used and, in memory.stat, of the file pages among it that are given up for others.
GROUP = "what the container or control group around this process still allows"
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
VERSION_2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))


def total_memory() -> int:
    """The bytes that are installed."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_memory() -> int:
    """The bytes that this process could still take without swapping and without being ended for it.

    Pages of files that are cached count as free. Where the system does not tell what is available, half of what is
    installed does.
    """
    return available_within()[0]


def available_within() -> tuple[int, str]:
    """`available_memory`, and in words what sets it: this machine, or the limit of a container."""
    return min([(_system(), "what this machine has free"), *((free, GROUP) for free in _cgroups())])


def peak_rss_mb() -> float:
    """The most memory that this process has held so far, in MB (10^6 bytes).

    Linux tells it since the program was started; getrusage would begin with what the parent process held.
    """
    if (peak := peak_rss_mb_of("self")) is not None:
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6  # macOS counts bytes, Linux KiB


def peak_rss_mb_of(pid: int | str) -> float | None:
    """The most memory that a process has held since it was started, in MB; None where the system does not tell.

    Pages of a file that it has mapped and read, such as a model's weights, count.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        return next(int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None


def _system() -> int:
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return total_memory() // 2


def _cgroups() -> Iterator[int]:
    """What each control group that this process is in, and each around it, still allows."""
    for version, folder in group_folders("memory"):
        if (free := _free_in(folder, *(VERSION_2 if version == 2 else VERSION_1))) is not None:
            yield free


def _free_in(folder: Path, limit: str, usage: str, reclaimable: tuple[str, str]) -> int | None:
    try:
        most = int((folder / limit).read_text(encoding="ascii"))  # "max" where there is no limit
        used = int((folder / usage).read_text(encoding="ascii"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        return max(0, most - used + sum(int(stat.get(name, 0)) for name in reclaimable))
    except (OSError, ValueError):
        return None
