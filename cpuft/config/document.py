"""YAML files that a person edits and a JSON Schema describes: read, with all faults named at once."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cpuft.config.file import FiniteValidator, read_yaml
from cpuft.errors import ConfigError, list_all_faults


def read_document(path: Path, schema: Mapping[str, Any]) -> Any:
    """What the file holds.

    schema: each value's has a `description`, which says in words what is expected there.
    Raises ConfigError, which lists all faults with their key paths.
    """
    document = read_yaml(path)
    faults = list(dict.fromkeys(_faults(document, schema)))
    if faults:
        raise ConfigError(f"{path}: {list_all_faults(faults)}")
    return document


def _faults(document: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    """Every fault, as `path: what was found, what was expected`."""
    for error in FiniteValidator(dict(schema)).iter_errors(document):
        where = error.json_path.removeprefix("$").removeprefix(".")
        prefix = f"{where}." if where else ""
        if error.validator == "additionalProperties":
            known = error.schema["properties"]
            unknown = [str(key) for key in error.instance if key not in known]
            yield from (f"{prefix}{key}: no such key, expected some of {', '.join(known)}" for key in unknown)
        elif error.validator == "required":
            missing = [key for key in error.schema["required"] if key not in error.instance]
            yield from (f"{prefix}{key}: missing, expected {_expected(error.schema, key)}" for key in missing)
        else:
            found = str(error.instance)[:60]
            yield f"{where or 'the file'}: found {found!r}, expected {error.schema.get('description')}"


def _expected(schema: Any, key: str) -> str:
    return str(schema["properties"][key]["description"])
