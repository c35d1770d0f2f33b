"""The `--model` option: every command takes a model from wherever it is."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
from tqdm import tqdm

from cpuft.models.ollama_store import NotPulledError
from cpuft.models.pull import pull
from cpuft.models.source import FORMS, Source, resolve


class ModelReference(click.ParamType[Path]):
    """A model reference, turned into the path of its GGUF file when the command line is read."""

    name = "MODEL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Returns the path of the GGUF file; what the user should know of it goes to stderr."""
        source = _find(str(value))
        for note in source.notes:
            click.echo(f"Note: {note}", err=True)
        return source.path


def _find(reference: str) -> Source:
    """The source of a reference. At a terminal Ollama may be told to pull what it lacks; scripts get the error."""
    with Bars() as bars:
        try:
            return resolve(reference, bars.show)
        except NotPulledError as error:
            if not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise
            click.echo(str(error), err=True)
            if not click.confirm("Pull it now?", err=True):
                raise
            return pull(reference, bars.show)


def model_option(
    what: str = "The base model", *, required: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option --model; `what` begins its help."""
    return click.option("--model", required=required, type=ModelReference(), help=f"{what}: {FORMS}.")


class Bars:
    """Progress bars on stderr, one for each thing that is done: a layer of a download, a part of a conversion."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm[Any]] = {}

    def show(self, what: str, done: int, total: int) -> None:
        """Moves the bar of `what` to `done` of `total`."""
        if what not in self._bars:
            self._bars[what] = tqdm(
                total=total, unit="B", unit_scale=True, desc=what, leave=False, disable=None, delay=1
            )
        self._bars[what].update(done - self._bars[what].n)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for bar in self._bars.values():
            bar.close()
