"""Proves that free memory is what the system and every control group around this process still allow."""

from pathlib import Path

from cpuft.machine import memory
from tests.machine.conftest import write_group


def test_the_system_alone(system: Path) -> None:
    assert memory.available_within() == (4_096_000, "what this machine has free")
    (system / "MEMINFO").write_text("MemTotal: 8000 kB\n")
    assert memory.available_memory() == memory.total_memory() // 2


def test_version_2_counts_cached_files_as_free(system: Path) -> None:
    (system / "OWN").write_text("0::/app/inner\n")
    stat = "anon 5\ninactive_file 2000\nactive_file 1000\n"
    write_group(system / "cgroup/app/inner", memory__max="max\n", memory__current="1\n", memory__stat=stat)
    assert memory.available_memory() == 4_096_000
    write_group(system / "cgroup" / "x")  # another group's limit is not ours
    write_group(system / "cgroup/x/y", memory__max="5", memory__current="1", memory__stat=stat)
    (system / "cgroup/app/memory.max").write_text("1000000\n")  # of the group around
    (system / "cgroup/app/memory.current").write_text("400000\n")
    (system / "cgroup/app/memory.stat").write_text(stat)
    assert memory.available_within() == (1_000_000 - 400_000 + 3000, memory.GROUP)


def test_version_1_and_a_container_that_sees_its_group_as_the_root(system: Path) -> None:
    (system / "OWN").write_text("4:memory:/docker/123\n2:cpu:/\n0::/\n")
    files = {"memory__limit_in_bytes": "900000", "memory__usage_in_bytes": "950000", "memory__stat": "cache 0\n"}
    write_group(system / "cgroup/memory", **files)
    assert memory.available_memory() == 0


def test_this_machine() -> None:
    assert 1 << 20 < memory.available_memory() <= memory.total_memory()
