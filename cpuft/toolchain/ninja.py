"""Runs CMake and Ninja with a progress bar and a log."""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from cpuft.errors import ToolchainError
from cpuft.toolchain.cache import disk_full
from cpuft.toolchain.compiler import Compilers, find_cmake, find_ninja

_PROGRESS = re.compile(r"\[(\d+)/(\d+)\] ")
_FAULT = re.compile(r"(?:fatal )?error: .*|CMake Error.*|undefined reference to .*|.*Killed.*")


def configure(
    source: Path, tree: Path, options: dict[str, str], *, compilers: Compilers, log: Path, lock: int | None = None
) -> None:
    """Configure the CMake project `source` in the build tree `tree`; costs nothing much where that was done before.

    Raises:
        ToolchainError: CMake refused; the sentence holds its first complaint and the log's path.
    """
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_MAKE_PROGRAM": str(find_ninja()),
        "CMAKE_C_COMPILER": str(compilers.c),
        "CMAKE_CXX_COMPILER": str(compilers.cxx),
        **options,
    }
    command = [str(find_cmake()), "-S", str(source), "-B", str(tree), "-G", "Ninja", "-Wno-dev"]
    command += [f"-D{name}={value}" for name, value in options.items()]
    _run(command, f"configuring {source.name}", log=log, bar=None, lock=lock)


def compile_targets(tree: Path, targets: list[str], *, jobs: int, title: str, log: Path, lock: int | None) -> None:
    """Bring `targets` of the build tree up to date.

    lock: a file descriptor for Ninja to inherit, see `cache.locked`.

    Raises:
        ToolchainError: something did not compile; the sentence holds the first error and the log's path.
    """
    command = [str(find_ninja()), "-C", str(tree), "-j", str(jobs), *targets]
    with tqdm(desc=title, unit="step", dynamic_ncols=True, disable=None) as bar:
        _run(command, f"compiling {title}", log=log, bar=bar, lock=lock)


def _run(command: list[str], doing: str, *, log: Path, bar: "tqdm[Any] | None", lock: int | None) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8", errors="replace") as file:
        print(f"$ {' '.join(command)}", file=file, flush=True)
        inherited = () if lock is None else (lock,)
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", pass_fds=inherited,
        ) as process:  # fmt: skip
            try:
                fault = _follow(process.stdout, file, bar)
            except BaseException:
                process.terminate()
                raise
    if process.returncode != 0:
        raise _explain(doing, fault, log)


def _follow(output: IO[str] | None, log: IO[str], bar: "tqdm[Any] | None") -> str:
    """Copy the output to the log, drive the bar, and return the first complaint."""
    fault, began = "", time.monotonic()
    for line in output or ():
        log.write(line)
        if bar is not None and (progress := _PROGRESS.match(line)):
            _advance(bar, int(progress[1]), int(progress[2]), time.monotonic() - began)
        if "No space left on device" in line:
            fault = line
        elif not fault and (complaint := _FAULT.search(line)):
            fault = complaint[0]
    return fault.strip()


def _advance(bar: "tqdm[Any]", done: int, total: int, seconds: float) -> None:
    """Move the bar; where there is no terminal and tqdm is silent, print a line every tenth of the way."""
    if not bar.disable:
        bar.total = total
        bar.update(done - bar.n)
    elif done == total or done * 10 // total > (done - 1) * 10 // total:
        left = seconds / done * (total - done)
        until = f", about {left / 60:.0f} min left" if left >= 60 else ""
        print(f"compiled {done} of {total}{until}", file=sys.stderr, flush=True)


def _explain(doing: str, fault: str, log: Path) -> ToolchainError:
    if "No space left on device" in fault:
        return disk_full(log.parent)
    if "Killed" in fault:
        return ToolchainError(f"{doing} ran out of memory: try `cpuft build --jobs 1` (log: {log})")
    return ToolchainError(f"{doing} failed ({fault or 'no message'}): the whole log is {log}")
