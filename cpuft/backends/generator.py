"""The one thing that evaluation and synthesis ask of a model: an answer to a conversation."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol

from cpuft.chat.message import Completion, Message
from cpuft.errors import CpuftError

PARALLEL = 4  # requests in flight, where nobody says otherwise


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The defaults are greedy: the same model gives the same answer.

    schema:  JSON Schema that the answer must satisfy, where the backend can hold a model to one; then it is JSON.
    grammar: in llama.cpp's form (GBNF), of what the answer may be; in place of a schema, and only for a generator that
             takes one. `cpuft.roles.yaml_grammar.held_to` chooses between the two.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    seed: int = 0
    max_tokens: int = 1024
    schema: Mapping[str, Any] | None = None
    grammar: str | None = None


GREEDY = Sampling()


class Generator(Protocol):
    """Answers conversations. Implementations are safe to call from several threads.

    One that holds a model to `Sampling.grammar` says so by an attribute of its own: takes_grammar = True.
    """

    def generate(self, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Completion:
        """One answer to the conversation.

        Raises UserError where it cannot be asked so (too long, refused), CpuftError where the backend fails.
        """
        ...


def takes_grammar(generator: Generator) -> bool:
    """Whether it holds a model to `Sampling.grammar`."""
    return bool(getattr(generator, "takes_grammar", False))


@dataclass(frozen=True)
class Request:
    """A conversation to be answered, and how."""

    messages: Sequence[Message]
    sampling: Sampling = GREEDY


def generate_all(
    generator: Generator, requests: Iterator[Request] | Sequence[Request], n_parallel: int
) -> Iterator[tuple[int, Completion | CpuftError]]:
    """The answers to many requests as they come, each with its number; one that fails does not stop the others.

    n_parallel: how many are in flight. Requests are taken one by one as room becomes free, so they may be endless.
    """
    with ThreadPoolExecutor(n_parallel, thread_name_prefix="request") as pool:
        running: dict[Future[Completion], int] = {}
        try:
            for number, request in enumerate(requests):
                running[pool.submit(generator.generate, request.messages, request.sampling)] = number
                if len(running) >= n_parallel:
                    yield from _finished(running)
            while running:
                yield from _finished(running)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _finished(running: dict[Future[Completion], int]) -> Iterator[tuple[int, Completion | CpuftError]]:
    """Waits for the next answers and takes them out of `running`, in the order of their numbers."""
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in sorted(done, key=running.__getitem__):
        number = running.pop(future)
        try:
            yield number, future.result()
        except CpuftError as error:
            yield number, error
