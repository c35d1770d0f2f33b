"""Proves that the grammar of a schema, in llama.cpp's own engine, takes what `write_answer` writes and nothing else."""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import jsonschema
import pytest

from cpuft import demo
from cpuft.backends.generator import Sampling
from cpuft.backends.llama_server import LlamaServer
from cpuft.errors import ConfigError
from cpuft.roles import find_role
from cpuft.roles.answer import read_answer, write_answer
from cpuft.roles.pattern import Pattern
from cpuft.roles.yaml_grammar import held_to, yaml_grammar
from tests.roles.grammar_engine import GrammarEngine
from tests.synth.answering import Scripted

ROLES = ("ba", "po", "architect", "dev", "qa")
HOSTILE = (
    "a: b", "a #b", "a#b", "a:b", ":a", "a:", "it's", 'say "so"', "back\\slash", "'", '"', "''", " a", "a ", "", " ",
    "yes", "No", "ON", "true", "False", "null", "~", "Nullable", "nothing", "No more", "1e3", "1.0e+3", "12", "0x1F",
    "12 days", "1_000", "10:30", "10:30 sharp", "2024-01-01", "2024-01-01 12:00:00", "2024-01-01 at noon", ".5", ".",
    "+1", "-1", "-", "- a", "-a", "--- a", "...", "?", "? a", "?a", "*a", "&a", "!a", "%a", "@a", "`a`", "|", "> a",
    "{a}", "[a]", ",a", "a, b", "#a", "=", "<<", "🙂 smile", "日本語: テスト", "日本語", "é", "\u00a0a", "\ufeff",
    "a\tb", "a\u2028\tb", "a\u0085 b\t", "a\x07b", "tab\tand 🙂",
    "two\nlines", "two\nlines\n", "a\n\n  b\n# c\n- d: e", "x = 'a'\n\n\n\ty", "---\na", "a\n---\nb\n...", "one\n",
)  # fmt: skip
ALPHABET = "aZ9 :#'\"\\-?,[]{}&*!|>%@`~=<._+/eE\n\té🙂語\u2028\u00a0\x7f"


@cache
def engine(schema: str) -> GrammarEngine:
    return GrammarEngine(yaml_grammar(json.loads(schema)))


def takes(schema: Any, document: Any) -> bool:
    """Whether the grammar takes a document as it is written, with its last line's end and, if that says the same,
    without."""
    grammar, written = engine(json.dumps(schema)), write_answer(document)
    return grammar.accepts(written) and grammar.accepts(written[:-1])


def of(schema: Any, required: bool = True) -> Any:
    """A schema of one field."""
    return {"type": "object", "properties": {"k": schema}, "required": ["k"] if required else []}


def document(schema: Any, rng: random.Random) -> Any:
    """One that satisfies a schema of the package."""
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if schema["type"] == "object":
        return {name: document(one, rng) for name, one in schema["properties"].items()}
    if schema["type"] == "array":
        least, most = schema.get("minItems", 0), schema.get("maxItems", 12)
        return [document(schema["items"], rng) for _ in range(rng.randint(least, min(most, least + 2)))]
    if "pattern" in schema:
        return _matching(Pattern(schema["pattern"]), rng)
    while True:
        text = _text(rng, schema.get("minLength", 0), schema.get("maxLength", 300))
        if _is_taken(text, schema):
            return text


def _text(rng: random.Random, least: int, most: int) -> str:
    """Words, hostile ones among them, and now and then any characters."""
    kinds = (("a ", "word", " of", "9"), HOSTILE, ("\n", ": ", " #", "\n\n  "), ALPHABET)
    length, text = min(most, least + rng.choice((0, 1, 5, 40))), ""
    kind = rng.choices(range(4), (6, 3, 1, 1), k=2)
    while len(text) < length:
        text += rng.choice(kinds[rng.choice(kind)])
    return text[:length]


def _matching(pattern: Pattern, rng: random.Random) -> str:
    while True:
        state, text = 0, ""
        while not (pattern.accepts(state) and rng.random() < 0.2):
            ranges, state = rng.choice(pattern.edges(state) or [((), -1)])
            if not ranges:
                break
            low, high = rng.choice(ranges)
            text += chr(rng.randint(low, min(high, low + 100)))
        if state >= 0:
            return text


