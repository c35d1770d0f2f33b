"""Proves that what other programs use of the CPUs is what these have worked, less what this process has."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from cpuft.machine import cpu

HERTZ = 100


class Machine:
    """Four CPUs, of which this process may use 0 and 2, and clocks that the test moves."""

    def __init__(self, stat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stat, self.wall, self.own = stat, 10.0, 1.0
        clocks = SimpleNamespace(perf_counter=lambda: self.wall, process_time=lambda: self.own)
        monkeypatch.setattr(cpu, "STAT", stat)
        monkeypatch.setattr(cpu, "time", clocks)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2}, raising=False)
        monkeypatch.setattr(os, "sysconf", lambda name: HERTZ)
        self.work()

    def work(self, user: int = 0, system: int = 0, steal: int = 0, idle: int = 0) -> None:
        """CPU 2 has worked for so many ticks; CPU 1 is another's."""
        other = f"cpu1 {9 * user} 0 0 0 0 0 0 0 0 0\ncpu20 7 7 7 7 7 7 7 7 7 7\n"
        one = f"cpu2 {user} 10 {system} {idle} {idle} 20 30 {steal} {user} 0\n"
        self.stat.write_text(f"cpu  1 1 1 1 1 1 1 1 1 1\ncpu0 50 0 0 0 0 0 0 0 0 0\n{other}{one}intr 1 2 3\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "stat", monkeypatch)


def test_what_is_not_our_own_is_others(machine: Machine) -> None:
    load = cpu.CpuLoad()
    machine.wall, machine.own = 20.0, 5.0  # ten seconds, in which this process used four
    machine.work(user=300, system=200, steal=100, idle=5000)  # and the CPUs worked six
    assert load.others() == pytest.approx((6 - 4) / (10 * 2))


def test_it_is_a_share_and_needs_a_system_that_tells(machine: Machine) -> None:
    load = cpu.CpuLoad()
    assert load.others() == 0  # no time has gone by
    machine.wall, machine.own = 20.0, 5.0
    assert load.others() == 0  # the ticks lag behind
    machine.work(user=10**6)
    assert load.others() == 1
    machine.stat.unlink()
    load = cpu.CpuLoad()
    machine.wall = 30.0
    assert load.others() == 0
