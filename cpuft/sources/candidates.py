"""The list of base models worth trying: what configs/candidates.yaml holds and how it is checked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from cpuft.config.file import read_yaml
from cpuft.errors import ConfigError, list_all_faults

_TEXT = {"type": "string", "minLength": 1, "description": "a text"}
_KEYS: dict[str, dict[str, Any]] = {
    "model": {
        "type": "string",
        "pattern": r"^(ollama:|hf:)\S+$",
        "description": "ollama:NAME[:TAG] or hf:ORG/REPO/FILE.gguf",
    },
    "alias": {"type": "string", "pattern": r"^[\w./:-]+$", "description": "a name for Ollama"},
    "roles": {"type": "array", "minItems": 1, "items": _TEXT, "description": "a list of roles"},
    "parameters": {"type": "number", "exclusiveMinimum": 0, "description": "a number of billions"},
    "download_gb": {"type": "number", "exclusiveMinimum": 0, "description": "a number of gigabytes"},
    "ram_gb": {"type": "number", "exclusiveMinimum": 0, "description": "a number of gigabytes"},
    "licence": _TEXT,
    "note": _TEXT,
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["candidates"],
    "properties": {
        "candidates": {
            "type": "array",
            "minItems": 1,
            "description": "a list of models",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["model", "roles", "parameters", "download_gb", "ram_gb", "licence"],
                "properties": _KEYS,
                "description": "keys and values",
            },
        },
    },
    "description": "the key candidates",
}


@dataclass(frozen=True)
class Candidate:
    """A base model worth trying; the keys are explained in configs/candidates.yaml."""

    model: str
    roles: tuple[str, ...]
    parameters: float
    download_gb: float
    ram_gb: float
    licence: str
    alias: str = ""
    note: str = ""


def read_candidates(path: Path) -> list[Candidate]:
    """The candidates of a YAML file. Raises ConfigError, which lists all faults with their key paths at once."""
    document = read_yaml(path)
    faults = list(dict.fromkeys(_faults(document)))
    if faults:
        raise ConfigError(f"{path}: {list_all_faults(faults)}")
    return [Candidate(**{**entry, "roles": tuple(entry["roles"])}) for entry in document["candidates"]]


def for_role(candidates: Sequence[Candidate], role: str) -> list[Candidate]:
    """Those that are candidates for a role. Raises ConfigError, which names the roles, where there are none."""
    chosen = [candidate for candidate in candidates if role in candidate.roles]
    if not chosen:
        roles = dict.fromkeys(role for candidate in candidates for role in candidate.roles)
        raise ConfigError(f"{role}: no candidate has this role, expected one of {', '.join(roles)}")
    return chosen


def _faults(document: Any) -> Iterator[str]:
    """Every fault, as `path: what was found, what was expected`."""
    for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(document):
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
