"""A Generator whose answers a test writes."""

import threading
from collections.abc import Callable, Sequence

from cpuft.backends.generator import GREEDY, Sampling
from cpuft.chat.message import Completion, Message


class Scripted:
    """Answers by a function, and keeps what it heard."""

    def __init__(self, answer: Callable[[Sequence[Message], Sampling], str]) -> None:
        self._answer, self._lock = answer, threading.Lock()
        self.takes_grammar = False
        self.heard: list[tuple[list[Message], Sampling]] = []

    def generate(self, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Completion:
        """See `Generator`."""
        with self._lock:
            self.heard.append((list(messages), sampling))
        text = self._answer(messages, sampling)
        return Completion(text, tokens=len(text) // 4 + 1, seconds=0.01, prompt_tokens=10, finished=True)
