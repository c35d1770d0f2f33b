"""The one thing that evaluation asks of a model: an answer to a conversation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cpuft.chat.message import Completion, Message


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The defaults are greedy: the same model gives the same answer."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    seed: int = 0
    max_tokens: int = 1024


GREEDY = Sampling()


class Generator(Protocol):
    """Answers conversations. Implementations are safe to call from several threads."""

    def generate(self, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Completion:
        """One answer to the conversation."""
        ...
