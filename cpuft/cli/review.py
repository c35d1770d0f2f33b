"""`cpuft review`: a person judges two models' answers in the browser."""

import json
import os
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cpuft.errors import ConfigError
from cpuft.feedback.tables import NAME
from cpuft.machine.terminal import printable

if TYPE_CHECKING:
    from cpuft.feedback.review import ReviewServer

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("files", metavar="RESULT_OR_HTML…", nargs=-1, required=True, type=FILE)
@click.option("--store", type=FILE, help=f"The SQLite file of verdicts; without: {NAME} beside the first file.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0: any that is free.")
@click.option("--no-browser", is_flag=True, help="Print the address, and open nothing.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Shuffles the sides of a result's.")
@click.option("--json", "as_json", is_flag=True, help="Print the address and the store as a line of JSON.")
def review(files: tuple[Path, ...], store: Path | None, port: int, no_browser: bool, seed: int, as_json: bool) -> None:
    """Judge two models' answers side by side in the browser, blind; each verdict is stored at once.

    Serves results of `cpuft eval compare` or pages of `cpuft eval samples`, until Ctrl-C, on this machine alone. The
    address holds a secret token: who has it can judge. `cpuft eval compare --verdicts STORE` counts the verdicts.

    \b
    Examples:
      cpuft review artifacts/benchmarks/finetuned_vs_base.json
      cpuft review side_by_side_comparison.html --store verdicts.sqlite --port 8123 --no-browser
    """
    with _server(files, store or files[0].parent / NAME, port, seed) as server:
        _tell(server, as_json)
        if not no_browser and _has_screen():
            webbrowser.open(server.address)
        server.serve()
        if not as_json:
            count = sum(len(verdicts) for _, verdicts in server.store.all())
            click.echo(printable(f"{server.store.path}: {count} verdicts"))


def _server(files: tuple[Path, ...], store: Path, port: int, seed: int) -> "ReviewServer":
    try:
        from cpuft.workflow.review import open_review
    except ImportError as error:
        raise ConfigError(f"a package is missing ({error}): pip install 'cpuft[review]'") from error
    return open_review(files, store, port, seed)


def _tell(server: "ReviewServer", as_json: bool) -> None:
    """Says where, at once: who reads it at the other end of a pipe waits for it."""
    if as_json:
        click.echo(json.dumps({"address": server.address, "store": str(server.store.path)}))
    else:
        click.echo(printable(f"Review at {server.address}\nVerdicts go to {server.store.path}. Ctrl-C ends it."))
    sys.stdout.flush()


def _has_screen() -> bool:
    """Whether a browser would open a window, and not take over the terminal."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
