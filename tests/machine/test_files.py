"""Proves that a file or folder is written whole or not at all, whatever interrupts the writing."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cpuft.errors import ResourceError
from cpuft.machine.files import atomic_folder, atomic_write, write_text

KILLED = """
import os, signal, sys
from pathlib import Path
from cpuft.machine import files
with getattr(files, sys.argv[1])(Path(sys.argv[2])) as temporary:
    target = temporary / "part" if temporary.is_dir() else temporary
    target.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_file_appears_with_its_content_and_ordinary_rights(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_text(path, "one")
    write_text(path, "two ☃")
    assert path.read_text(encoding="utf-8") == "two ☃"
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_text(path, "old")

    def write_half(folder: bool) -> None:
        with atomic_folder(tmp_path / "d") if folder else atomic_write(path) as temporary:
            (temporary / "part" if folder else temporary).write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half(folder=False)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(KeyError):
        write_half(folder=True)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("function", ["atomic_write", "atomic_folder"])
def test_kill_leaves_the_name_free_or_as_it_was(tmp_path: Path, function: str) -> None:
    path = tmp_path / "target"
    ended = subprocess.run([sys.executable, "-c", KILLED, function, str(path)], check=False)
    assert ended.returncode == -9
    assert not path.exists()
    with atomic_folder(path) if function == "atomic_folder" else atomic_write(path):
        pass
    assert path.exists()


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(errno.ENOSPC, r"the disk is full, \d+ MB are free: free some space"), (errno.EROFS, "cannot write here")],
)
def test_a_full_disk_is_one_sentence(tmp_path: Path, number: int, sentence: str) -> None:
    for writer in (atomic_write, atomic_folder):
        with pytest.raises(ResourceError, match=rf"f: {sentence}"), writer(tmp_path / "f"):
            raise OSError(number, os.strerror(number))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "none" / "f"):
        pass
