"""A model in an evaluation: what answers, with which adapter, and how it is asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from cpuft import toolchain
from cpuft.backends.asked import DIGITS, Asked
from cpuft.backends.generator import PARALLEL, Generator
from cpuft.backends.llama_server import CONTEXT
from cpuft.backends.remembered import Remembered
from cpuft.evaluate.benchmark import Case
from cpuft.machine.cache import cache_dir
from cpuft.machine.files import file_digest
from cpuft.roles import Role
from cpuft.synth.program import Program


def answers_file() -> Path:
    """Where evaluations keep the answers of all models, so that none is asked the same twice."""
    return cache_dir() / "answers.sqlite"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model in an evaluation.

    name:    in tables and results; two of an evaluation have two names.
    asked:   what answers. adapter: on top of it, a GGUF file.
    program: how it is asked; None asks in the words of the test set, or in the role's for a model that was tuned.
    """

    name: str
    asked: Asked
    adapter: Path | None = None
    program: Program | None = None

    @cached_property
    def adapter_digest(self) -> str | None:
        """Twelve hexadecimal digits that tell its adapter from others; None where it has none."""
        return None if self.adapter is None else file_digest(self.adapter)[:DIGITS]

    def key(self, n_parallel: int) -> str:
        """What its answers are remembered under: llama.cpp's depend on its version and on the number of slots, too."""
        server = toolchain.locate().root.name if self.asked.path is not None else "another server"
        return f"{self.asked.label} {self.adapter_digest} {server} {n_parallel} slots"

    def case(self, case: Case, role: Role, *, as_json: bool) -> Case:
        """A question in the words in which this model is asked. as_json: it will be held to JSON."""
        if self.program is None:
            return case
        return replace(case, messages=tuple(self.program.messages(role, case.inputs, as_json=as_json)))

    @contextmanager
    def open(
        self, n_parallel: int = PARALLEL, *, threads: int = 0, n_ctx: int = CONTEXT, answers: Path | None = None
    ) -> Iterator[Generator]:
        """What answers until the block ends, and remembers its answers. Raises as `Asked.open` does.

        answers: the file that remembers them; None takes that of all evaluations.
        """
        with (
            self.asked.open(n_parallel, adapter=self.adapter, threads=threads, n_ctx=n_ctx) as server,
            Remembered(server, answers or answers_file(), self.key(n_parallel)) as remembered,
        ):
            yield remembered
