"""Answers of roles: YAML documents that a model wrote, so nobody has vouched for them, and back."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import yaml

# A document that a person will read is far shorter than this.
MAX_CHARACTERS = 100_000
_FENCE = re.compile(r"\s*```[\w-]*\n(.*?)(?:\n```\s*)?", re.DOTALL)
_KEY = re.compile(r"^([A-Za-z_]\w*):", re.MULTILINE)


class _PlainLoader(yaml.SafeLoader):
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
        yaml.safe_dump({name: value}, sort_keys=False, allow_unicode=True, width=10**6)
        for name, value in document.items()
    )
    return "\n".join(sections)


def _load(body: str) -> Any:
    try:
        return yaml.load(body, _PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date such as 2024-99-99
        return None
