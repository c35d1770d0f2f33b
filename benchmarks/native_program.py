"""The programs that time the engine's native code on its own."""

from pathlib import Path

from cpuft import toolchain
from cpuft.machine import cache
from cpuft.machine.locks import waiting_lock
from cpuft.toolchain import build, ninja, sources
from cpuft.toolchain.compiler import find_compilers


def native_program(name: str) -> Path:
    """{name}_bench.cpp, brought up to date in the tree where this checkout's engine is compiled.

    Raises:
        ToolchainError: there is no toolchain, or the program does not compile.
    """
    built = toolchain.locate()
    tree = build.engine_tree(cache.cache_dir(), built.root)
    log = tree / "benchmarks.log"
    options = {**build.engine_options(built.source, built.lib_dir), "CPUFT_BUILD_BENCHMARKS": "ON"}
    target = f"cpuft_{name}_bench"
    with waiting_lock(cache.cache_dir() / sources.LOCK, lambda: None) as lock:
        ninja.configure(sources.project_dir(), tree, options, compilers=find_compilers(), log=log, lock=lock)
        ninja.compile_targets(tree, [target], jobs=build.default_jobs(), title=f"{name} benchmark", log=log, lock=lock)
    return tree / "benchmarks" / target
