"""Answers from a running Ollama."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from cpuft.backends.generator import GREEDY, Sampling
from cpuft.chat.message import Completion, Message
from cpuft.ollama.server import connection


class OllamaBackend:
    """A Generator for a model that Ollama has. Use it as a context manager.

    model:   its name in Ollama. host: where Ollama listens; None takes OLLAMA_HOST or its usual place.
    n_ctx:   tokens of context; None takes Ollama's choice.
    timeout: seconds that an answer may take.
    """

    def __init__(
        self, model: str, *, host: str | None = None, n_ctx: int | None = None, timeout: float = 3600.0
    ) -> None:
        self.model, self._host, self._n_ctx, self._timeout = model, host, n_ctx, timeout

    def generate(self, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Completion:
        """See `Generator`. Raises OllamaError where Ollama is not there or refuses."""
        options: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": sampling.seed,
            "num_predict": sampling.max_tokens,
        }
        if self._n_ctx is not None:
            options["num_ctx"] = self._n_ctx
        schema: Mapping[str, Any] | None = sampling.schema
        with connection(self._host, about=self.model, timeout=self._timeout, option="--url") as server:
            answer = server.chat(
                self.model, list(messages), options=options, format=None if schema is None else dict(schema)
            )
        return Completion(
            text=answer.message.content or "",
            tokens=answer.eval_count or 0,
            seconds=(answer.eval_duration or 0) / 1e9,
            prompt_tokens=answer.prompt_eval_count or 0,
            finished=answer.done_reason == "stop",
            prompt_seconds=None if answer.prompt_eval_duration is None else answer.prompt_eval_duration / 1e9,
            prompt_read=answer.prompt_eval_count,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing stays open between answers."""
