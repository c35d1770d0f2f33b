"""Peak resident memory, of this process and of a command. Standard library alone: the peers' Python runs it too.

The kernel's figure for a child (getrusage, wait4) starts at what its parent held when it was started, so a large parent
hides a small child. A process therefore reads its own peak from /proc, which starts again with each program; and a
command is started by this file as a program, whose own 10 MB or so are the floor.

Usage: python peak_rss.py COMMAND ARGUMENT …    prints {"seconds": …, "peak_rss_mb": …}, megabytes of 10**6 bytes
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

# The unit of ru_maxrss.
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


def own_peak_rss_mb() -> int:
    """The most memory that this process has held since its program was started."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES // 10**6
    return int(kilobytes) * 1024 // 10**6


def main() -> int:
    """Runs the command, silent but for its errors; prints its time and memory; returns its exit code."""
    start = time.perf_counter()
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    print(json.dumps({"seconds": seconds, "peak_rss_mb": usage.ru_maxrss * MAXRSS_BYTES // 10**6}))
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


if __name__ == "__main__":
    sys.exit(main())
