"""Runs CMake and Ninja with a log, and tells how far they are."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO

from cpuft.errors import ToolchainError, UserError
from cpuft.machine.disk import full_disk
from cpuft.machine.progress import Progress, silent
from cpuft.toolchain.compiler import Compilers, find_cmake, find_ninja
from cpuft.toolchain.sources import DISK_MEND

Told = Callable[[int, int], object]  # steps that are done, and all of them
_PROGRESS = re.compile(r"\[(\d+)/(\d+)\] ")
_HEADING = "(message):"
_FAULT = re.compile(r"(?:fatal )?error: .*|CMake Error.*|undefined reference to .*|.*Killed.*")


def configure(
    source: Path, tree: Path, options: dict[str, str], *, compilers: Compilers, log: Path, lock: int | None = None
) -> None:
    """Configures the CMake project `source` in the build tree `tree`; costs nothing much where that was done before.

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
    _run(command, f"configuring {source.name}", log=log, lock=lock)


def compile_targets(
    tree: Path, targets: list[str], *, jobs: int, title: str, log: Path, lock: int | None, progress: Progress = silent
) -> None:
    """Brings `targets` of the build tree up to date.

    lock: a file descriptor for Ninja to inherit, see `machine.locks`.

    Raises:
        ToolchainError: something did not compile; the sentence holds the first error and the log's path.
    """
    command = [str(find_ninja()), "-C", str(tree), "-j", str(jobs), *targets]

    def told(done: int, total: int) -> None:
        progress(title, done, total, "step")

    _run(command, f"compiling {title}", log=log, lock=lock, progress=told)


def _run(command: list[str], doing: str, *, log: Path, lock: int | None, progress: Told | None = None) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8", errors="replace") as file:
        print(f"$ {' '.join(command)}", file=file, flush=True)
        inherited = () if lock is None else (lock,)
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", pass_fds=inherited,
        ) as process:  # fmt: skip
            try:
                fault = _follow(process.stdout, file, progress)
            except BaseException:
                process.terminate()
                raise
    if process.returncode != 0:
        raise _explain(doing, fault, log)


def _follow(output: IO[str] | None, log: IO[str], progress: Told | None) -> str:
    """Copies the output to the log, tells how far it is, and returns the first complaint."""
    fault, heading = "", False
    for line in output or ():
        log.write(line)
        if progress is not None and (step := _PROGRESS.match(line)):
            progress(int(step[1]), int(step[2]))
        if "No space left on device" in line:
            fault = line
        elif heading and (line.strip() or fault.endswith(_HEADING)):  # before a long word CMake breaks a line
            fault = f"{fault} {line.strip()}".rstrip()
        elif not fault and (complaint := _FAULT.search(line)):
            fault = complaint[0]
            heading = fault.endswith(_HEADING)  # CMake's: what is wrong stands in the paragraph below it
        else:
            heading = False
    return fault.strip()


def _explain(doing: str, fault: str, log: Path) -> UserError:
    if "No space left on device" in fault:
        return full_disk(log.parent, DISK_MEND)
    if "Killed" in fault:
        return ToolchainError(f"{doing} ran out of memory: try `cpuft build --jobs 1` (log: {log})")
    return ToolchainError(f"{doing} failed ({fault or 'no message'}): the whole log is {log}")
