"""A grammar (GBNF) for documents of YAML, made from a JSON Schema: what holds a model to a role's schema in the form
that it has learned to write."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import jsonschema

from cpuft.backends.generator import GREEDY, Generator, Sampling, takes_grammar
from cpuft.errors import ConfigError
from cpuft.roles.answer import write_answer
from cpuft.roles.pattern import Pattern
from cpuft.roles.yaml_text import Rules, Value, literal, text_rule

MAX_REPEATED = 2000  # llama.cpp takes a higher limit for none
MAX_LENGTH = 4000  # of a text whose characters are counted: there are several rules for each of them
MAX_RULES = 60_000
_TYPES_BY_KEYWORD = {
    **dict.fromkeys(("properties", "required"), "object"),
    **dict.fromkeys(("items", "minItems", "maxItems"), "array"),
    **dict.fromkeys(("pattern", "minLength", "maxLength"), "string"),
    **dict.fromkeys(("minimum", "maximum"), "number"),
}
_SAYS_NOTHING = {
    *("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples"),
    *("deprecated", "readOnly", "writeOnly", "format", "contentEncoding", "contentMediaType"),
}
# No property is written that a schema does not name, whatever it says about others.
_KNOWN = {*_TYPES_BY_KEYWORD, *_SAYS_NOTHING, "type", "enum", "const", "additionalProperties"}
_DIGITS = '("0" | [1-9] [0-9]{0,17})'
_FRACTION = '("." [0-9]{1,17} ("e" [+-] ([0-9] [0-9] | [12] [0-9] [0-9]))?)?'


def held_to(schema: Mapping[str, Any], generator: Generator, sampling: Sampling = GREEDY) -> Sampling:
    """Sampling that holds a generator's answers to a schema: as YAML in the form of `write_answer`, or as JSON.

    JSON where the generator takes no grammar, or where none can be made of the schema.
    """
    if takes_grammar(generator):
        try:
            return replace(sampling, grammar=yaml_grammar(schema), schema=None)
        except ConfigError:
            pass
    return replace(sampling, schema=schema, grammar=None)


def yaml_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of the documents that satisfy a schema, in the form in which `write_answer` writes them.

    Every text that it accepts (and that is within the bounds of `read_answer`) is read as a mapping that satisfies the
    schema. What `write_answer` writes of such a mapping is accepted, the last end of line left out or not, but for

    - properties that the schema does not name, or in another order; floats for integers; numbers of over 18 digits;
    - texts that end in several ends of line, and texts of several lines that begin with white space or in which it
      stands around an end of line, or with ends of line other than \\n (in double quotes, all these are accepted);
    - a text with a last end of line whose length without it is below minLength;
    - plain texts that look like a number for more than 24 characters (in quotes, they are accepted);
    - for a pattern: tabs, line ends and unprintable characters, and characters beyond ASCII for \\d, \\w and \\s.

    Raises ConfigError, which names the keyword and its place, where a schema says what the grammar cannot: callers hold
    the model to JSON then.
    """
    return _grammar(json.dumps(schema, sort_keys=False))


@cache
def _grammar(schema: str) -> str:
    whole = json.loads(schema)
    try:
        jsonschema.Draft202012Validator.check_schema(whole)
    except jsonschema.SchemaError as error:
        raise ConfigError(f"no JSON Schema: {error.message}") from error
    return _Grammar(whole).text()