def _is_taken(text: str, schema: Any) -> bool:
    """Not one of those which the grammar is said not to take."""
    if re.match(r"[0-9.+-][0-9_.:eE+-]{24}", text):
        return False
    if re.search("[\u0085\u2028\u2029]", text):
        return write_answer({"k": text}).startswith('k: "')
    if text.endswith("\n"):
        return not text.endswith("\n\n") and len(text) > schema.get("minLength", 0) and _is_block(text)
    return "\n" not in text or _is_block(text) or write_answer({"k": text}).startswith('k: "')


def _is_block(text: str) -> bool:
    return write_answer({"k": text}).startswith("k: |")


@pytest.mark.parametrize("name", ROLES)
def test_what_is_written_is_taken(name: str) -> None:
    schema, rng = find_role(name).schema, random.Random(name)
    for _ in range(40):
        one = document(schema, rng)
        jsonschema.validate(one, schema)
        assert takes(schema, one), one


@pytest.mark.parametrize("name", ROLES)
def test_seeds_are_taken(name: str) -> None:
    role = find_role(name)
    assert all(takes(role.schema, seed.answer) for seed in role.seeds)


@pytest.mark.parametrize("name", ROLES)
def test_what_is_taken_satisfies_the_schema(name: str) -> None:
    schema = find_role(name).schema
    for seed in range(5):
        text = engine(json.dumps(schema)).text(seed)
        jsonschema.validate(read_answer(text), schema)


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_that_yaml_reads_as_something_else(text: str) -> None:
    free = of({"type": "string"})
    assert takes(free, {"k": text})
    exact = of({"type": "string", "minLength": len(text), "maxLength": len(text)})
    shorter = of({"type": "string", "maxLength": len(text) - 1}) if text else None
    ends = text.endswith("\n")  # its length is not known where the last line's end may be left out
    assert takes(exact, {"k": text}) == (not ends)
    assert shorter is None or not takes(shorter, {"k": text})


PIECES = (
    *HOSTILE,
    *ALPHABET,
    "''",
    "\\n",
    "\\x41",
    "\\uD800",
    "\\U0001F600",
    "\\U00110000",
    "\n  ",
    "\n\n  ",
    "|-\n  ",
)


def test_whatever_is_taken_is_a_text() -> None:
    """The other direction, from texts that nobody drew from the grammar."""
    schema, rng, taken = of({"type": "string", "minLength": 2, "maxLength": 9}), random.Random(0), 0
    grammar = engine(json.dumps(schema))
    for _ in range(4000):
        opening, end = rng.choice((("", ""), ("'", "'"), ('"', '"'), ("|-\n  ", ""), ("|\n  ", "")))
        written = f"k: {opening}{''.join(rng.choices(PIECES, k=rng.randint(0, 4)))}{end}"
        for one in (written, f"{written}\n"):
            if grammar.accepts(one):
                jsonschema.validate(read_answer(one), schema)
                taken += 1
    assert taken > 1000


