"""The list of base models worth trying: what configs/candidates.yaml holds and how it is checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpuft.config.document import read_document
from cpuft.errors import ConfigError

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
    document = read_document(path, SCHEMA)
    return [Candidate(**{**entry, "roles": tuple(entry["roles"])}) for entry in document["candidates"]]


def for_role(candidates: Sequence[Candidate], role: str) -> list[Candidate]:
    """Those that are candidates for a role. Raises ConfigError, which names the roles, where there are none."""
    chosen = [candidate for candidate in candidates if role in candidate.roles]
    if not chosen:
        roles = dict.fromkeys(role for candidate in candidates for role in candidate.roles)
        raise ConfigError(f"{role}: no candidate has this role, expected one of {', '.join(roles)}")
    return chosen
