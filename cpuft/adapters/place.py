"""Where an adapter lies: the file or folder that is meant by a path beside it or above it."""

import re
from pathlib import Path

from cpuft.errors import AdapterError

GGUF = "adapter.gguf"  # in the folder of a run, and of each of its checkpoints
CONFIG = "adapter_config.json"  # in a folder that PEFT saved, beside one of these two
WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"


def adapter_at(path: Path) -> Path:
    """The GGUF file or PEFT folder that is meant by `path`.

    Of a run's folder that is its best adapter, of one of PEFT's files the folder. Raises AdapterError for a folder
    without an adapter of its own; where its checkpoints have some, the sentence names the newest.
    """
    if path.name in (CONFIG, WEIGHTS, PICKLE) and path.is_file():
        return path.parent
    if not path.is_dir() or (path / CONFIG).exists() or (path / WEIGHTS).exists() or (path / PICKLE).exists():
        return path
    if (path / GGUF).is_file():
        return path / GGUF
    # A trainer saves checkpoint-60/, a run of ours checkpoints/step-60/.
    below = [file.parent for name in (CONFIG, GGUF) for depth in ("*", "*/*") for file in path.glob(f"{depth}/{name}")]
    if below:
        newest = max(below, key=lambda folder: (_number(folder), str(folder)))
        raise AdapterError(
            f"{path}: the folder has no adapter of its own, but {len(set(below))} below it: give one, such as {newest}"
        )
    raise AdapterError(
        f"{path}: the folder has neither {GGUF}, as a run of cpuft has it, nor {CONFIG}, as PEFT saves it: "
        "give the adapter's file or folder"
    )


def _number(folder: Path) -> int:
    """The step of a checkpoint by its name, -1 where it has none."""
    found = re.search(r"(\d{1,18})$", folder.name)
    return int(found[1]) if found else -1
