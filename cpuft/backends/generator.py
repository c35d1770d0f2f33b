"""The one thing that evaluation asks of a model: an answer to a conversation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict

from cpuft.terminal import printable


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The defaults are greedy: the same model gives the same answer."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    seed: int = 0
    max_tokens: int = 1024


GREEDY = Sampling()


@dataclass(frozen=True)
class Completion:
    """An answer and what it took to generate it."""

    text: str
    tokens: int  # generated, without the prompt
    seconds: float  # spent on generating them, without reading the prompt
    prompt_tokens: int
    finished: bool  # the model ended its answer itself, before max_tokens

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens a second; 0 where nothing was generated."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def printable(self) -> str:
        """The text without characters that could steer a terminal."""
        return printable(self.text)


class Generator(Protocol):
    """Answers conversations. Implementations are safe to call from several threads."""

    def generate(self, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Completion:
        """One answer to the conversation."""
        ...
