"""The `cpuft` command: a table of subcommands that are imported when they are used, and the boundary for errors."""

import contextlib
import errno
import importlib
import os
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import cpuft
from cpuft.errors import INTERRUPTED, CpuftError, UserError
from cpuft.terminal import printable
from cpuft.toolchain.cache import cache_dir

# Name of the subcommand -> where its click command is, in the order of the help page.
COMMANDS = {
    "build": "cpuft.cli.build:build",
    "doctor": "cpuft.cli.doctor:doctor",
    "plan": "cpuft.cli.plan:plan",
    "prepare": "cpuft.cli.prepare:prepare",
    "train": "cpuft.cli.train:train",
    "merge": "cpuft.cli.models:merge",
    "quantize": "cpuft.cli.models:quantize",
    "fidelity": "cpuft.cli.fidelity:fidelity",
    "ship": "cpuft.cli.ship:ship",
    "adapter": "cpuft.cli.adapter:adapter",
    "models": "cpuft.cli.catalog:models",
    "import-ollama": "cpuft.cli.deploy:import_ollama",
    "generate": "cpuft.cli.generate:generate",
    "eval": "cpuft.cli.evaluate:evaluate",
    "demo": "cpuft.cli.demo:demo",
    "bench": "cpuft.cli.bench:bench",
}


class UserMistake(click.ClickException):
    """What the user can mend, as the user sees it: `Error: <sentence>` on stderr, exit code 2."""

    exit_code = UserError.exit_code


class OwnFault(click.ClickException):
    """What the user cannot mend: `Error: <sentence with a log path>` on stderr, exit code 1."""

    exit_code = CpuftError.exit_code

    def __init__(self, sentence: str) -> None:
        super().__init__(f"{sentence} (a fault of cpuft; its log is {_write_log()})")


class LazyGroup(click.Group):
    """A group that imports a subcommand only when it is named, and turns every failure into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the subcommands in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a subcommand, None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand inside the error boundary."""
        with error_boundary():
            return super().invoke(ctx)


@contextlib.contextmanager
def error_boundary() -> Iterator[None]:
    """Turn whatever a command raises into `UserMistake` or `OwnFault`, keeping the cause."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise  # click knows what to do with these
    except KeyboardInterrupt as error:
        click.echo("Interrupted", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from error
    except UserError as error:
        raise UserMistake(printable(str(error))) from error
    except CpuftError as error:
        raise OwnFault(printable(str(error))) from error
    except MemoryError as error:
        raise UserMistake("the memory of this machine is exhausted: close other programs or do less at once") from error
    except PermissionError as error:
        raise UserMistake(
            f"{error.filename or 'the system'}: permission denied: ask for access, or choose another place"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserMistake(f"the disk is full ({error}): free some space and run the command again") from error
        raise OwnFault(f"{type(error).__name__}: {' '.join(str(error).split())}") from error


def _write_log() -> Path:
    """Write the traceback of the exception at hand to a file of its own."""
    name = f"fault-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for directory in (cache_dir() / "logs", Path(tempfile.gettempdir())):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(traceback.format_exc(), encoding="utf-8")
        except OSError:
            continue
        return directory / name
    return Path(os.devnull)


@click.group("cpuft", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(cpuft.__version__, "--version", "-V", prog_name="cpuft")
def cli() -> None:
    """Fine-tune language models on a CPU: LoRA training directly on the quantized GGUF file that you already run.

    \b
    Examples:
      cpuft build                    compile llama.cpp and the training engine, once per machine
      cpuft demo                     train, merge and compare the bundled tiny model
      cpuft train --model model.gguf --train train.jsonl --val val.jsonl --output runs/first
      cpuft merge --model model.gguf --adapter runs/first/adapter.gguf --type q4_k_m --output tuned.gguf

    `cpuft COMMAND --help` explains a command and shows examples of it.
    """
