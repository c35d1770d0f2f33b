"""Answers of roles: YAML documents that a model wrote, so nobody has vouched for them, and back."""

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import yaml

# A document that a person will read is far shorter than this.
MAX_CHARACTERS = 100_000
# Nor is it nested so deep: time grows with the square of the depth, and whoever walks over the document must not fall.
MAX_DEPTH = 40
_FENCE = re.compile(r"\s*```[\w-]*\n(.*?)(?:\n```\s*)?", re.DOTALL)
_KEY = re.compile(r"^([A-Za-z_]\w*):", re.MULTILINE)


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as it stands, behind a bar: code in quotes is hard to learn to write."""

    def ignore_aliases(self, data: Any) -> bool:
        """Whatever stands in two places is written twice: aliases are not read either."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML indents a block wrongly that begins with white space.
    block = "\n" in text and not text[0].isspace()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if block else None)


_Dumper.add_representer(str, _represent_text)


class ShallowLoader(yaml.SafeLoader):
    """Reads YAML that is nested no deeper than MAX_DEPTH."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # noqa: N803 - PyYAML's name
        """Refuses a bracket too many."""
        self._check_depth()
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        """Refuses an indentation too many."""
        self._check_depth()
        return super().add_indent(column)

    def _check_depth(self) -> None:
        if self.flow_level + len(self.indents) > MAX_DEPTH:
            raise yaml.YAMLError("nested too deep")


class _PlainLoader(ShallowLoader):
    """Reads YAML without aliases: a document needs none, and a few of them stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuses an alias, *name, where a node begins."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def body_of(text: str) -> str:
    """The document of an answer, which may stand in a code fence; empty where it is beyond all measure."""
    fenced = _FENCE.fullmatch(text)
    body = fenced.group(1) if fenced else text
    return body if len(body) <= MAX_CHARACTERS else ""


def read_answer(text: str) -> dict[str, Any] | None:
    """The mapping that an answer holds; None where it is no YAML, or YAML of something else."""
    document = _load(body_of(text))
    return document if isinstance(document, dict) else None


def read_fields(text: str) -> dict[str, Any]:
    """The fields of an answer that can be read, be it as a whole no YAML: each from its key to the next."""
    document = read_answer(text)
    if document is not None:
        return document
    body = body_of(text)
    borders = [*(found.start() for found in _KEY.finditer(body)), len(body)]
    fields: dict[str, Any] = {}
    for start, end in pairwise(borders):
        section = _load(body[start:end])
        if isinstance(section, dict):
            fields |= section
    return fields


def write_answer(document: Mapping[str, Any]) -> str:
    """A document as YAML, its fields in their order with an empty line between."""
    sections = (
        yaml.dump({name: value}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)
        for name, value in document.items()
    )
    return "\n".join(sections)


def as_yaml(text: str) -> str:
    """An answer as YAML, be it JSON because its model was held to a schema; as it is, where it holds no mapping."""
    document = read_answer(_one_line(text))
    return text if document is None else write_answer(document)


def _one_line(text: str) -> str:
    """JSON as YAML that every reader takes: tabs between values and halves of a character behind \\u are JSON alone."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False) if len(text) <= MAX_CHARACTERS else text
    except (ValueError, RecursionError):
        return text


def _load(body: str) -> Any:
    try:
        return yaml.load(body, _PlainLoader)
    except Exception:  # PyYAML fails in any way: with a KeyError on !!bool x, a ValueError on the date 2024-99-99
        return None