SCHEMAS: tuple[tuple[Any, Sequence[Any], Sequence[Any]], ...] = (
    ({"enum": ["a", "yes", 1, True, None, "Won't", "a: b", 1.5]}, ["a", "yes", 1, True, None, "Won't", 1.5], ["no", 2]),
    ({"const": "2024-01-01"}, ["2024-01-01"], ["2024-01-02"]),
    ({"type": "integer", "minimum": 3, "maximum": 12}, [3, 12], [2, 13, -3, "3"]),
    ({"type": "integer", "minimum": 1}, [1, 10**17], [0, -1]),
    ({"type": "integer"}, [0, -5, 77], [1.5, "7"]),
    ({"type": "number", "minimum": 0}, [0, 1.5, 1e20, 2.5e-7], [-1, -0.5]),
    ({"type": ["boolean", "null"]}, [True, False, None], ["true", 0]),
    ({"type": "string", "pattern": "^(yes|no|1+)$"}, ["yes", "no", "1", "111"], ["maybe", "11a", True, 11]),
    ({"type": "string", "pattern": "b"}, ["b", "abc", "b: #", "yes b"], ["ac", ""]),
    ({"type": "string", "pattern": "^a*(?:bc?|[^x-z\\d])+$"}, ["ab", "aabcb", "q e"], ["x", "a1", ""]),
    ({"type": "string", "pattern": r"^\w+ ?\d{2,3}$|^$", "maxLength": 6}, ["ab 12", "", "a123"], ["ab", "abcdef12"]),
    ({"type": "array", "items": {"type": "string"}}, [[], ["a"], ["a: b", "x\ny", "- c"]], ["a", [1]]),
    ({"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 3}, [[1] * 2, [1] * 3], [[1], [1] * 4, []]),
    ({"type": "array", "items": {"type": "array", "items": {"type": "array", "items": {"type": "null"}}}},
     [[], [[]], [[[], [None, None]], [[None]]]], [[None]]),
    ({"type": "array", "items": {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 1}}, [[[], [2]]], [[[1, 1]]]),
    ({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "object", "properties": {
        "c": {"type": "array", "items": {"type": "string"}}}}, "d": {"type": "null"}}},
     [{}, {"a": "x\ny"}, {"b": {}}, {"a": "x", "b": {"c": ["y\nz", "v"]}, "d": None}, {"d": None}], [{"d": 1}, None]),
    ({"type": "array", "items": {"type": "object", "properties": {"a": {"enum": [1]}, "b": {"enum": [2]}},
                                 "required": ["b"]}}, [[{"a": 1, "b": 2}, {"b": 2}]], [[{"a": 1}]]),
    ({"anyOf": [{"type": "string", "maxLength": 3}, {"type": "array", "items": {"type": "integer"}}]},
     ["abc", "12", [1, 2], []], ["abcd", 12]),
    ({"oneOf": [{"type": "string"}, {"type": "null"}]}, ["a", None, "null"], [1]),
)  # fmt: skip


@pytest.mark.parametrize(("schema", "good", "bad"), SCHEMAS)
def test_schemas(schema: Any, good: Sequence[Any], bad: Sequence[Any]) -> None:
    whole = of(schema)
    for one in good:
        jsonschema.validate({"k": one}, whole)
        assert takes(whole, {"k": one}), one
    for one in bad:
        assert not takes(whole, {"k": one}), one
    for seed in range(20):
        text = engine(json.dumps(whole)).text(seed)
        jsonschema.validate(read_answer(text), whole)


def test_definitions_and_sections() -> None:
    schema = {
        "$defs": {
            "id": {"type": "string", "pattern": "^A[0-9]$"}, "ids": {"type": "array", "items": {"$ref": "#/$defs/id"}},
        },
        "type": "object",
        "properties": {"yes": {"$ref": "#/$defs/ids"}, "a b": {"$ref": "#/$defs/id"}, "z": {"$ref": "#/$defs/ids"}},
        "required": ["a b"],
    }  # fmt: skip
    assert takes(schema, {"yes": ["A1", "A2"], "a b": "A3", "z": []})
    assert takes(schema, {"a b": "A3"})
    assert not takes(schema, {"yes": ["A1"]})
    written = write_answer({"a b": "A3", "z": []})
    grammar = engine(json.dumps(schema))
    for other in (written.replace("\n\n", "\n"), written.replace("\n\n", "\n\n\n"), f"\n{written}", f"{written}\n"):
        assert not grammar.accepts(other)


