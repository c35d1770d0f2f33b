"""What a conversation is made of, for data sets, backends and Ollama alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cpuft.machine.terminal import printable

# One turn: role and content; an assistant's may have tool_calls, a tool's has tool_call_id. A chat template may ask for
# further keys of its own, so none is refused.
Message = Mapping[str, Any]
ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Completion:
    """A model's answer to a conversation, and what it took to generate it."""

    text: str
    tokens: int  # generated, without the prompt
    seconds: float  # spent on generating them, without reading the prompt
    prompt_tokens: int
    finished: bool  # the model ended its answer itself, before max_tokens
    # Until the first token could be chosen, which is what reading the prompt took; None where the server does not tell.
    prompt_seconds: float | None = None
    # Tokens of the prompt that were read in this time, without those that the server still knew from an earlier one.
    prompt_read: int | None = None

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens a second; 0 where nothing was generated."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def printable(self) -> str:
        """The text without characters that could steer a terminal."""
        return printable(self.text)
