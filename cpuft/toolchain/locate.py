"""Finds what `cpuft build` made for this checkout."""

import os
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from cpuft.errors import ToolchainError
from cpuft.machine import cache, cpu
from cpuft.machine.files import read_json, write_json
from cpuft.toolchain import sources

# Beside the engine's library once it was tried: which of its kernel tables do not work here, and how each ended.
PROVEN = "proven.json"
# What llama-server prints, with its address, once it can be asked.
LISTENING = re.compile(rb"listening on (http://127\.0\.0\.1:\d+)")
# Settings of llama.cpp's programs that a user has for himself: they would change results behind our back.
FOREIGN_VARIABLES = re.compile(r"LLAMA_ARG_|LLAMA_API_KEY$|LLAMA_LOG_|HF_TOKEN$")


@dataclass(frozen=True)
class Toolchain:
    """A compiled llama.cpp and the engine that is linked to it.

    root: the build of llama.cpp.
    lib_dir: its shared libraries and tools.
    engine_library: libcpuft.so.
    source: the llama.cpp tree (its converter, chat templates and vocabularies are used from there).
    """

    root: Path
    lib_dir: Path
    engine_library: Path
    source: Path

    def tool(self, name: str) -> Path:
        """A program of llama.cpp, such as "llama-server".

        Raises:
            ToolchainError: it was not built.
        """
        path = self.lib_dir / name
        if not path.is_file():
            raise ToolchainError(f"{name} is not in {self.lib_dir}: run `cpuft build --force`")
        return path

    @property
    def lacks(self) -> dict[str, str]:
        """What llama.cpp was compiled without because its programs did not work with it, and why; usually empty."""
        stamp = read_json(self.root / "complete.json")
        return {stamp["without"]: stamp["because"]} if "without" in stamp else {}

    @property
    def broken_isas(self) -> dict[str, str]:
        """The kernel tables of the engine that do not work on this CPU, and how each ended; usually empty."""
        return dict(read_json(self.engine_library.parent / PROVEN).get("faults", {}))


def locate() -> Toolchain:
    """The toolchain of this checkout.

    Raises:
        ToolchainError: it was never built, for other sources, for another CPU, or the cache was emptied.
    """
    entry = read_json(_record_path())
    if not entry:
        raise ToolchainError("the native engine and llama.cpp are not built yet: run `cpuft build`")
    if entry["engine_hash"] != sources.engine_hash():
        raise ToolchainError("the engine's sources have changed since it was built: run `cpuft build`")
    if missing := sorted(set(entry["cpu_features"]) - cpu.cpu_features()):
        raise ToolchainError(
            f"the toolchain was built on another CPU, which has {', '.join(missing[:4])} and this one has not: "
            "run `cpuft build`"
        )
    toolchain = Toolchain(**{name: Path(path) for name, path in entry["toolchain"].items()})
    for path in (toolchain.engine_library, toolchain.lib_dir / shared_library("llama"), toolchain.source):
        if not path.exists():
            raise ToolchainError(f"{path} is gone from the cache: run `cpuft build`")
    for stamp in (toolchain.root / "complete.json", toolchain.engine_library.parent / PROVEN):
        if not stamp.exists():
            raise ToolchainError(f"{stamp.parent} was not built to its end, or not proven: run `cpuft build`")
    return toolchain


def record(toolchain: Toolchain) -> None:
    """Makes `toolchain` the one that `locate` returns in this checkout."""
    entry = {
        "toolchain": {name: str(path) for name, path in asdict(toolchain).items()},
        "engine_hash": sources.engine_hash(),
        "cpu_features": sorted(cpu.cpu_features()),
    }
    write_json(_record_path(), entry)


def tool_environment() -> dict[str, str]:
    """The environment for a program of llama.cpp: this process's, without what sets llama.cpp's options."""
    return {name: value for name, value in os.environ.items() if not FOREIGN_VARIABLES.match(name)}


def use_llama_cpp() -> None:
    """Points the Python package llama_cpp at our libraries; call this before it is imported.

    Raises:
        ToolchainError: as `locate`.
    """
    os.environ["LLAMA_CPP_LIB_PATH"] = str(locate().lib_dir)


def shared_library(name: str) -> str:
    """The file name of a shared library on this system."""
    return f"lib{name}.dylib" if platform.system() == "Darwin" else f"lib{name}.so"


def _record_path() -> Path:
    return cache.cache_dir() / "checkouts" / f"{cache.key_of(package=str(sources.PACKAGE))}.json"