REFUSED = (
    ({"type": "string", "pattern": "^(?=a)b"}, "pattern at #/properties/k: assert is not regular"),
    ({"type": "string", "pattern": r"(a)\1"}, "pattern at #/properties/k"),
    ({"type": "string", "pattern": r"\bb"}, "pattern at #/properties/k"),
    ({"type": "string", "pattern": "(?i)b"}, "pattern at #/properties/k: it has flags"),
    ({"type": "string", "pattern": "^(a{0,99}){0,99}$"}, "pattern at #/properties/k: it is too long"),
    ({"type": "string", "minLength": 3, "maxLength": 2}, "maxLength at #/properties/k: no text"),
    ({"type": "string", "maxLength": 10**6}, "maxLength at #/properties/k: over 4000"),
    ({"type": "array"}, "items at #/properties/k"),
    ({"type": "array", "items": {}, "maxItems": 3}, "type at #/properties/k/items"),
    ({"type": "array", "items": {"const": 1}, "minItems": 3, "maxItems": 2}, "maxItems at #/properties/k"),
    ({"type": "array", "items": {"const": 1}, "maxItems": 9999}, "maxItems at #/properties/k"),
    ({"type": "array", "items": {"const": 1}, "uniqueItems": True}, "uniqueItems at #/properties/k"),
    ({"type": "integer", "multipleOf": 3}, "multipleOf at #/properties/k"),
    ({"type": "number", "maximum": 3}, "maximum at #/properties/k"),
    ({"type": "integer", "minimum": -7}, "minimum at #/properties/k"),
    ({"type": "object", "required": ["a"]}, "required at #/properties/k: 'a'"),
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf at #/properties/k"),
    ({"anyOf": [{"type": "number"}], "type": "number"}, "type at #/properties/k: beside anyOf"),
    ({"allOf": [{"type": "number"}]}, "allOf at #/properties/k"),
    ({"$ref": "#"}, "\\$ref at #/properties/k"),
    ({"$ref": "#/properties/k"}, "\\$ref at #/properties/k"),
    ({"type": "array", "items": {"$ref": "#/properties/k"}}, "\\$ref at #/properties/k/items"),
    ({"$ref": "https://example.com/x"}, "\\$ref at #/properties/k"),
    ({"$ref": "#/$defs/a"}, "\\$ref at #/properties/k: #/\\$defs/a is not there"),
    ({"enum": [[1]]}, "enum at #/properties/k"),
    ({"const": "a\nb"}, "const at #/properties/k"),
    ({"type": "string", "enum": [1]}, "enum at #/properties/k"),
    (True, "#/properties/k is true"),
    ({"type": "text"}, "no JSON Schema"),
)


@pytest.mark.parametrize(("schema", "sentence"), REFUSED)
def test_what_a_grammar_cannot_say_is_one_sentence(schema: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        yaml_grammar(of(schema))
    assert "\n" not in str(caught.value)


def test_an_answer_is_a_mapping_with_a_field() -> None:
    for schema in ({"type": "array", "items": {"const": 1}}, {"type": "object"}, {"enum": [{"a": 1}]}):
        with pytest.raises(ConfigError):
            yaml_grammar(schema)


def test_schemas_that_hold_each_other_are_refused() -> None:
    schema = of({"$ref": "#/$defs/a"}) | {
        "$defs": {name: {"type": "array", "items": {"$ref": f"#/$defs/{to}"}} for name, to in ("ab", "ba")}
    }
    with pytest.raises(ConfigError, match="holds itself"):
        yaml_grammar(schema)


def test_a_generator_without_grammars_is_held_to_json(server: LlamaServer) -> None:
    schema, beyond = of({"type": "string"}), of({"type": "integer", "multipleOf": 3})
    asked = Sampling(max_tokens=7)
    plain = Scripted(lambda *_: "")
    assert held_to(schema, plain, asked) == Sampling(max_tokens=7, schema=schema)
    assert held_to(schema, server, asked) == Sampling(max_tokens=7, grammar=yaml_grammar(schema))
    assert held_to(beyond, server, asked) == Sampling(max_tokens=7, schema=beyond)


@pytest.fixture(scope="module")
def server() -> Iterator[LlamaServer]:
    with LlamaServer(demo.BASE_MODEL, n_parallel=2, threads=1) as running:
        yield running


SMALL = {
    "type": "object",
    "required": ["title", "items", "done"],
    "properties": {
        "title": {"type": "string", "minLength": 5, "maxLength": 20},
        "items": {
            "type": "array", "minItems": 1, "maxItems": 3,
            "items": {
                "type": "object", "required": ["id"],
                "properties": {"id": {"type": "string", "pattern": "^FR[0-9]{3}$"}, "n": {"type": "integer"}},
            },
        },
        "done": {"type": "boolean"},
    },
}  # fmt: skip


@pytest.mark.parametrize(("schema", "tokens", "ends"), [(SMALL, 300, 8), (find_role("ba").schema, 700, 0)])
def test_a_model_held_to_it_answers_in_yaml(server: LlamaServer, schema: Any, tokens: int, ends: int) -> None:
    """A base that knows nothing of what is asked, drawn from by chance: all that it ends satisfies the schema."""
    held = held_to(schema, server, Sampling(temperature=1.0, max_tokens=tokens))
    messages = find_role("ba").messages({"concept": "A shop for bread"})
    answers = [server.generate(messages, replace(held, seed=seed)) for seed in range(8)]
    for answer in answers:
        assert answer.finished or answer.tokens == tokens
        if answer.finished:
            jsonschema.validate(read_answer(answer.text), schema)
    assert sum(answer.finished for answer in answers) >= ends
