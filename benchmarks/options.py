"""Command-line options that several benchmarks have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from benchmarks.engine_side import POLICIES, Settings
from benchmarks.shapes import SHAPES
from cpuft.machine import cache

Command = TypeVar("Command", bound=Callable[..., Any])

SHAPE_HELP = "The public model whose sizes are taken; the weights are random."


def model_options(default_shape: str | None) -> Callable[[Command], Command]:
    """--shape (required where there is no default), --base-type and --models."""
    return _all(
        click.option("--shape", type=click.Choice(list(SHAPES)), help=SHAPE_HELP, **_required_or(default_shape)),
        click.option("--base-type", default="q4_k_m", show_default=True, help="A file type of llama-quantize."),
        models_option,
    )


def kernel_options() -> Callable[[Command], Command]:
    """--isa, --precision and --threads of the engine."""
    return _all(
        click.option("--isa", help="The engine's kernels; the best of this CPU by default."),
        click.option("--precision", type=click.Choice(["f32", "bf16", "int8"]), help="The CPU's own by default."),
        threads_option,
    )


def _required_or(default: str | None) -> dict[str, Any]:
    return {"required": True} if default is None else {"default": default, "show_default": True}


def _all(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


models_option = click.option(
    "--models",
    type=click.Path(path_type=Path),
    default=lambda: cache.cache_dir() / "benchmarks",
    show_default="benchmarks/ in the cache",
    help="The folder where models are kept.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(0), default=Settings.threads, show_default=True, help="0: every CPU."
)
tokens_option = click.option(
    "--tokens", type=click.IntRange(2), default=512, show_default=True, help="Length of the sequence."
)
activations_option = click.option(
    "--activations", type=click.Choice(POLICIES), default=Settings.activations, show_default=True
)
repeats_option = click.option(
    "--repeats", type=click.IntRange(1), default=Settings.repeats, show_default=True, help="After a warm-up."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line.")
