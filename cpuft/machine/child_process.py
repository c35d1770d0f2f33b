"""Starts a program that cannot outlive the process that wanted it: even `kill -9` of that process ends it.

`bound` makes the command line for it. This file is then run as a script, with nothing but the standard library:
bound_process.py PARENT_PID PROGRAM ARGUMENT…
On Linux the kernel delivers the signal (PR_SET_PDEATHSIG, see prctl(2)); it does so when the *thread* that started this
script ends, so start it from one that lives as long as the program should. Elsewhere the program starts unbound.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def bound(command: Iterable[str | Path]) -> list[str]:
    """The command line that runs `command`, whose program is named by its path, bound to this process."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *map(str, command)]


def main() -> None:
    """Binds this process to its parent, then becomes the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the request was in place
            sys.exit(1)
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
