"""The checks of `cpuft doctor`: what this machine has for training, what it lacks, and how to mend that."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cpuft.errors import OllamaError, ToolchainError
from cpuft.machine import cache, cpu, memory
from cpuft.machine.disk import free_bytes
from cpuft.toolchain import proof
from cpuft.toolchain.compiler import find_cmake, find_compilers, find_ninja
from cpuft.toolchain.locate import Toolchain, locate

# A LoRA run on a 0.5B model takes about this much memory; llama.cpp and two merged models of that size, this much disk.
_MEMORY_NEEDED = 2_000_000_000
_DISK_NEEDED = 2_000_000_000
_OLLAMA_SECONDS = 2.0  # to answer: it is on this machine or near


@dataclass(frozen=True)
class Check:
    """One finding. `missing` stops training; `optional` is absent and only some commands need it."""

    name: str
    status: Literal["works", "optional", "missing"]
    found: str
    mend: str = ""


def run_checks() -> list[Check]:
    """All findings; none of them raises. What `cpuft build` proved is proved again, which takes seconds."""
    return [
        _cpu(),
        _isa(),
        _memory(),
        _disk(),
        _tool("compiler", lambda: " and ".join(find_compilers().identity[:2])),
        _tool("cmake", lambda: _version(find_cmake())),
        _tool("ninja", lambda: _version(find_ninja())),
        _tool("toolchain", lambda: str(locate().lib_dir)),
        _tool("engine", lambda: str(locate().engine_library)),
        *_proofs(),
        _ollama(),
    ]


def _cpu() -> Check:
    return Check("cpu", "works", f"{cpu.cpu_model()}, {cpu.available_cpus()} usable")


def _isa() -> Check:
    features = cpu.cpu_features()
    chosen = os.environ.get("CPUFT_ISA")
    best = cpu.best_isa(features, cpu.cpu_vendor(), _broken_isas())
    if chosen is None:
        slow = "a CPU with AVX2 trains many times faster" if best == "reference" else ""
        return Check("instruction set", "works", best, slow)
    if chosen not in cpu.ENGINE_ISAS:
        known = ", ".join(cpu.ENGINE_ISAS)
        return Check("instruction set", "missing", f"CPUFT_ISA={chosen}", f"unset CPUFT_ISA, or take one of {known}")
    if lacking := sorted(cpu.ENGINE_ISAS[chosen] - features):
        return Check(
            "instruction set", "missing", f"CPUFT_ISA={chosen}", f"unset it: this CPU lacks {', '.join(lacking)}"
        )
    return Check("instruction set", "works", f"{chosen}, as CPUFT_ISA asks (the fastest of this CPU is {best})")


def _memory() -> Check:
    free = memory.available_memory()
    found = f"{free / 1e9:.1f} GB available of {memory.total_memory() / 1e9:.1f} GB"
    if free >= _MEMORY_NEEDED:
        return Check("memory", "works", found)
    return Check("memory", "missing", found, "close other programs: a 0.5B model trains in about 2 GB")


def _disk() -> Check:
    directory = cache.cache_dir()
    free = free_bytes(directory)
    found = f"{free / 1e9:.1f} GB free for {directory}"
    if free >= _DISK_NEEDED:
        return Check("disk", "works", found)
    return Check("disk", "missing", found, "free some space, or point CPUFT_CACHE at another disk")


def _tool(name: str, find: Callable[[], str]) -> Check:
    try:
        return Check(name, "works", find())
    except ToolchainError as error:
        found, _, mend = str(error).partition(": ")
        return Check(name, "missing", found, mend)


def _broken_isas() -> list[str]:
    try:
        return list(locate().broken_isas)
    except ToolchainError:
        return []


def _proofs() -> list[Check]:
    """Runs everything that was built once; nothing where nothing was."""
    try:
        toolchain = locate()
    except ToolchainError:
        return []
    return [_proven("programs", _prove_llama, toolchain), _proven("training", _prove_engine, toolchain)]


def _proven(name: str, prove: Callable[[Toolchain], Check], toolchain: Toolchain) -> Check:
    try:
        return prove(toolchain)
    except (ToolchainError, OSError) as error:
        return Check(name, "missing", str(error), "mend that, or run `cpuft build --force`")


def _prove_llama(toolchain: Toolchain) -> Check:
    if fault := proof.prove_llama(toolchain.lib_dir, toolchain.root / "proof.log"):
        return Check("programs", "missing", str(fault), "run `cpuft build --force`")
    found = ", ".join(proof.PROGRAMS)
    for without, because in toolchain.lacks.items():
        return Check("programs", "works", f"{found}, without {without}", f"{because} with it when it was built")
    return Check("programs", "works", found)


def _prove_engine(toolchain: Toolchain) -> Check:
    isas, known = cpu.engine_isas(), toolchain.broken_isas
    faults = proof.prove_engine(toolchain.engine_library, isas, toolchain.engine_library.parent / "proof.log")
    if new := [str(fault) for isa, fault in faults.items() if isa not in known]:
        return Check("training", "missing", "; ".join(new), "run `cpuft build --force`")
    found = f"a step with each of {', '.join(isa for isa in isas if isa not in faults)}"
    return Check("training", "works", found, "; ".join(f"{fault}: it is not used" for fault in faults.values()))


def _version(program: Path) -> str:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolchainError(f"{program} does not run ({error}): install cpuft again") from error
    return f"{done.stdout.partition(chr(10))[0].strip()} ({program})"


def _ollama() -> Check:
    from cpuft.ollama.server import USUAL, connection  # it takes long to import

    where = os.environ.get("OLLAMA_HOST") or USUAL
    try:
        with connection(timeout=_OLLAMA_SECONDS) as server:
            return Check("ollama", "works", f"version {server.version()} at {server.address}")
    except (OllamaError, ValueError, KeyError, TypeError):
        if shutil.which("ollama"):
            found = f"installed, but nothing answers at {where}"
            return Check("ollama", "optional", found, "start it with `ollama serve`")
        return Check("ollama", "optional", "not installed", "needed only to import models into Ollama: ollama.com")
