"""The contract of a role: what it is asked, what it must answer, and what an answer is worth."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cpuft.chat.message import Message


@dataclass(frozen=True)
class Score:
    """What a role's metric says about one answer.

    total: from 0 (worst) to 1 (best).
    parts: what it is made of, by name, each from 0 to 1.
    """

    total: float
    parts: Mapping[str, float]


# (answer, question) -> what the answer is worth. The question is what the user said, without the role's words around
# it. It never raises, whatever a model has answered.
Metric = Callable[[str, str], Score]


@dataclass(frozen=True)
class Role:
    """Someone in the team who turns one kind of text into another.

    name:          the role's folder and its name on the command line: "ba".
    title:         the same in words.
    system_prompt: what a model is told before it is asked.
    question:      the user's turn; `{input}` stands for what is asked.
    schema:        JSON Schema of the answer, read as YAML.
    metric:        what an answer is worth.
    """

    name: str
    title: str
    system_prompt: str
    question: str
    schema: Mapping[str, Any]
    metric: Metric

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the answer's fields."""
        return tuple(self.schema["properties"])

    def messages(self, asked: str) -> tuple[Message, ...]:
        """The conversation that asks a model."""
        user = self.question.format(input=asked)
        return ({"role": "system", "content": self.system_prompt}, {"role": "user", "content": user})

    def asked(self, user: str) -> str:
        """What the user asks, without the role's words around it: the reverse of `messages`."""
        before, _, behind = self.question.partition("{input}")
        text = user.strip()
        if text.startswith(before.strip()) and text.endswith(behind.strip()):
            text = text.removeprefix(before.strip()).removesuffix(behind.strip())
        return text.strip()
