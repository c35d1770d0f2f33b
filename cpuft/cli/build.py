"""`cpuft build`."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--jobs", "-j", type=click.IntRange(min=1), help="Compilers at a time. [default: as CPUs and memory allow]"
)
@click.option(
    "--source",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A llama.cpp tree to build instead of the one that vendor/llama.cpp.lock names.",
)
@click.option("--force", is_flag=True, help="Compile again even what is in the cache.")
def build(jobs: int | None, source: Path | None, force: bool) -> None:
    """Fetch and compile llama.cpp and the native engine.

    What was compiled before, also for another checkout, is taken from the cache: $CPUFT_CACHE, else cpuft/ in
    $XDG_CACHE_HOME or ~/.cache. The compilers are $CC and $CXX, else the system's.

    \b
    Examples:
      cpuft build
      cpuft build --jobs 1                 on a machine with little memory
      cpuft build --source ../llama.cpp    without a network, or with your own llama.cpp
    """
    from cpuft.cli.progress import Compiling
    from cpuft.toolchain.build import build as build_toolchain

    with Compiling() as progress:
        toolchain, built = build_toolchain(jobs=jobs, source=source, force=force, progress=progress)
    click.echo(f"Compiled {' and '.join(built)}." if built else "Everything is up to date.")
    click.echo(f"llama.cpp: {toolchain.lib_dir}\nengine:    {toolchain.engine_library}")
