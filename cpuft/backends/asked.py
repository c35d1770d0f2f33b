"""A model that will be asked, wherever it runs: what tells it from others, and how it is opened."""

import hashlib
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cpuft.backends.generator import Generator
from cpuft.backends.llama_server import CONTEXT, LlamaServer
from cpuft.backends.openai_server import OpenAIServer
from cpuft.errors import ConfigError
from cpuft.machine.files import file_digest

if TYPE_CHECKING:
    from cpuft.backends.ollama import OllamaBackend

DIGITS = 12  # of a digest, as Ollama shows them
TIMEOUT = 3600.0  # seconds; a server on a CPU may have several long answers before ours


@dataclass(frozen=True, kw_only=True)
class Asked(ABC):
    """A model, not opened yet.

    name: of its file, or what its server calls it. path: the GGUF file, where cpuft itself runs one.
    """

    name: str
    path: Path | None = None

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that tell it from any other model.

        The first use reads the whole file, or asks Ollama. Raises OllamaError where that is not there or lacks it.
        """
        return self._digest()[:DIGITS]

    @property
    def label(self) -> str:
        """As data sets name who answered: two models of one name have two labels."""
        return f"{self.name} ({self.digest})"

    @abstractmethod
    def open(
        self, n_parallel: int = 1, *, adapter: Path | None = None, threads: int = 0, n_ctx: int = CONTEXT
    ) -> AbstractContextManager[Generator]:
        """A Generator that answers until the block ends.

        n_parallel: requests in flight. n_ctx: tokens of context for each, but where a server has its own.
        Raises ModelError for a file that cannot be run; else OllamaError, ServerError or UserError where the server is
        not there, lacks the model or refuses the key, and ConfigError for `adapter` or `threads`.
        """

    def require_own(self, **options: object) -> None:
        """Raises ConfigError where an option is given that only a model takes which cpuft itself runs."""
        if given := [name for name, value in options.items() if value]:
            raise ConfigError(
                f"--{given[0]} is for a model that cpuft itself runs, and another server answers here: leave it out, "
                "or give --model a file and neither --url nor --backend"
            )

    @abstractmethod
    def _digest(self) -> str:
        """At least as many digits."""


@dataclass(frozen=True, kw_only=True)
class GgufFile(Asked):
    """A file that our own llama-server runs."""

    path: Path

    def open(
        self, n_parallel: int = 1, *, adapter: Path | None = None, threads: int = 0, n_ctx: int = CONTEXT
    ) -> LlamaServer:
        """See `Asked`."""
        return LlamaServer(self.path, adapter=adapter, n_parallel=n_parallel, n_ctx=n_ctx, threads=threads)

    def require_own(self, **options: object) -> None:
        """It is."""

    def _digest(self) -> str:
        return file_digest(self.path)


@dataclass(frozen=True, kw_only=True)
class InOllama(Asked):
    """A model that a running Ollama has. host: where it listens; None takes OLLAMA_HOST or its usual place."""

    host: str | None = None

    def open(
        self, n_parallel: int = 1, *, adapter: Path | None = None, threads: int = 0, n_ctx: int = CONTEXT
    ) -> "OllamaBackend":
        """See `Asked`. How many requests Ollama answers at a time is its own choice."""
        from cpuft.backends.ollama import OllamaBackend  # not at the top: Ollama's package takes half a second to load

        self.require_own(adapter=adapter, threads=threads)
        self._digest()  # so that a name which Ollama does not know fails once, not for every question
        return OllamaBackend(self.name, host=self.host, n_ctx=n_ctx, timeout=TIMEOUT)

    def _digest(self) -> str:
        from cpuft.ollama.names import parse_name
        from cpuft.ollama.server import connection

        with connection(self.host, about=self.name, option="--url") as server:
            return server.digest(parse_name(self.name))


@dataclass(frozen=True, kw_only=True)
class AtUrl(Asked):
    """A model behind a URL that speaks OpenAI's chat completions, such as http://127.0.0.1:8080/v1."""

    url: str
    api_key: str = field(default="", repr=False)

    @property
    def label(self) -> str:
        """Says where, because there is no digest of what a server runs."""
        return f"{self.name} ({self.url})"

    def open(
        self, n_parallel: int = 1, *, adapter: Path | None = None, threads: int = 0, n_ctx: int = CONTEXT
    ) -> OpenAIServer:
        """See `Asked`. Slots and context are the server's own choice."""
        self.require_own(adapter=adapter, threads=threads)
        server = OpenAIServer(self.url, self.name, api_key=self.api_key, timeout=TIMEOUT)
        try:
            server.require_answer()
        except BaseException:
            server.close()
            raise
        return server

    def _digest(self) -> str:
        return hashlib.sha256(f"{self.url} {self.name}".encode()).hexdigest()