class _Grammar:
    """Rules for one schema. Places are JSON pointers, columns those of the key or dash that a value stands behind."""

    def __init__(self, whole: Any) -> None:
        self._whole, self._rules = whole, Rules()

    def text(self) -> str:
        """The grammar."""
        schema, place = self._resolved(self._whole, "#")
        if self._types(schema, place) != ["object"] or "enum" in schema or "const" in schema:
            raise _refusal("type", place, "an answer is a mapping")
        fields = self._fields(schema, place, -2, literal(""), literal("\n\n"))
        if fields is None:
            raise _refusal("properties", place, "an answer has a field at least")
        root = f'root ::= {fields} "\\n"?\n'
        if len(self._rules.texts) > MAX_RULES:
            raise ConfigError(f"a YAML grammar of the schema would have over {MAX_RULES} rules: shorten its texts")
        return root + self._rules.text()

    def _value(self, schema: Any, place: str, column: int, first: str | None = None) -> str:
        """A rule for a value, from behind the colon of its key or the dash of its item on.

        first: what stands before the first entry of a collection, where it stands in the dash's own line.
        """
        schema, place = self._resolved(schema, place)
        if "anyOf" in schema or "oneOf" in schema:
            return self._any(schema, place, column, first)
        if "enum" in schema or "const" in schema:
            return self._literals(schema, place)
        found = list[str]()
        for kind in self._types(schema, place):
            if kind == "object":
                before = literal("\n" + " " * (column + 2))
                fields = self._fields(schema, place, column, first or before, before)
                found += [] if fields is None else [fields]
                found += [] if schema.get("required") else [literal(" {}")]
            elif kind == "array":
                found += self._items(schema, place, column, first)
            elif kind == "string":
                found.append(f'" " {self._string(schema, place, column + 2)}')
            else:
                found.append(f'" " {_scalar(kind, schema, place)}')
        return self._rules.add(" | ".join(found))

    def _fields(self, schema: Any, place: str, column: int, first: str, other: str) -> str | None:
        """A rule for the entries of a mapping, at least one; None where it names none.

        first, other: what stands before the first entry, and before each other.
        """
        properties, required = schema.get("properties", {}), set(schema.get("required", ()))
        if unknown := required - set(properties):
            raise _refusal("required", place, f"{sorted(unknown)[0]!r} is not among the properties")
        rest, whole = '""', None
        for name, of in reversed(properties.items()):
            value = f"{_key(name, place)} {self._value(of, f'{place}/properties/{name}', column + 2)} {rest}"
            whole_here, rest_here = f"{first} {value}", f"{other} {value}"
            if name not in required:
                whole_here += f" | {whole}" if whole else ""
                rest_here += f" | {rest}"
                whole = self._rules.add(whole_here)
            else:
                whole = self._rules.add(whole_here)
            rest = self._rules.add(rest_here)
        return whole

    def _items(self, schema: Any, place: str, column: int, first: str | None) -> list[str]:
        """What a list may be. Behind a key its dashes stand below the key, behind a dash they are indented."""
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if most is not None and most < least:
            raise _refusal("maxItems", place, "below minItems")
        if max(least, most or 0) > MAX_REPEATED:
            raise _refusal("maxItems" if (most or 0) > MAX_REPEATED else "minItems", place, f"over {MAX_REPEATED}")
        found = [] if least else [literal(" []")]
        if most == 0:
            return found
        if "items" not in schema:
            raise _refusal("items", place, "it is missing, so the list may hold anything")
        column += 0 if first is None else 2
        of = self._value(schema["items"], f"{place}/items", column, literal(" "))
        item = self._rules.add(f"{literal(chr(10) + ' ' * column + '-')} {of}")
        if first is None:
            return [*found, f"{item}{{{max(least, 1)},{'' if most is None else most}}}"]
        begin = f"{literal(' -')} {of}"
        return [*found, f"{begin} {item}{{{max(least - 1, 0)},{most - 1 if most else ''}}}" if most != 1 else begin]

    def _string(self, schema: Any, place: str, indent: int) -> str:
        pattern, most = schema.get("pattern"), schema.get("maxLength")
        least = schema.get("minLength", 0)
        if max(least, most or 0) > MAX_LENGTH:
            raise _refusal("maxLength" if (most or 0) > MAX_LENGTH else "minLength", place, f"over {MAX_LENGTH}")
        try:
            matched = None if pattern is None else _pattern(pattern)
        except ValueError as error:
            raise _refusal("pattern", place, str(error)) from error
        name = text_rule(self._rules, Value(least, most, matched), indent)
        if name is None:
            raise _refusal("pattern" if pattern else "maxLength", place, "no text satisfies it with the others")
        return name

    def _any(self, schema: Any, place: str, column: int, first: str | None) -> str:
        keyword = "anyOf" if "anyOf" in schema else "oneOf"
        if beside := [name for name in schema if name != keyword and name not in _SAYS_NOTHING]:
            raise _refusal(beside[0], place, f"beside {keyword}")
        parts = [self._resolved(of, f"{place}/{keyword}/{i}") for i, of in enumerate(schema[keyword])]
        if keyword == "oneOf":
            kinds = [kind.replace("integer", "number") for of, at in parts for kind in self._types(of, at)]
            if len(set(kinds)) < len(kinds):
                raise _refusal("oneOf", place, "two of its schemas are of one type, so a value may satisfy both")
        return self._rules.add(" | ".join(self._value(of, at, column, first) for of, at in parts))

    def _literals(self, schema: Any, place: str) -> str:
        keyword = "const" if "const" in schema else "enum"
        values = [schema["const"]] if keyword == "const" else schema["enum"]
        valid = [one for one in values if jsonschema.Draft202012Validator(schema).is_valid(one)]
        if not valid:
            raise _refusal(keyword, place, "no value satisfies it with the others")
        return self._rules.add(" | ".join(literal(f" {_written(one, keyword, place)}") for one in valid))

    def _types(self, schema: Any, place: str) -> list[str]:
        if unknown := [name for name in schema if name not in _KNOWN]:
            raise _refusal(unknown[0], place, "it is not known here")
        named = schema.get("type")
        if named is None:
            implied = {kind for name, kind in _TYPES_BY_KEYWORD.items() if name in schema}
            if len(implied) != 1 and not {"enum", "const"} & set(schema):
                raise _refusal("type", place, "it is missing")
            named = sorted(implied)
        return [named] if isinstance(named, str) else list(named)

    def _resolved(self, schema: Any, place: str) -> tuple[Any, str]:
        """A schema that is no reference, and its place."""
        while isinstance(schema, dict) and "$ref" in schema:
            target = schema["$ref"]
            if beside := [name for name in schema if name != "$ref" and name not in _SAYS_NOTHING]:
                raise _refusal(beside[0], place, "beside $ref")
            within = f"{place}/".startswith(f"{target}/") or f"/$ref {target}/" in f"{place}/"
            if within or not target.startswith("#/"):
                raise _refusal("$ref", place, f"{target} lies in another document, or holds itself")
            schema, place = self._at(target, place), f"{place}/$ref {target}"
        if not isinstance(schema, dict):
            raise ConfigError(
                f"no YAML grammar for the schema: {place} is {json.dumps(schema)}, which anything satisfies, or nothing"
            )
        return schema, place

    def _at(self, target: str, place: str) -> Any:
        found = self._whole
        for part in target[2:].split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(name)] if isinstance(found, list) else found[name]
            except (KeyError, IndexError, ValueError, TypeError):
                raise _refusal("$ref", place, f"{target} is not there") from None
        return found


