"""The `--model` option: every command takes a model from wherever it is."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cpuft.cli.progress import Bars
from cpuft.ollama.store import NotPulledError
from cpuft.sources.pull import pull
from cpuft.sources.source import FORMS, Source, resolve

Command = Callable[..., Any]


def model_option(
    what: str = "The base model", *names: str, required: bool = True, help: str | None = None
) -> Callable[[Command], Command]:
    """The option --model, or another that names a model in the same ways; the command gets the path of its GGUF file.

    what: begins the help. names: as click.option takes them, with the parameter's own last.
    """
    names = names or ("--model", "model")
    return _found(names[-1], click.option(*names, required=required, metavar="MODEL", help=help or f"{what}: {FORMS}."))


def model_argument() -> Callable[[Command], Command]:
    """The argument MODEL."""
    return _found("model", click.argument("model"))


def _found(name: str, parameter: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """A parameter whose model is looked for when all of the command line has been read: it may be a download."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(*args: Any, **options: Any) -> Any:
            if options[name] is not None:
                options[name] = find_model(options[name])
            return command(*args, **options)

        return parameter(run)

    return decorate


def find_model(reference: str) -> Path:
    """The path of a model's GGUF file; what the user should know of it goes to stderr."""
    source = _find(reference)
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
