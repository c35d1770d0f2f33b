"""The arithmetic peak of this machine, measured by peak.cpp."""

import os
import subprocess
from pathlib import Path

from cpuft.errors import CpuftError
from cpuft.machine import cache
from cpuft.machine.files import atomic_write
from cpuft.toolchain.compiler import find_compilers

SOURCE = Path(__file__).resolve().with_name("peak.cpp")
NO_SUCH_LOOP = 3
PLAIN = "reference"  # the engine's kernels without vector instructions; the only ones where peak.cpp does not compile


def measure_peak(isa: str, precision: str, threads: int) -> float | None:
    """Operations a second of a register-only loop, now; None where peak.cpp has no loop for the pair."""
    if isa == PLAIN:
        return None
    done = subprocess.run([peak_program(), isa, precision, str(threads)], capture_output=True, text=True, check=False)
    if done.returncode == NO_SUCH_LOOP:
        return None
    if done.returncode != 0:
        raise CpuftError(f"the peak of {isa} {precision} cannot be measured: exit code {done.returncode}")
    return float(done.stdout)


def peak_program() -> Path:
    """The compiled peak.cpp, kept in the cache under a digest of source and compiler.

    Raises:
        CpuftError: it does not compile.
    """
    compilers = find_compilers()
    key = cache.key_of(source=SOURCE.read_text(encoding="utf-8"), compilers=compilers.identity)
    program = cache.cache_dir() / "benchmarks" / f"peak-{key}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(program) as temporary:
            command: list[str | Path] = [compilers.cxx, "-O2", "-std=c++17", "-pthread", SOURCE, "-o", temporary]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise CpuftError(f"{SOURCE.name} does not compile: {done.stderr.strip().partition(os.linesep)[0]}")
        program.chmod(0o755)
    return program
