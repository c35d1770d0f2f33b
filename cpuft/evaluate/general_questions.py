"""Questions with short answers that can be checked: what a model knows and can do beside what it was tuned for."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpuft.backends.generator import Generator, Request, Sampling, generate_all
from cpuft.config.document import read_document
from cpuft.errors import ConfigError, CpuftError, list_all_faults
from cpuft.evaluate.comparison import Difference, difference, mcnemar
from cpuft.evaluate.proportion import Proportion, proportion
from cpuft.machine.progress import Progress, silent

QUESTIONS = Path(__file__).parent / "general_questions.yaml"
# Of an answer: all that are right are shorter, and a document about something else is cut off.
SAMPLING = Sampling(max_tokens=64)

_TEXT = {"type": "string", "minLength": 1, "description": "a text"}
_PATTERNS = {"type": "array", "minItems": 1, "items": _TEXT, "description": "a list of regular expressions"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["questions"],
    "properties": {
        "questions": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["id", "kind", "question", "accept"],
                "properties": {
                    "id": _TEXT,
                    "kind": _TEXT,
                    "question": _TEXT,
                    "accept": _PATTERNS,
                    "reject": _PATTERNS,
                },
                "description": "keys and values",
            },
            "description": "a list of questions",
        },
    },
    "description": "the key questions",
}


@dataclass(frozen=True)
class Question:
    """A question with a short answer that can be checked: some pattern is found in it, and none that is rejected."""

    id: str
    kind: str
    question: str
    accept: tuple[re.Pattern[str], ...]
    reject: tuple[re.Pattern[str], ...] = ()

    def is_right(self, answer: str) -> bool:
        """Whether an answer is."""
        text = answer.strip()
        return any(p.search(text) for p in self.accept) and not any(p.search(text) for p in self.reject)


@dataclass(frozen=True)
class Reply:
    """What a model said to a question."""

    question: Question
    text: str
    tokens: int

    @property
    def right(self) -> bool:
        """Whether it is."""
        return self.question.is_right(self.text)

    def facts(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "inputs": {"id": self.question.id, "kind": self.question.kind, "question": self.question.question},
            "score": float(self.right),
            "tokens": self.tokens,
            "answer": self.text,
        }


@dataclass(frozen=True)
class QuestionChange:
    """The replies of base and tuned model to the same questions in the same order."""

    base: tuple[Reply, ...]
    tuned: tuple[Reply, ...]

    @property
    def change(self) -> Difference:
        """Of the share that is answered right, paired."""
        before, after = ([float(reply.right) for reply in replies] for replies in (self.base, self.tuned))
        return difference(before, after)

    @property
    def kinds(self) -> dict[str, tuple[Proportion, Proportion]]:
        """The shares of base and tuned model by kind of question."""
        kinds = dict.fromkeys(reply.question.kind for reply in self.base)
        return {
            kind: (
                share_right([reply for reply in self.base if reply.question.kind == kind]),
                share_right([reply for reply in self.tuned if reply.question.kind == kind]),
            )
            for kind in kinds
        }

    def facts(self) -> dict[str, Any]:
        """Ready for JSON. lost, gained: ids of the questions that one of the two alone answers right."""
        pairs = list(zip(self.base, self.tuned, strict=True))
        return {
            "n_questions": len(pairs),
            "base": share_right(self.base).facts(),
            "tuned": share_right(self.tuned).facts(),
            "difference": self.change.facts(),
            "mcnemar_p": round(mcnemar(self.change.wins, self.change.losses), 5),
            "kinds": {k: {"base": b.value, "tuned": t.value, "n": b.n} for k, (b, t) in self.kinds.items()},
            "lost": [one.question.id for one, two in pairs if one.right and not two.right],
            "gained": [one.question.id for one, two in pairs if two.right and not one.right],
        }


def read_questions(path: Path = QUESTIONS) -> list[Question]:
    """The questions of a YAML file. Raises ConfigError, which lists all faults at once."""
    entries = read_document(path, SCHEMA)["questions"]
    faults = list(_faults(entries))
    if faults:
        raise ConfigError(f"{path}: {list_all_faults(faults)}")
    return [
        Question(
            entry["id"],
            entry["kind"],
            entry["question"],
            *(tuple(map(_pattern, entry.get(key, ()))) for key in ("accept", "reject")),
        )
        for entry in entries
    ]


def ask_questions(
    generator: Generator, questions: Sequence[Question], *, n_parallel: int = 1, progress: Progress = silent
) -> tuple[Reply, ...]:
    """What a model says to the questions at temperature 0, without a system prompt."""
    replies: dict[int, Reply] = {}
    requests = [Request([{"role": "user", "content": one.question}], SAMPLING) for one in questions]
    for number, completion in generate_all(generator, requests, n_parallel):
        if isinstance(completion, CpuftError):
            raise completion
        replies[number] = Reply(questions[number], completion.text, completion.tokens)
        right = sum(reply.right for reply in replies.values())
        progress("general questions", len(replies), len(questions), "answer", right=f"{right}")
    return tuple(replies[number] for number in range(len(questions)))


def share_right(replies: Sequence[Reply]) -> Proportion:
    """The share of replies that are right."""
    return proportion(sum(reply.right for reply in replies), len(replies))


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE | re.MULTILINE)


def _faults(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Ids that stand twice, and what is no regular expression."""
    seen: set[str] = set()
    for i, entry in enumerate(entries):
        if entry["id"] in seen:
            yield f"questions[{i}].id: {entry['id']!r} stands twice"
        seen.add(entry["id"])
        for key in ("accept", "reject"):
            for text in entry.get(key, ()):
                try:
                    _pattern(text)
                except re.error as error:
                    yield f"questions[{i}].{key}: {text!r} is no regular expression ({error})"
