"""The `--adapter` option: every command takes a GGUF adapter, the folder of its run, or the folder that PEFT saved."""

import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cpuft.adapters.files import convert
from cpuft.adapters.place import adapter_at
from cpuft.machine.files import require_place

if TYPE_CHECKING:
    from cpuft.backends.asked import Asked

FORMS = "a GGUF file, a run's folder or a PEFT folder"


def adapter_option(
    what: str = "The LoRA adapter", *, required: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option --adapter of a command that also has --model; `what` begins its help. The command gets a GGUF file."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(*args: Any, model: "Path | Asked", adapter: Path | None, **options: Any) -> Any:
            base = model if isinstance(model, Path) else model.path
            with gguf_adapter(adapter, base, options.get("output")) as file:
                return command(*args, model=model, adapter=file, **options)

        path = click.Path(path_type=Path)
        return click.option("--adapter", required=required, type=path, help=f"{what}: {FORMS}.")(run)

    return decorate


@contextmanager
def gguf_adapter(adapter: Path | None, model: Path | None, output: Path | None) -> Iterator[Path | None]:
    """A path's adapter as a GGUF file, which for a folder has the same bytes every time and vanishes with the block.

    output: what the command writes; it must not take the place of one of the folder's files.
    """
    adapter = None if adapter is None else adapter_at(adapter)
    if adapter is None or not adapter.is_dir():
        yield adapter
        return
    if output is not None:
        require_place(output, "the output", [adapter])
    with tempfile.TemporaryDirectory(prefix="cpuft-adapter-") as folder:
        file = Path(folder) / f"{adapter.resolve().name}.gguf"  # messages name it
        convert(adapter, file, "gguf", model=model)
        yield file
