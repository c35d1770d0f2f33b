"""A few hundred inputs for each fuzzer: nothing may happen that is neither work nor a refusal in one sentence."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from cpuft.errors import ModelError
from tests.conftest import ROOT
from tests.fuzz.campaign import Target, campaign
from tests.fuzz.targets import TARGETS

MOST = {"engine": 200, "templates": 60}  # others: 300
SECONDS = 15.0  # a busy machine tries fewer


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_found(name: str, tmp_path: Path) -> None:
    report = campaign(TARGETS[name](tmp_path), seconds=SECONDS, seed=11, most=MOST.get(name, 300))
    assert not report.findings, {what: sample.number for what, sample in report.findings.items()}
    assert report.inputs > 0


@pytest.mark.parametrize("name", TARGETS)
def test_a_seed_gives_the_same_inputs(name: str, tmp_path: Path) -> None:
    target = TARGETS[name](tmp_path)
    first, again, other = ([target.spoilt(random.Random(seed)) for _ in range(3)] for seed in (5, 5, 6))
    assert first == again
    assert first != other


class Faulty(Target):
    """Has each fault that a fuzzer must see, by the input's first byte."""

    def spoilt(self, chance: random.Random) -> bytes:
        """One of five."""
        return bytes([chance.randrange(5)])

    def use(self, data: bytes) -> None:
        """Works, refuses, refuses badly in two ways, or breaks."""
        match data[0]:
            case 1:
                raise ModelError("no")
            case 2:
                raise ModelError("two\nlines")
            case 3:
                raise ModelError("x" * 5000)
            case 4:
                raise KeyError(4)


def test_what_is_found_is_told(tmp_path: Path) -> None:
    report = campaign(Faulty(tmp_path), seconds=60, seed=0, most=100)
    assert (report.inputs, len(report.findings)) == (100, 3)
    assert 0 < report.refused < 100
    kinds = {what.split(" at ")[0]: sample.data for what, sample in report.findings.items()}
    assert kinds == {
        "ModelError of several lines": b"\2",
        "ModelError of more than 2400 characters": b"\3",
        "KeyError": b"\4",
    }


def test_one_command_runs_one(tmp_path: Path) -> None:
    options = ["--seconds", "1", "--seed", "3", "--keep", str(tmp_path)]
    command = [sys.executable, "-m", "tests.fuzz", "peft-adapter", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.startswith("peft-adapter, seed 3: ")
