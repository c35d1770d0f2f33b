"""Reads a run's configuration from YAML and checks it against the keys of `config`.

A file has the sections `lora`, `training` and `quantization`; one written for PEFT and bitsandbytes is accepted as it
stands. All faults are reported together, each with its key path, what was found and what was expected.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from cpuft.config.keys import SECTIONS, Config, keys_of
from cpuft.errors import ConfigError, list_all_faults

BITSANDBYTES = (
    "load_in_4bit",
    "load_in_8bit",
    "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "bnb_4bit_quant_storage",
)


def load_config(path: Path | None, overrides: Mapping[str, Any] | None = None) -> tuple[Config, list[str]]:
    """Reads a YAML file (None: all defaults), puts `overrides` ("training.seed" -> value) over it and checks the whole.

    Returns the configuration and a line for each key that is answered in another way than the file expects. Raises
    ConfigError, which lists all faults at once.
    """
    where = "configuration" if path is None else str(path)
    document = {} if path is None else read_yaml(path)
    faults: list[str] = []
    merged = _merge(document, overrides or {}, faults)
    faults += _faults(merged)
    if faults:
        raise ConfigError(f"{where}: {list_all_faults(faults)}")
    lora, training = (section(**_values(section, merged.get(name) or {})) for name, section in SECTIONS.items())
    explicit_keys = frozenset(f"{name}.{key}" for name in SECTIONS for key in merged.get(name) or {})
    return Config(lora, training, explicit_keys), _notes(merged)


def read_value(text: str) -> Any:
    """A value as it would be read from a file. Raises ValueError where it is not YAML."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} is not a YAML value") from error


def to_document(config: Config) -> dict[str, dict[str, Any]]:
    """The configuration as load_config reads it."""
    document: dict[str, dict[str, Any]] = {}
    for name, section in SECTIONS.items():
        values = {key.name: getattr(getattr(config, name), key.field) for key in keys_of(section)}
        document[name] = {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
    return document


def changed_keys(before: Config, after: Config) -> list[str]:
    """The keys, with both values, whose change would make a resumed run another run."""
    old, new = to_document(before), to_document(after)
    return [
        f"{name}.{key.name} was {old[name][key.name]!r} and is {new[name][key.name]!r}"
        for name, section in SECTIONS.items()
        for key in keys_of(section)
        if old[name][key.name] != new[name][key.name] and not key.metadata["resume_may_change"]
    ]


def schema() -> dict[str, Any]:
    """The JSON Schema of a configuration."""
    properties: dict[str, Any] = {
        name: {
            "type": ["object", "null"],
            "additionalProperties": False,
            "properties": {key.name: dict(key.metadata["schema"]) for key in keys_of(section)},
        }
        for name, section in SECTIONS.items()
    }
    properties["quantization"] = {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {name: {"type": ["boolean", "string", "null"]} for name in BITSANDBYTES},
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _values(section: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a section from its valid YAML values."""
    values = {}
    for key in keys_of(section):
        value = given.get(key.name, key.default)
        if key.name in given and key.metadata["read"] is not None:
            value = key.metadata["read"](value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            value = int(value) if "integer" in _types(key.metadata["schema"]) else float(value)
        values[key.field] = value
    return values


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that stands twice and leaves a day as text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, {} for an empty one. Raises ConfigError, naming the file and the line."""
    try:
        with path.open("rb") as stream:
            return yaml.load(stream, _Loader) or {}
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file, expected a YAML configuration") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def _merge(document: Any, overrides: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """The document with its aliases resolved, numbers that YAML takes for text read, and the overrides put in."""
    if not isinstance(document, Mapping):
        faults.append(f"it holds {type(document).__name__}, expected the sections {', '.join(SECTIONS)}")
        document = {}
    merged = {str(name): _canonical(str(name), value, faults) for name, value in document.items()}
    for path, value in overrides.items():
        name, _, key = path.partition(".")
        section = _canonical(name, {key: value}, faults) if key else value
        if isinstance(section, dict) and isinstance(merged.get(name) or {}, dict):
            section = {**(merged.get(name) or {}), **section}
        merged[name] = section
    return merged


def _canonical(name: str, section: Any, faults: list[str]) -> Any:
    if name not in SECTIONS or not isinstance(section, Mapping):
        return section
    values = {str(key): value for key, value in section.items()}
    for key in keys_of(SECTIONS[name]):
        alias = key.metadata["alias"]
        if alias in values and key.name in values:
            faults.append(f"{name}.{alias}: it means the same as {name}.{key.name}, give one of them")
        if alias in values:
            values[key.name] = values.pop(alias)
        if key.name in values:
            values[key.name] = _number(values[key.name], key.metadata["schema"])
    return values


def _number(value: Any, limits: Mapping[str, Any]) -> Any:
    """The number in a text where a number is wanted: YAML 1.1 reads 2e-4, which has no dot, as text."""
    if isinstance(value, str) and not {"number", "integer"}.isdisjoint(_types(limits)):
        try:
            return float(value)
        except ValueError:
            pass
    return value


def _types(limits: Mapping[str, Any]) -> Sequence[str]:
    types = limits.get("type", ())
    return (types,) if isinstance(types, str) else types


def _is_number(_: Any, value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(_: Any, value: Any) -> bool:
    return _is_number(_, value) and float(value).is_integer()


_TYPES = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many({"number": _is_number, "integer": _is_integer})
FiniteValidator = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator, type_checker=_TYPES
)


def _faults(document: Mapping[str, Any]) -> list[str]:
    """Every fault of a document, in the order of the keys, as `path: what was found, what was expected`."""
    validator = FiniteValidator(schema(), format_checker=jsonschema.FormatChecker(("date",)))
    expected = {(n, key.name): key.metadata["expected"] for n, section in SECTIONS.items() for key in keys_of(section)}
    faults: dict[str, str] = {}
    for error in validator.iter_errors(document):
        path = ".".join(map(str, error.absolute_path))
        if error.validator == "additionalProperties":
            known = list(error.schema["properties"])
            faults |= {k: _unknown(path, k, known) for k in error.instance if k not in known}
        elif len(error.absolute_path) == 1:
            faults[path] = f"{path}: found {error.instance!r}, expected keys and values"
        else:
            name, key = list(error.absolute_path)[:2]
            wanted = expected.get((str(name), str(key)), "true, false or a name")
            faults.setdefault(f"{name}.{key}", f"{name}.{key}: found {document[name][key]!r}, expected {wanted}")
    return list(faults.values())


def _unknown(section: str, key: str, known: Sequence[str]) -> str:
    """A key that does not exist, and the one that was probably meant, in this section or in another."""
    prefix = f"{section}." if section else ""
    candidates = {prefix + name: name for name in known}
    candidates |= {f"{other}.{k.name}": k.name for other, cls in SECTIONS.items() for k in keys_of(cls)}
    near = difflib.get_close_matches(key, list(dict.fromkeys(candidates.values())), 1, 0.7)
    hint = next((f", did you mean {path}?" for path, name in candidates.items() if near and name == near[0]), "")
    return f"{prefix}{key}: no such key{hint}"


def _notes(document: Mapping[str, Any]) -> list[str]:
    notes = []
    given = [key for key in BITSANDBYTES if key in (document.get("quantization") or {})]
    if given:
        notes.append(
            f"quantization.{{{','.join(given)}}}: the base model stays in the quantization of its GGUF file "
            "and is trained on as it is; these keys change nothing"
        )
    return notes
