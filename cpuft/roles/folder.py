"""Reads a role from its folder, be it one of cpuft's own or a user's.

role.yaml      title, question, sources, answer_keys: see `Role`
schema.json    JSON Schema of the answer
prompt.md      what a model is told that has not been tuned; short.md: one that has
metric.py      score(answer, inputs) -> Score
seeds.yaml     good examples: a list of {inputs: {…}, answer: {…}}
lexicon.yaml   words for concepts: kind -> list of words; may be missing
"""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from cpuft.errors import ConfigError, list_all_faults
from cpuft.roles.role import USER, Example, Metric, Role
from cpuft.roles.team import FOLDER, NAMES

FILE = "role.yaml"
_TEXT = {"type": "string", "minLength": 1}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["title", "question", "sources", "answer_keys"],
    "properties": {
        "title": _TEXT,
        "question": _TEXT,
        "sources": {"type": "object", "minProperties": 1, "additionalProperties": _TEXT},
        "answer_keys": {"type": "array", "minItems": 1, "items": _TEXT},
    },
}
_SEEDS: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["inputs", "answer"],
        "properties": {"inputs": {"type": "object"}, "answer": {"type": "object"}},
    },
}
_LEXICON: dict[str, Any] = {
    "type": "object",
    "additionalProperties": {"type": "array", "minItems": 1, "items": {"type": ["string", "number"]}},
}


def read_role(folder: Path) -> Role:
    """The role in a folder. Raises ConfigError, which lists all faults of a file."""
    if not (folder / FILE).is_file():
        raise ConfigError(f"{folder}: no role, expected a folder with {FILE} (`cpuft role new` makes one)")
    facts = _checked(_yaml(folder / FILE), _SCHEMA, folder / FILE)
    schema = _schema(folder / "schema.json")
    unknown = [name for name in facts["sources"] if f"{{{name}}}" not in facts["question"]]
    if unknown:
        raise ConfigError(f"{folder / FILE}: question: {{{unknown[0]}}} is not in it, but sources names that input")
    faults = [f"sources.{name}: {fault}" for name, source in facts["sources"].items() if (fault := _fault_of(source))]
    if faults:
        raise ConfigError(f"{folder / FILE}: {list_all_faults(faults)}")
    seeds = _checked(_yaml(folder / "seeds.yaml"), _SEEDS, folder / "seeds.yaml")
    lexicon_file = folder / "lexicon.yaml"
    lexicon = _checked(_yaml(lexicon_file), _LEXICON, lexicon_file) if lexicon_file.is_file() else {}
    return Role(
        name=folder.resolve().name,
        title=facts["title"],
        prompt=_text(folder / "prompt.md"),
        short_prompt=_text(folder / "short.md"),
        question=facts["question"].strip(),
        sources=facts["sources"],
        answer_keys=tuple(facts["answer_keys"]),
        schema=schema,
        metric=_metric(folder / "metric.py"),
        seeds=tuple(Example(seed["inputs"], seed["answer"]) for seed in seeds),
        lexicon={kind: tuple(map(str, words)) for kind, words in lexicon.items()},
    )


def source_role(source: str) -> str | None:
    """The role that an input comes from; None where it is the user's."""
    return None if source == USER else source.partition(".")[0]


def _fault_of(source: str) -> str | None:
    """What is wrong with where an input comes from; None where nothing is."""
    if source == USER:
        return None
    role, dot, field = source.partition(".")
    if role not in NAMES:
        return f"{source!r} is no source, expected {USER}, a role (one of {', '.join(NAMES)}) or ROLE.FIELD"
    fields = _schema(FOLDER / role / "schema.json")["properties"]
    if dot and field not in fields:
        return f"{source!r}: {role} does not answer {field!r}, expected one of {', '.join(fields)}"
    return None


def _metric(path: Path) -> Metric:
    """The function `score` of a file, which is a program: a role's folder is as trusted as one."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file, expected a function score(answer, inputs) in it")
    spec = importlib.util.spec_from_file_location(f"cpuft_role_{path.parent.resolve().name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        metric: Metric = module.score
    except Exception as error:  # it is a user's program: it can fail in any way
        raise ConfigError(f"{path}: cannot be run ({type(error).__name__}: {error})") from error
    return metric


def _schema(path: Path) -> Mapping[str, Any]:
    try:
        schema: dict[str, Any] = json.loads(_text(path))
        jsonschema.Draft202012Validator.check_schema(schema)
    except (ValueError, jsonschema.SchemaError) as error:
        raise ConfigError(f"{path}: no JSON Schema: {str(error).splitlines()[0]}") from error
    if schema.get("type") != "object" or not schema.get("properties"):
        raise ConfigError(f"{path}: expected the schema of an object with properties, the fields of the answer")
    return schema


def _checked(document: Any, schema: dict[str, Any], path: Path) -> Any:
    faults = [
        f"{error.json_path.removeprefix('$').removeprefix('.') or 'the file'}: {error.message}"
        for error in jsonschema.Draft202012Validator(schema).iter_errors(document)
    ]
    if faults:
        raise ConfigError(f"{path}: {list_all_faults(faults)}")
    return document


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file, which a role needs") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
