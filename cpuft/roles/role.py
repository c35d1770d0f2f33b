"""The contract of a role: what it is asked, what it must answer, and what an answer is worth."""

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cpuft.chat.message import Message

Inputs = Mapping[str, str]  # what a role is asked, by the names of its input fields
USER = "user"  # where an input comes from that no other role answers


@dataclass(frozen=True)
class Part:
    """One thing that a metric looks at.

    value:  from 0 (worst) to 1 (best).
    weight: how much it counts beside the others.
    fault:  what is wrong, in a sentence; empty where nothing is.
    """

    value: float
    weight: float = 1.0
    fault: str = ""


@dataclass(frozen=True)
class Score:
    """What a role's metric says about one answer.

    total: from 0 (worst) to 1 (best).
    parts: what it is made of, by name.
    """

    total: float
    parts: Mapping[str, Part] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Mapping[str, Part]) -> "Score":
        """The score whose total is the weighted mean of its parts."""
        weight = sum(part.weight for part in parts.values())
        return cls(sum(part.weight * part.value for part in parts.values()) / weight, parts)

    @property
    def faults(self) -> list[str]:
        """All that is wrong, a sentence each."""
        return [part.fault for part in self.parts.values() if part.fault]


# (answer, inputs) -> what the answer is worth. It never raises, whatever a model has answered.
Metric = Callable[[str, Inputs], Score]


@dataclass(frozen=True)
class Example:
    """Something that a role was asked and a good answer, as the mapping that its YAML holds."""

    inputs: Inputs
    answer: Mapping[str, Any]


@dataclass(frozen=True)
class Role:
    """Someone in the team who turns texts into a document of YAML.

    name:        the role's folder and its name on the command line: "ba".
    title:       the same in words.
    prompt:      what a model is told that has not been tuned for the role; `short_prompt`: one that has.
    question:    the user's turn, with the inputs in braces: "Concept: {concept}".
    sources:     where each input comes from when roles work in a chain: "user", the name of an earlier role (its whole
                 answer) or ROLE.FIELD; of a list the role is asked about each item.
    answer_keys: the keys under which a user's own data may have the answer, a mapping or its YAML.
    schema:      JSON Schema of the answer.
    metric:      what an answer is worth.
    seeds:       good examples, to begin a data set with.
    lexicon:     words that concepts are made of: kind -> words.
    """

    name: str
    title: str
    prompt: str
    short_prompt: str
    question: str
    sources: Mapping[str, str]
    answer_keys: tuple[str, ...]
    schema: Mapping[str, Any]
    metric: Metric
    seeds: tuple[Example, ...] = ()
    lexicon: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the answer's fields."""
        return tuple(self.schema["properties"])

    @property
    def digest(self) -> str:
        """What tells the role from any other, and from itself before it was edited: its words and its metric's file."""
        words = (
            self.prompt,
            self.short_prompt,
            self.question,
            self.sources,
            self.answer_keys,
            self.schema,
            self.lexicon,
        )
        metric = inspect.unwrap(self.metric)
        program = inspect.getsourcefile(metric)
        code = "" if program is None else Path(program).read_text(encoding="utf-8")
        said = json.dumps([*words, getattr(metric, "__qualname__", ""), code], sort_keys=True, default=dict)
        return hashlib.sha256(said.encode()).hexdigest()

    def messages(self, inputs: Inputs, *, short: bool = True) -> tuple[Message, ...]:
        """The conversation that asks a model. short: with the prompt of a tuned one."""
        prompt = self.short_prompt if short else self.prompt
        return ({"role": "system", "content": prompt}, {"role": "user", "content": self.question.format(**inputs)})

    def inputs_of(self, user: str) -> dict[str, str]:
        """What is asked, without the role's words around it: the reverse of `messages`.

        A text that was written otherwise is all of it the first input.
        """
        found = self._question_pattern.fullmatch(user.strip())
        if found is None:
            return dict.fromkeys(self.sources, "") | {next(iter(self.sources)): user.strip()}
        return {name: text.strip() for name, text in found.groupdict().items()}

    @cached_property
    def _question_pattern(self) -> re.Pattern[str]:
        return re.compile("".join(_pattern_parts(self.question.strip())), re.DOTALL)


def _pattern_parts(question: str) -> Iterator[str]:
    """A question's words, between them a group for each input; white space around these is free."""
    for i, part in enumerate(re.split(r"\{(\w+)\}", question)):
        yield rf"(?P<{part}>.*?)" if i % 2 else r"\s*".join(("", *map(re.escape, [part.strip()]), "")) if part else ""
