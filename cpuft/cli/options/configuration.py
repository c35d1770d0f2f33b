"""The options that say how a run goes: what `cpuft train` and `cpuft plan` have in common."""

import re
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import IO, Any, TypeVar

import click

from cpuft.cli.streams import tell
from cpuft.config.file import load_config, read_value
from cpuft.config.keys import Config

Command = TypeVar("Command", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)


class Setting(click.ParamType[tuple[str, Any]]):
    """KEY=VALUE with a YAML value: training.seed=1."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Returns the key and its value."""
        key, equals, text = str(value).partition("=")
        if not equals or "." not in key:
            self.fail(f"found {value!r}, expected SECTION.KEY=VALUE such as training.seed=1", param, ctx)
        try:
            return key, read_value(text)
        except ValueError as error:
            self.fail(f"{key}: {error}", param, ctx)


class Layers(click.ParamType[tuple[str, int | None]]):
    """all, or last:N: the layers that the adapter sits on."""

    name = "all|last:N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int | None]:
        """Returns the key that says it, lora.layers, and its value."""
        last = re.fullmatch("last:([1-9][0-9]{0,8})", str(value))
        if last is None and value != "all":
            self.fail(f"found {value!r}, expected all, or last:N with N of at least 1", param, ctx)
        return "lora.layers", int(last[1]) if last else None


class InitialAdapter(click.ParamType[tuple[str, str]]):
    """The path of an adapter."""

    name = "PATH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Returns the key that says it, lora.init_adapter, and its value."""
        if not value:
            self.fail("found nothing, expected the path of an adapter", param, ctx)
        return "lora.init_adapter", str(value)


_OPTIONS = (
    click.option(
        "--init-adapter", type=InitialAdapter(), help="An adapter to start from: a GGUF file or a PEFT folder."
    ),
    click.option(
        "--layers", type=Layers(), metavar="all|last:N", help="Train all layers or the last N: faster, smaller."
    ),
    click.option(
        "--cache-frozen", is_flag=True, default=None, help="Run untrained layers once; keep their output on disk."
    ),
    click.option("--epochs", "--num-epochs", "num_epochs", type=int, help="How often every example is seen."),
    click.option("--max-steps", "max_steps", type=int, help="End after this many optimizer steps."),
    click.option("--truncate", "truncate", is_flag=True, default=None, help="Cut over-long examples at the end."),
    click.option("--seed", "seed", type=int, help="The same seed gives the same adapter, byte for byte."),
    click.option("--threads", "threads", type=int, help="0: every CPU."),
    click.option("--set", "settings", type=Setting(), multiple=True, help="Any other key; may be given repeatedly."),
    click.option("--max-ram", "max_ram", metavar="SIZE", help="The most memory that it may take: 4G, 800M, 1.5GiB."),
)


def configuration_options(command: Command) -> Command:
    """Adds the options; `read_configuration` takes their values."""
    return reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), command)


def read_configuration(
    config_file: Path | None,
    stream: IO[str],
    *,
    init_adapter: tuple[str, str] | None,
    layers: tuple[str, int | None] | None,
    settings: tuple[tuple[str, Any], ...],
    **options: Any,
) -> Config:
    """The configuration that a file and the options give; prints to `stream` what of it is answered in another way."""
    given = {f"training.{name}": value for name, value in options.items() if value is not None}
    given |= dict(filter(None, (layers, init_adapter)))
    config, notes = load_config(config_file, given | dict(settings))
    for note in notes:
        tell(note, stream)
    return config
