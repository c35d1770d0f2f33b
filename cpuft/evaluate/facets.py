"""What can be said of a model's answers by the role's schema alone, whatever the metric makes of them.

Of an answer that is no YAML as a whole those fields count that can be read, as metrics count them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean as mean
from typing import Any

import jsonschema

from cpuft.roles.answer import read_answer, read_fields

Schema = Mapping[str, Any]
MAX_REFERENCES = 16  # of one schema to another, before anything of the document is read
EMPTY: tuple[Any, ...] = (None, "", [], {})


@dataclass(frozen=True)
class Facets:
    """Means over answers; of a single one they are its own.

    yaml_valid:    share that is one YAML document, a mapping.
    schema_valid:  share that the role's schema accepts.
    completeness:  share of the schema's required top-level fields that are there and not empty.
    id_compliance: share of the values for which the schema has a `pattern` that are texts which match it; one that is
                   missing where the schema requires it does not. Mean over the answers that have any place for such a
                   value; None where none has.
    quantities:    items in each field that is a list, by name, of a list within a mapping "mapping.list"; a field that
                   is missing or no list has 0.
    """

    yaml_valid: float
    schema_valid: float
    completeness: float
    id_compliance: float | None
    quantities: Mapping[str, float]

    def facts(self) -> dict[str, Any]:
        """Ready for JSON; `yaml_valid_rate` is the specification's other name of `yaml_valid`."""
        ids = None if self.id_compliance is None else round(self.id_compliance, 4)
        return {
            "yaml_valid": round(self.yaml_valid, 4),
            "yaml_valid_rate": round(self.yaml_valid, 4),
            "schema_valid": round(self.schema_valid, 4),
            "completeness": round(self.completeness, 4),
            "id_compliance": ids,
            "quantities": {name: round(count, 2) for name, count in self.quantities.items()},
        }


def facets_of(answer: str, schema: Schema) -> Facets:
    """What can be said of one answer."""
    document, fields = read_answer(answer), read_fields(answer)
    required = list(schema.get("required", ()))
    there = [name for name in required if fields.get(name) not in EMPTY]
    matches = list(_matches(fields, schema, schema))
    return Facets(
        yaml_valid=float(document is not None),
        schema_valid=float(document is not None and _fits(document, schema)),
        completeness=len(there) / len(required) if required else 1.0,
        id_compliance=mean(matches) if matches else None,
        quantities={".".join(path): float(_length(fields, path)) for path in _lists(schema, schema)},
    )


def mean_facets(answers: Sequence[Facets]) -> Facets:
    """The means over some answers to one role, at least one."""
    ids = [answer.id_compliance for answer in answers if answer.id_compliance is not None]
    return Facets(
        yaml_valid=mean(answer.yaml_valid for answer in answers),
        schema_valid=mean(answer.schema_valid for answer in answers),
        completeness=mean(answer.completeness for answer in answers),
        id_compliance=mean(ids) if ids else None,
        quantities={name: mean(answer.quantities[name] for answer in answers) for name in answers[0].quantities},
    )


def _fits(document: Any, schema: Schema) -> bool:
    try:
        return jsonschema.Draft202012Validator(dict(schema)).is_valid(document)
    except (TypeError, ValueError, ArithmeticError):  # YAML has keys that are no texts, and numbers that are none
        return False


def _matches(value: Any, schema: Schema, whole: Schema) -> Iterator[bool]:
    """Whether each value for which the schema has a pattern matches it."""
    schema = _resolved(schema, whole)
    if "pattern" in schema:
        yield isinstance(value, str) and _pattern(schema["pattern"]).search(value) is not None
    if isinstance(value, Mapping):
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                yield from _matches(value[name], inner, whole)
            elif name in schema.get("required", ()) and "pattern" in _resolved(inner, whole):
                yield False
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for item in value:
            yield from _matches(item, schema["items"], whole)


def _lists(schema: Schema, whole: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where the lists of an answer stand: in it, or in mappings in it."""
    for name, inner in schema.get("properties", {}).items():
        resolved = _resolved(inner, whole)
        if resolved.get("type") == "array":
            yield (*path, name)
        elif "properties" in resolved and len(path) < MAX_REFERENCES:
            yield from _lists(resolved, whole, (*path, name))


def _length(document: Any, path: Sequence[str]) -> int:
    for name in path:
        document = document.get(name) if isinstance(document, Mapping) else None
    return len(document) if isinstance(document, list) else 0


def _resolved(schema: Any, whole: Schema) -> Schema:
    """A schema, or that which it refers to within the whole (#/$defs/…); an empty one where it refers elsewhere."""
    for _ in range(MAX_REFERENCES):
        if not isinstance(schema, Mapping) or not str(schema.get("$ref", "#/")).startswith("#/"):
            return {}
        if "$ref" not in schema:
            return schema
        target: Any = whole
        for name in str(schema["$ref"]).split("/")[1:]:
            target = target.get(name) if isinstance(target, Mapping) else None
        schema = target
    return {}


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)
