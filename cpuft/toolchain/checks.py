"""The checks of `cpuft doctor`: what this machine has for training, what it lacks, and how to mend that."""

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cpuft.errors import ToolchainError
from cpuft.toolchain import cache, cpu, proof, ram
from cpuft.toolchain.compiler import find_cmake, find_compilers, find_ninja
from cpuft.toolchain.locate import Toolchain, locate

# A LoRA run on a 0.5B model takes about this much memory; llama.cpp and two merged models of that size, this much disk.
_MEMORY_NEEDED = 2_000_000_000
_DISK_NEEDED = 2_000_000_000


@dataclass(frozen=True)
class Check:
    """One finding. `missing` stops training; `optional` is absent and only some commands need it."""

    name: str
    status: Literal["works", "optional", "missing"]
    found: str
    mend: str = ""


def run_checks() -> list[Check]:
    """Return all findings; none of them raises. What `cpuft build` proved is proved again, which takes seconds."""
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
    free = ram.available_memory()
    found = f"{free / 1e9:.1f} GB available of {ram.total_memory() / 1e9:.1f} GB"
    if free >= _MEMORY_NEEDED:
        return Check("memory", "works", found)
    return Check("memory", "missing", found, "close other programs: a 0.5B model trains in about 2 GB")


def _disk() -> Check:
    directory = cache.cache_dir()
    existing = next(path for path in (directory, *directory.parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
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
    """Run everything that was built once; nothing where nothing was."""
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
    host = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434")
    url = host if "://" in host else f"http://{host}"
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=2) as reply:
            version = str(json.load(reply)["version"])
    except (OSError, ValueError, KeyError, TypeError):
        if shutil.which("ollama"):
            return Check(
                "ollama", "optional", f"installed, but nothing answers at {url}", "start it with `ollama serve`"
            )
        return Check("ollama", "optional", "not installed", "needed only to import models into Ollama: ollama.com")
    return Check("ollama", "works", f"version {version} at {url}")
