"""Runs what is measured in a process of its own, so that its memory is its own, and reads its figures."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cpuft.errors import CpuftError, UserError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def figures_of(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON object that a process prints last.

    Raises:
        UserError: the process ended with the exit code 2 and {"error": sentence}.
        CpuftError: it failed in another way; what it said on stderr has been shown.
    """
    changed = {"PYTHONWARNINGS": "ignore", **(environment or {})}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | changed, cwd=ROOT, check=False)
    result: dict[str, Any] = _last_object(done.stdout)
    if done.returncode == UserError.exit_code and "error" in result:
        raise UserError(result["error"])
    if done.returncode != 0 or not result:
        raise CpuftError(f"{_name(command)} failed with exit code {done.returncode}")
    return result


def measured(command: Sequence[str | Path]) -> dict[str, Any]:
    """Seconds and peak memory of a command: {"seconds": float, "peak_rss_mb": int}.

    Raises:
        UserError: it ended with the exit code 2, as cpuft does where the user is at fault.
        CpuftError: it failed in another way; the sentence ends with the last line that it wrote.
    """
    # -S -E: a small process without packages, because its memory is the floor of the figure.
    runner = [sys.executable, "-S", "-E", str(HERE / "peak_rss.py")]
    done = subprocess.run([*runner, *command], capture_output=True, text=True, errors="replace", cwd=ROOT, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().rpartition("\n")[2] or "no message"
        if done.returncode == UserError.exit_code:
            raise UserError(said.removeprefix("Error: "))
        raise CpuftError(f"{_name(command)} failed with exit code {done.returncode}: {said}")
    return _last_object(done.stdout)


def _last_object(output: str) -> dict[str, Any]:
    lines = output.splitlines()
    try:
        value = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _name(command: Sequence[str | Path]) -> str:
    """The program, or the script or module that Python runs."""
    names = [Path(part).name for part in command[:3] if not str(part).startswith("-")]
    return " ".join(names[:2])
