"""How good a requirements document is: a number in 0..1 and the five parts that it is made of.

    total = 0.30 yaml_valid + 0.25 completeness + 0.15 id_format + 0.15 quantities + 0.15 relevance

A text that is no YAML mapping, such as ordinary prose, scores 0 in every part: there is no document to look at.

yaml_valid     1 where the text is a YAML mapping whose fields are all there, with the types of schema.json, else 0.
completeness   Mean over the five fields. title and description: 1 where the schema's length holds, 0.5 where there is
               any other text. The three lists: share of their items that have everything the schema asks of an item
               but the form of its id.
id_format      Share of all items whose id is the list's prefix and three digits, each id counted once per list.
quantities     Mean over the three lists of min(1, items / items that the schema asks for).
relevance      Share of the concept's content words that occur in the document's texts, case aside.
"""

import re
from functools import cache
from typing import Any

import jsonschema
import yaml

from cpuft.roles.ba.document import schema
from cpuft.roles.role import Score

WEIGHTS = {"yaml_valid": 0.30, "completeness": 0.25, "id_format": 0.15, "quantities": 0.15, "relevance": 0.15}

# What makes a document valid as YAML is its structure; lengths, counts and patterns are judged by the other parts.
_STRUCTURE = ("type", "required", "properties", "items")
# Answers are untrusted; a document that a person will read is far shorter than this.
_MAX_CHARACTERS = 100_000
_WORD = re.compile(r"[^\W_]+")
_FENCE = re.compile(r"\s*```[\w-]*\n(.*?)(?:\n```\s*)?", re.DOTALL)
_FUNCTION_WORDS = frozenset(
    ("a", "an", "and", "as", "at", "by", "concept", "for", "from", "in", "into", "is", "it", "its")
) | {"of", "on", "or", "that", "the", "their", "to", "using", "via", "with"}


NOTHING = Score(0.0, dict.fromkeys(WEIGHTS, 0.0))


def score(answer: str, concept: str) -> Score:
    """Scores an answer, a YAML document perhaps in a code fence, to the business `concept`."""
    document = parse(answer)
    if document is None:
        return NOTHING
    parts = {
        "yaml_valid": float(_validator().is_valid(document)),
        "completeness": _completeness(document),
        "id_format": _id_format(document),
        "quantities": _quantities(document),
        "relevance": _relevance(document, concept),
    }
    return Score(sum(WEIGHTS[name] * value for name, value in parts.items()), parts)


class _PlainLoader(yaml.SafeLoader):
    """Reads YAML without aliases: a document needs none, and a few of them stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuses an alias, *name, where a node begins."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def parse(text: str) -> dict[Any, Any] | None:
    """The mapping that `text` holds, or None where it holds none."""
    fenced = _FENCE.fullmatch(text)
    body = fenced.group(1) if fenced else text
    if len(body) > _MAX_CHARACTERS:
        return None
    try:
        document = yaml.load(body, _PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date such as 2024-99-99
        return None
    return document if isinstance(document, dict) else None


@cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(_only(schema(), _STRUCTURE))


def _only(part: Any, keywords: tuple[str, ...]) -> Any:
    """The schema with no other keywords than these."""
    kept = {keyword: part[keyword] for keyword in keywords if keyword in part}
    if "properties" in kept:
        kept["properties"] = {name: _only(value, keywords) for name, value in kept["properties"].items()}
    if "items" in kept:
        kept["items"] = _only(kept["items"], keywords)
    return kept


@cache
def _lists() -> dict[str, dict[str, Any]]:
    """The schema's list fields."""
    return {name: field for name, field in schema()["properties"].items() if field["type"] == "array"}


def _items(document: dict[Any, Any], name: str) -> list[Any]:
    value = document.get(name)
    return value if isinstance(value, list) else []


def _completeness(document: dict[Any, Any]) -> float:
    shares = []
    for name, field in schema()["properties"].items():
        value = document.get(name)
        if name in _lists():
            shares.append(_share_complete(_items(document, name), field["items"]))
        elif not isinstance(value, str) or not value.strip():
            shares.append(0.0)
        else:
            fits = field["minLength"] <= len(value.strip()) <= field.get("maxLength", _MAX_CHARACTERS)
            shares.append(1.0 if fits else 0.5)
    return sum(shares) / len(shares)


def _share_complete(items: list[Any], item_schema: dict[str, Any]) -> float:
    """Share of the items that satisfy the schema, whatever their id looks like."""
    if not items:
        return 0.0
    properties = {**item_schema["properties"], "id": {"type": "string"}}
    validator = jsonschema.Draft202012Validator({**item_schema, "properties": properties})
    return sum(validator.is_valid(item) for item in items) / len(items)


def _id_format(document: dict[Any, Any]) -> float:
    count = good = 0
    for name, field in _lists().items():
        items = _items(document, name)
        pattern = re.compile(field["items"]["properties"]["id"]["pattern"])
        ids = {str(item.get("id")) for item in items if isinstance(item, dict)}
        count += len(items)
        good += sum(bool(pattern.match(identifier)) for identifier in ids)
    return good / count if count else 0.0


def _quantities(document: dict[Any, Any]) -> float:
    lists = _lists()
    shares = [min(1.0, len(_items(document, name)) / int(field["minItems"])) for name, field in lists.items()]
    return sum(shares) / len(shares)


def _relevance(document: dict[Any, Any], concept: str) -> float:
    wanted = {word.lower() for word in _WORD.findall(concept)} - _FUNCTION_WORDS
    texts = [document.get("title"), document.get("description")]
    for name in _lists():
        texts += [item.get("description") for item in _items(document, name) if isinstance(item, dict)]
    found = {word.lower() for text in texts if isinstance(text, str) for word in _WORD.findall(text)}
    return len(wanted & found) / len(wanted) if wanted else 0.0
