"""A machine whose memory and control groups a test writes down."""

from pathlib import Path

import pytest

from cpuft.machine import cgroups, memory

MEMINFO = "MemTotal: 8000 kB\nMemAvailable: 4000 kB\n"


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system with 4 096 000 bytes available and no control group: OWN says which, cgroup/ holds their files."""
    (tmp_path / "MEMINFO").write_text(MEMINFO)
    (tmp_path / "OWN").write_text("")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "MEMINFO")
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "OWN")
    monkeypatch.setattr(cgroups, "ROOT", tmp_path / "cgroup")
    return tmp_path


def write_group(folder: Path, **files: str) -> None:
    """Writes a group's files; a dot in a name is two underscores here."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
