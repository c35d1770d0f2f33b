"""How long work tells how far it is: whoever starts it hands in what shows it, and nothing else draws anything."""

from contextlib import suppress
from typing import Protocol


class Progress(Protocol):
    """Hears how far something is. Long work calls it; a command shows a bar, a test writes it down."""

    def __call__(self, what: str, done: float, total: float, unit: str = "B", /, **facts: str) -> object:
        """`done` of `total` units (0: nobody knows) of `what` are done so far, from the beginning on.

        unit:  "B" for bytes; else a noun, such as "step".
        facts: figures to stand beside it, such as loss="0.512".
        """


def silent(what: str, done: float, total: float, unit: str = "B", /, **facts: str) -> None:
    """The progress of work that nobody watches."""


def titled(progress: Progress, title: str) -> Progress:
    """The same progress under a title that says more than the part which tells it could know."""

    def told(_: str, done: float, total: float, unit: str = "B", /, **facts: str) -> None:
        progress(title, done, total, unit, **facts)

    return told


def unfailing(progress: Progress) -> Progress:
    """The same progress for work that must not end where nobody can be told of it, as on a closed terminal."""

    def told(what: str, done: float, total: float, unit: str = "B", /, **facts: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: a stream that was closed, a character that it has not
            progress(what, done, total, unit, **facts)

    return told