@cache
def _pattern(pattern: str) -> Pattern:
    return Pattern(pattern)


def _scalar(kind: str, schema: Any, place: str) -> str:
    if kind == "boolean":
        return '("true" | "false")'
    if kind == "null":
        return '"null"'
    least, most = schema.get("minimum"), schema.get("maximum")
    whole = kind == "integer"
    if whole and None not in (least, most) and least == int(least) and most == int(most):
        if not 0 <= most - least <= MAX_REPEATED:
            raise _refusal("maximum", place, f"over {MAX_REPEATED} values, or none")
        return f"({' | '.join(literal(str(i)) for i in range(int(least), int(most) + 1))})"
    if most is not None:
        raise _refusal("maximum", place, "without a minimum, or of a number that may have a fraction")
    if least not in (None, 0) and (least, whole) != (1, True):
        raise _refusal("minimum", place, "neither 0 nor 1")
    digits = "([1-9] [0-9]{0,17})" if least == 1 else _DIGITS
    return f"{'' if least is not None else literal('-') + '? '}{digits}{'' if whole else ' ' + _FRACTION}"


def _key(name: str, place: str) -> str:
    """A key as `write_answer` writes it, with its colon."""
    written = write_answer({name: 0})
    if not written.endswith(": 0\n") or written.startswith("? ") or "\n" in written[:-1]:
        raise _refusal("properties", place, f"{name!r} is a key that YAML writes in a way of its own")
    return literal(written[: -len(" 0\n")])


def _written(value: Any, keyword: str, place: str) -> str:
    """A value as `write_answer` writes it behind a key."""
    written = write_answer({"k": value})
    if isinstance(value, list | dict) or written.count("\n") > 1:
        raise _refusal(keyword, place, "one of its values takes several lines")
    return written[len("k: ") : -1]


def _refusal(keyword: str, place: str, why: str) -> ConfigError:
    return ConfigError(f"no YAML grammar for the schema: {keyword} at {place}: {why}")
