"""Changes to the fetched llama.cpp without which it does not compile or run everywhere: vendor/llama.cpp.mends.yaml."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from cpuft.errors import ToolchainError
from cpuft.machine.cache import key_of

FILE = "llama.cpp.mends.yaml"


@dataclass(frozen=True)
class Mend:
    """One text of one file, what stands in its place afterwards, and why."""

    why: str
    file: str
    find: str
    replace: str


def read_mends(path: Path) -> list[Mend]:
    """Reads vendor/llama.cpp.mends.yaml.

    Raises:
        ToolchainError: it is not a list of entries that have all keys, each with a text.
    """
    entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    keys = Mend.__dataclass_fields__.keys()
    if not isinstance(entries, list) or not all(_is_mend(entry) for entry in entries):
        raise ToolchainError(f"{path} must be a list of entries with the keys {', '.join(keys)}, each with a text")
    return [Mend(**entry) for entry in entries]


def digest(mends: Sequence[Mend]) -> str:
    """A short name that changes with what the mends do, whatever they say of it."""
    return key_of(mends=[{**asdict(mend), "why": ""} for mend in mends])


def apply(mends: Sequence[Mend], tree: Path) -> None:
    """Makes the changes in the llama.cpp tree `tree`.

    Raises:
        ToolchainError: a file lacks the text, or has it more than once.
    """
    for mend in mends:
        path = tree / mend.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if (count := text.count(mend.find)) != 1:
            raise ToolchainError(
                f"vendor/{FILE} does not fit this llama.cpp: {mend.file} has {mend.find.strip()!r} {count} times, "
                "expected once; write that entry anew for it, or remove it where llama.cpp is mended"
            )
        path.write_text(text.replace(mend.find, mend.replace), encoding="utf-8")


def _is_mend(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() == Mend.__dataclass_fields__.keys()
        and all(isinstance(value, str) and value for value in entry.values())
    )
