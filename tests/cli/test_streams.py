"""Proves that a command works on any terminal, or none: streams that are closed, broken, or lack the characters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, RunCpuft
from tests.train.runs import Inputs, metrics

POSIX = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # Python would take UTF-8 in its place
ENCODINGS = [{"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "ascii"}, POSIX]


def shell(command: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Runs a line of bash in which "$@" is `cpuft ARGUMENTS`."""
    words = [sys.executable, "-m", "cpuft", *map(str, arguments)]
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}", "bash", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def training(inputs: Inputs, output: Path) -> list[str | Path]:
    """The arguments of a run of two steps."""
    options = ["--max-steps", "2", "--set", "training.logging_steps=1", "--set", "training.threads=1"]
    return ["train", "--model", inputs.model, "--train", inputs.train, "--output", output, *options]


def test_closed_streams_get_no_file_in_their_place(inputs: Inputs, tmp_path: Path) -> None:
    """What is printed would be written into metrics.jsonl, the first file that is opened."""
    run = tmp_path / "run"
    done = shell('"$@" <&- >&- 2>&-', *training(inputs, run))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [line["step"] for line in metrics(run)] == [1, 2]
    assert shell('"$@" >&- 2>&-', "models", "show", "none.gguf").returncode == 2


def test_errors_that_nobody_can_be_told_keep_their_exit_code() -> None:
    for command in ('"$@" 2>/dev/full', '"$@" 2>&- >/dev/full'):
        assert shell(command, "models", "show", "none.gguf").returncode == 2
        assert shell(command, "no-such-command").returncode == 2


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["doctor", "--json"]])
def test_a_reader_who_has_gone_is_no_fault(arguments: list[str]) -> None:
    done = shell('"$@" | true', *arguments)
    assert (done.returncode in (0, 141), done.stderr) == (True, "")  # 0: all was in the pipe before it went
    done = shell('"$@" >/dev/full', *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: the disk is full (")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("encoding", ENCODINGS, ids=["cp1252", "ascii", "posix"])
def test_what_a_terminal_cannot_print_is_escaped(
    encoding: dict[str, str | None], inputs: Inputs, run_cpuft: RunCpuft, tmp_path: Path
) -> None:
    """Or comes as UTF-8 where the encoding is ASCII, which nobody chooses."""
    run = tmp_path / "漢字 😀"
    done = run_cpuft(*training(inputs, run), env=encoding)
    assert done.returncode == 0, done.stderr
    *_, complete, _, saved = done.stdout.splitlines()
    escaped = encoding.get("PYTHONIOENCODING") == "cp1252"
    assert complete.startswith(r"\u2705 Training complete!" if escaped else "✅ Training complete!")
    assert (r"\u6f22\u5b57 \ud83d\ude00" if escaped else "漢字 😀") in saved
    done = run_cpuft("models", "show", run / "none.gguf", env=encoding)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    os.symlink(inputs.model, run / "模型.gguf")
    done = run_cpuft("models", "show", run / "模型.gguf", "--json", env=encoding)
    assert json.loads(done.stdout)["path"] == str(run / "模型.gguf")


def test_a_name_that_is_no_text(inputs: Inputs, tmp_path: Path) -> None:
    strange = tmp_path / os.fsdecode(b"\xff.gguf")
    os.symlink(inputs.model, strange)
    assert "\N{REPLACEMENT CHARACTER}.gguf" in shell('"$@"', "models", "show", strange).stdout
    done = shell('"$@"', "models", "show", strange, "--json")
    assert json.loads(done.stdout)["path"] == str(strange)
    assert shell('"$@"', *training(inputs, tmp_path / os.fsdecode(b"\xfe"))).returncode == 0
    strange.unlink()
    done = shell('"$@"', "models", "show", strange)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
