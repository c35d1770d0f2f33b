"""Proves that as many threads start as a container's quota lets run."""

import os
from pathlib import Path

import pytest

from cpuft.engine import Engine
from cpuft.machine import cpu
from tests.gguf.tiny import write_tiny_model
from tests.machine.conftest import write_group


@pytest.fixture(autouse=True)
def _eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight CPUs, whatever this machine has."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def test_without_a_quota_all_that_the_process_may_use(system: Path) -> None:
    (system / "OWN").write_text("0::/app\n")
    write_group(system / "cgroup/app", cpu__max="max 100000\n")
    assert cpu.available_cpus() == 8


@pytest.mark.parametrize(("quota", "cpus"), [("250000 100000", 3), ("10000 100000", 1), ("9900000 100000", 8)])
def test_version_2_of_a_group_around(quota: str, cpus: int, system: Path) -> None:
    (system / "OWN").write_text("0::/app/inner\n")
    write_group(system / "cgroup/app/inner", cpu__max="max 100000\n")
    (system / "cgroup/app/cpu.max").write_text(f"{quota}\n")
    assert cpu.available_cpus() == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("150000", 2), ("-1", 8)])
def test_version_1_and_a_container_that_sees_its_group_as_the_root(quota: str, cpus: int, system: Path) -> None:
    (system / "OWN").write_text("3:cpu,cpuacct:/docker/123\n4:memory:/\n")
    write_group(system / "cgroup/cpu,cpuacct", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
    assert cpu.available_cpus() == cpus


def test_the_engine_starts_no_more_threads(system: Path, tmp_path: Path) -> None:
    (system / "OWN").write_text("0::/\n")
    write_group(system / "cgroup", cpu__max="100000 100000\n")
    model = write_tiny_model(tmp_path / "tiny.gguf")
    with Engine(model) as engine:
        assert engine.facts["n_threads"] == 1
    with Engine(model, threads=2) as engine:  # whoever asks for more gets it
        assert engine.facts["n_threads"] == 2
