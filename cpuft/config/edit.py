"""Changes one key of a YAML file that is the user's: all else of it, comments too, stays as it was written."""

import shutil
from pathlib import Path
from typing import Any

import yaml

from cpuft.config.file import read_yaml
from cpuft.errors import ConfigError
from cpuft.machine.files import atomic_write, require_place


def set_key(path: Path, key: str, value: str) -> None:
    """Gives a top-level key a text for its value; adds it, and the file, where there is none.

    The file keeps its access rights. Raises ConfigError where the key cannot be changed without changing more, and
    ResourceError where the file cannot be written.
    """
    require_place(path, "the configuration")
    there = path.exists()
    held = read_yaml(path) if there else {}
    if not isinstance(held, dict):
        raise ConfigError(f"{path}: it holds {type(held).__name__}, expected keys and values: give another file")
    text = path.read_bytes().decode("utf-8") if there else ""
    edited = _edited(text, key, value)
    if edited is None or _read(edited) != {**_read(text), key: value}:
        raise ConfigError(
            f"{path}: {key} cannot be set without changing more than its line: write `{_line(key, value)}` into it "
            "yourself"
        )
    with atomic_write(path) as temporary:
        temporary.write_bytes(edited.encode())
        if there:
            shutil.copymode(path, temporary)


def _edited(text: str, key: str, value: str) -> str | None:
    """The text with the key's line changed or added; None where its value is no plain one."""
    newline = "\r\n" if "\r\n" in text else "\n"
    root = yaml.compose(text, yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    for name, node in pairs:
        if name.value == key:
            if not isinstance(node, yaml.ScalarNode) or node.style in ("|", ">"):
                return None
            begin, end = name.start_mark.index, max(name.end_mark.index + 1, node.end_mark.index)
            return text[:begin] + _line(key, value) + text[end:]
    gap = newline if text and not text.endswith("\n") else ""
    return f"{text}{gap}{_line(key, value)}{newline}"


def _line(key: str, value: str) -> str:
    return yaml.safe_dump({key: value}, allow_unicode=True, width=10**6).strip()


def _read(text: str) -> dict[Any, Any]:
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # the latter of an impossible date
        return {}
    return document if isinstance(document, dict) else {}
