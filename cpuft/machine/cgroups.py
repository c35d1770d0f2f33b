"""The control groups around this process, by which containers and service managers limit what it may use."""

from collections.abc import Iterator
from pathlib import Path

OWN = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")


def group_folders(controller: str) -> Iterator[tuple[int, Path]]:
    """Each control group that this process is in for a controller, such as "memory", and each around it.

    Yields the version of control groups, 1 or 2, and the folder of the group's files, the innermost first.
    """
    try:
        lines = OWN.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            version, roots = 2, [ROOT, ROOT / "unified"]
        elif controller in controllers.split(","):
            version, roots = 1, [ROOT / controller, ROOT / controllers]
        else:
            continue
        for root in roots:
            # A container often sees its own group as the root, whatever path the kernel names.
            for part in _parents(path):
                yield version, root / part


def _parents(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return ["/".join(parts[:n]) for n in range(len(parts), -1, -1)]
