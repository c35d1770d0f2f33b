"""Standard input, output and error as the whole command can rely on them: open, and able to print every character."""

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import IO, TextIO

import click

from cpuft.errors import UserError

ESCAPES = "cpuft.escapes"  # the name of `_escaped` among the ways to print what an encoding lacks


@contextlib.contextmanager
def usable_streams() -> Iterator[None]:
    """Makes the streams usable; after the block, what they could not take is forgotten instead of told at exit.

    A failure to print even an error ends the process with the exit code of a user's mistake.
    """
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            _let_pass_every_character(stream)
    try:
        yield
    except OSError:
        sys.exit(UserError.exit_code)
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flush_or_forget(stream)


def tell(line: str, stream: IO[str] | None = None) -> None:
    """Prints a line on standard output or another stream; where that fails, what was done is no worse for it."""
    with contextlib.suppress(OSError, ValueError):
        click.echo(line, file=stream)


def _open_closed() -> None:
    """Opens the standard streams that the process was started without (`>&-`) to nowhere.

    Else the next file that is opened would get the number of one, and what is printed would be written into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good


def _let_pass_every_character(stream: io.TextIOWrapper) -> None:
    """Nobody chooses ASCII: where no locale is set it means UTF-8, and names of files keep their bytes. What another
    encoding lacks is escaped.
    """
    if codecs.lookup(stream.encoding).name == "ascii":
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    else:
        stream.reconfigure(errors=ESCAPES)


def _flush_or_forget(stream: TextIO) -> None:
    """Flushes a stream; what cannot be written goes nowhere, since Python would try it once more and complain."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            number, nowhere = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    r"""What an encoding lacks as \uXXXX, which JSON reads, too."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2)), error.end


codecs.register_error(ESCAPES, _escaped)
