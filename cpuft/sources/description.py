"""What a model is and where it comes from, in a few facts: for `cpuft models show | list`."""

from pathlib import Path
from typing import Any

from cpuft.engine import Engine
from cpuft.errors import ModelError, ToolchainError, UserError
from cpuft.gguf.description import describe_model, file_type
from cpuft.gguf.reader import read_gguf
from cpuft.sources.source import Source


def describe_source(source: Source) -> dict[str, Any]:
    """The facts of a model, of its origin, and whether cpuft can train it, ready for JSON. Raises ModelError."""
    facts = {"reference": source.reference, **describe_model(source.path)}
    facts["licence"] = facts["licence"] or source.facts.get("licence")
    tensors = facts.pop("tensors")
    return {**facts, **trainability(source.path), "source": source.facts, "tensors": tensors}


def summarize_source(source: Source) -> dict[str, Any]:
    """What a list says of a model, ready for JSON; a file that cannot be read has its fault under `why_not`."""
    summary: dict[str, Any] = {"reference": source.reference, "path": str(source.path)}
    try:
        file = read_gguf(source.path)
    except ModelError as error:
        unread = dict.fromkeys(("name", "architecture", "file_bytes", "file_type"))
        return {**summary, **unread, "trainable": False, "why_not": str(error)}
    return {
        **summary,
        "name": file.get("general.name"),
        "architecture": file.architecture,
        "file_bytes": file.file_size,
        "file_type": file_type(file),
        **trainability(source.path),
    }


def trainability(path: Path) -> dict[str, Any]:
    """Whether the engine takes the file, and its own words where it does not; unknown (None) where it is not built."""
    try:
        with Engine(path, threads=1):
            return {"trainable": True, "why_not": None}
    except ToolchainError as error:
        return {"trainable": None, "why_not": str(error)}
    except UserError as error:
        return {"trainable": False, "why_not": str(error)}
