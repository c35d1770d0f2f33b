"""Time, memory and errors of a fresh process are its own, and a rate's spread is that of its steps."""

import sys
from pathlib import Path

import pytest

from benchmarks.fresh_process import figures_of, measured
from benchmarks.report import rates
from cpuft.errors import CpuftError, UserError

BIG = 300_000_000
OWN_PEAK = "import json; from benchmarks.peak_rss import own_peak_rss_mb; print(json.dumps({'mb': own_peak_rss_mb()}))"


def test_a_large_parent_hides_no_small_child() -> None:
    """The kernel's figure of a child starts at its parent's memory."""
    parent = bytearray(BIG)
    parent[:: 1 << 12] = b"x" * len(parent[:: 1 << 12])
    assert measured(["true"])["peak_rss_mb"] < BIG // 10**6 // 2
    assert figures_of([sys.executable, "-c", OWN_PEAK])["mb"] < BIG // 10**6 // 2
    assert len(parent) == BIG


def test_memory_and_time_of_a_command() -> None:
    code = f"import time; x = b'x' * {BIG}; time.sleep(0.2)"
    figures = measured([sys.executable, "-c", code])
    assert BIG // 10**6 <= figures["peak_rss_mb"] < 2 * BIG // 10**6
    assert figures["seconds"] >= 0.2


@pytest.mark.parametrize(
    ("code", "error", "sentence"),
    [
        ("sys.stderr.write('first\\nError: no such model'); sys.exit(2)", UserError, "no such model"),
        ("sys.stderr.write('first\\nlast'); sys.exit(3)", CpuftError, "failed with exit code 3: last"),
    ],
)
def test_a_command_that_fails(code: str, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        measured([sys.executable, "-c", f"import sys; {code}"])


def test_a_side_that_fails(tmp_path: Path) -> None:
    refusing, broken = tmp_path / "refusing.py", tmp_path / "broken.py"
    refusing.write_text("""print('{"error": "no such model"}'); raise SystemExit(2)""")
    broken.write_text("print('not JSON')")
    with pytest.raises(UserError, match=r"^no such model$"):
        figures_of([sys.executable, refusing])
    with pytest.raises(CpuftError, match=r"broken\.py failed"):
        figures_of([sys.executable, broken])


def test_rates() -> None:
    assert rates(100, [1.0, 4.0, 2.0], "tok_s") == {"tok_s": 50.0, "tok_s_min": 25.0, "tok_s_max": 100.0}
