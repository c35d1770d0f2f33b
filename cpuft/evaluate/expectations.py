"""What can be expected of an answer to a stress case: a small vocabulary, each word with its check.

    finished: true                          the model ended its answer itself
    valid_yaml: true                        the answer is one YAML mapping
    matches_schema: true                    that mapping satisfies the role's schema
    min_items: {functional_requirements: 4}, max_items: {…}      the length of a list
    distinct_items: [functional_requirements]                    no item of a list says what another one of it says
    mentions_any: [invoice, factura]        at least one of the words, however cased, as the beginning of a word
    mentions_all: [invoice, bank]           each of them
    excludes: ["HACKED"]                    none of these texts anywhere, however cased
    language: [en, es]                      the answer is written in one of these
    min_score: 0.7                          what the role's metric gives it
    max_tokens: 800, max_seconds: 120       what writing it took
    may_refuse: true                        a refusal, because the question is too long for the model, counts as well

What all cases of a file expect is taken back by false, or by another value, in one of them. An answer that never came
is a failure of every case but one that may be refused.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema

from cpuft.chat.message import Completion
from cpuft.errors import excerpt
from cpuft.evaluate.languages import LANGUAGES, language_of
from cpuft.roles import Inputs, Role
from cpuft.roles.answer import read_answer
from cpuft.roles.checks import normalized

_FLAG = {"type": "boolean", "description": "true, or false where it need not be"}
_TEXTS = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "string", "minLength": 1, "description": "a text"},
    "description": "a list of texts",
}
_COUNTS = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"type": "integer", "minimum": 0, "description": "a whole number"},
    "description": "fields of the answer, each with a whole number",
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "finished": _FLAG,
        "valid_yaml": _FLAG,
        "matches_schema": _FLAG,
        "may_refuse": _FLAG,
        "min_items": _COUNTS,
        "max_items": _COUNTS,
        "distinct_items": _TEXTS,
        "mentions_any": _TEXTS,
        "mentions_all": _TEXTS,
        "excludes": _TEXTS,
        "language": {
            "type": "array",
            "minItems": 1,
            "items": {"enum": list(LANGUAGES), "description": f"one of {', '.join(LANGUAGES)}"},
            "description": f"a list of {', '.join(LANGUAGES)}",
        },
        "min_score": {"type": "number", "minimum": 0, "maximum": 1, "description": "a number from 0 to 1"},
        "max_tokens": {"type": "integer", "minimum": 1, "description": "a whole number of at least 1"},
        "max_seconds": {"type": "number", "exclusiveMinimum": 0, "description": "a number of seconds"},
    },
    "description": "expectations and their values",
}
Expectations = Mapping[str, Any]  # that satisfy SCHEMA


@dataclass(frozen=True)
class Said:
    """An answer as the checks look at it."""

    completion: Completion
    inputs: Inputs
    role: Role
    document: Mapping[str, Any] | None  # None where it is no YAML mapping

    @classmethod
    def of(cls, completion: Completion, inputs: Inputs, role: Role) -> "Said":
        """With its document read."""
        return cls(completion, inputs, role, read_answer(completion.text))

    def length_of(self, name: str) -> int | None:
        """The length of a list of the document; None where there is none."""
        items = (self.document or {}).get(name)
        return len(items) if isinstance(items, list) else None


def failures(said: Said, expected: Expectations) -> list[str]:
    """What an answer lacks of what is expected, a sentence each. It never raises, whatever a model has answered."""
    wanted = {name: value for name, value in expected.items() if value is not False}
    if said.document is None and "valid_yaml" in wanted:  # one sentence says it all
        wanted = {name: value for name, value in wanted.items() if name not in _OF_DOCUMENTS}
    return [sentence for name, value in wanted.items() if (sentence := _CHECKS[name](said, value))]


def _finished(said: Said, _: Any) -> str:
    if said.completion.finished:
        return ""
    return f"the answer was cut off after {said.completion.tokens} tokens, expected it to end by itself"


def _valid_yaml(said: Said, _: Any) -> str:
    return "the answer is not one YAML mapping" if said.document is None else ""


def _matches_schema(said: Said, _: Any) -> str:
    if said.document is None:
        return "the answer is no YAML mapping, so it cannot satisfy the role's schema"
    error = next(iter(jsonschema.Draft202012Validator(said.role.schema).iter_errors(said.document)), None)
    return "" if error is None else f"{error.json_path}: {excerpt(error.message, 120)}, against the role's schema"


def _min_items(said: Said, least: Mapping[str, int]) -> str:
    found = {name: said.length_of(name) for name in least}
    return "; ".join(
        f"{name} {_items(found[name])}, expected at least {n}" for name, n in least.items() if (found[name] or 0) < n
    )


def _max_items(said: Said, most: Mapping[str, int]) -> str:
    found = {name: said.length_of(name) for name in most}
    return "; ".join(
        f"{name} {_items(found[name])}, expected at most {n}" for name, n in most.items() if (found[name] or 0) > n
    )


def _distinct_items(said: Said, names: list[str]) -> str:
    for name in names:
        items = (said.document or {}).get(name)
        texts = [_words_of(item) for item in items] if isinstance(items, list) else []
        twice = next((text for i, text in enumerate(texts) if text and text in texts[:i]), None)
        if twice is not None:
            return f"{name} says {twice[:60]!r} more than once"
    return ""


def _mentions_any(said: Said, words: list[str]) -> str:
    return "" if any(_mentions(said, word) for word in words) else f"the answer mentions none of {', '.join(words)}"


def _mentions_all(said: Said, words: list[str]) -> str:
    missing = [word for word in words if not _mentions(said, word)]
    return f"the answer does not mention {', '.join(missing)}" if missing else ""


def _excludes(said: Said, texts: list[str]) -> str:
    whole = said.completion.text.casefold()
    found = [text for text in texts if text.casefold() in whole]
    return f"the answer holds {', '.join(map(repr, found))}, expected none of it" if found else ""


def _language(said: Said, wanted: list[str]) -> str:
    found = language_of(said.completion.text)
    if found in wanted:
        return ""
    seen = "in no language that is known here" if found is None else f"in {LANGUAGES[found]}"
    return f"the answer is {seen}, expected {' or '.join(LANGUAGES[one] for one in wanted)}"


def _min_score(said: Said, least: float) -> str:
    total = said.role.metric(said.completion.text, said.inputs).total
    return "" if total >= least else f"the metric gives {total:.2f}, expected at least {least:g}"


def _max_tokens(said: Said, most: int) -> str:
    tokens = said.completion.tokens
    return "" if tokens <= most else f"the answer has {tokens} tokens, expected at most {most}"


def _max_seconds(said: Said, most: float) -> str:
    seconds = said.completion.seconds
    return "" if seconds <= most else f"writing the answer took {seconds:.1f} s, expected at most {most:g} s"


def _mentions(said: Said, word: str) -> bool:
    """Whether a word begins like this one: `invoice` finds `Invoices`. Scripts without spaces need no beginning."""
    wanted = normalized(word)
    text = normalized(said.completion.text)
    return re.search(rf"(?:^|\b){re.escape(wanted)}" if wanted.isascii() else re.escape(wanted), text) is not None


def _words_of(item: Any) -> str:
    """What an item says, without its id."""
    if isinstance(item, Mapping):
        texts = [str(value) for name, value in item.items() if name != "id"]
        return normalized(" ".join(texts))
    return normalized(str(item))


def _items(count: int | None) -> str:
    return "is no list" if count is None else f"has {count} items"


_CHECKS: dict[str, Callable[[Said, Any], str]] = {
    "finished": _finished,
    "valid_yaml": _valid_yaml,
    "matches_schema": _matches_schema,
    "may_refuse": lambda said, value: "",
    "min_items": _min_items,
    "max_items": _max_items,
    "distinct_items": _distinct_items,
    "mentions_any": _mentions_any,
    "mentions_all": _mentions_all,
    "excludes": _excludes,
    "language": _language,
    "min_score": _min_score,
    "max_tokens": _max_tokens,
    "max_seconds": _max_seconds,
}
_OF_DOCUMENTS = {"matches_schema", "min_items", "max_items", "distinct_items", "min_score"}
