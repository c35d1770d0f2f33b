"""The `--model` option: every command takes a model from wherever it is."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cpuft.cli.progress import Bars
from cpuft.ollama.store import NotPulledError
from cpuft.sources.pull import pull
from cpuft.sources.source import FORMS, Source, resolve


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
            return resolve(reference, bars)
        except NotPulledError as error:
            if not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise
            click.echo(str(error), err=True)
            if not click.confirm("Pull it now?", err=True):
                raise
            return pull(reference, bars)


def model_option(
    what: str = "The base model", *, required: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option --model; `what` begins its help."""
    return click.option("--model", required=required, type=ModelReference(), help=f"{what}: {FORMS}.")
