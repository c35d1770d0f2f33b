"""What a run's folder takes on the disk, by part, and whether there is room for it."""

from pathlib import Path

from cpuft.config.keys import Config
from cpuft.errors import ResourceError
from cpuft.machine.disk import free_bytes
from cpuft.train.memory import Memory, with_settings
from cpuft.train.passes import times_due


def folder_bytes(config: Config, memory: Memory, n_steps: int) -> dict[str, int]:
    """The parts of a run's folder that grow with the adapter; checkpoints: those that are kept, one being written."""
    adapter, optimizer = (memory.parts[name] for name in ("adapter", "optimizer"))
    n_saved = times_due(n_steps, config.training.save_steps)
    most = min(n_saved, config.training.save_total_limit + 1)
    return {"adapter": adapter, "checkpoints": most * (adapter + optimizer)}


def require_room(folder: Path, config: Config, memory: Memory, n_steps: int) -> None:
    """Raises ResourceError where the disk has no room for a run's folder; what a run in it has written counts as room.

    A run that is short of it would stop hours later, at a checkpoint.
    """
    present = [
        path for name in ("adapter.gguf", "checkpoints") for path in (folder / name, *(folder / name).rglob("*"))
    ]
    room = free_bytes(folder) + sum(path.stat().st_size for path in present if path.is_file())
    needed = sum(folder_bytes(config, memory, n_steps).values())
    if needed <= room:
        return
    mend = "free some, or give --output on another disk"
    most = min(config.training.save_total_limit, times_due(n_steps, config.training.save_steps))
    fewer = [("training.save_total_limit", limit) for limit in range(most - 1, 0, -1)]
    for key, value in (*fewer, ("training.save_steps", n_steps)):
        if sum(folder_bytes(with_settings(config, {key: value}), memory, n_steps).values()) <= room:
            mend += f", or set {key}: {value}"
            break
    raise ResourceError(
        f"{folder}: the run's adapter and checkpoints take {needed / 1e6:,.1f} MB and the disk has "
        f"{room / 1e6:,.1f} MB for them: {mend}"
    )
