"""Proves that a file or folder is written whole or not at all, whatever interrupts the writing."""

import errno
import fcntl
import os
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cpuft.errors import ConfigError, ResourceError
from cpuft.machine.files import (
    atomic_folder,
    atomic_write,
    require_place,
    require_regular,
    sync,
    sync_folder,
    write_text,
)
from cpuft.machine.locks import scratch_folder, sole_use, sweep, waiting_lock

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


def test_a_device_and_a_pipe_are_written_through(tmp_path: Path) -> None:
    null, pipe = tmp_path / "null", tmp_path / "pipe"
    null.symlink_to(os.devnull)  # what root would replace by a file, were it not for the link between
    os.mkfifo(pipe)
    write_text(null, "gone")
    assert stat.S_ISCHR(null.stat().st_mode)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_text)
        write_text(pipe, "through")
        assert read.result() == "through"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(ResourceError, match="full: the disk is full"):
        write_text(Path("/dev/full"), "too much")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    require_place(pipe, "the model")
    with pytest.raises(ConfigError, match="pipe: no regular file, expected the name of one for the model"):
        require_regular(pipe, "the model")


def test_standard_output_is_written_through_or_replaced_where_it_is_a_file(tmp_path: Path) -> None:
    code = "from pathlib import Path; from cpuft.machine.files import write_text; "
    command = [sys.executable, "-c", code + "write_text(Path('/dev/stdout'), 'said')"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"said"
    with (tmp_path / "file").open("w") as stream:
        subprocess.run(command, stdout=stream, check=True)
    assert (tmp_path / "file").read_text() == "said"
    assert os.listdir(tmp_path) == ["file"]


def test_links_are_followed_to_a_file_that_is_there_or_not(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("there", "new"):
        (tmp_path / name).symlink_to(Path("elsewhere") / name)
    (tmp_path / "elsewhere" / "there").write_text("old")
    for name in ("there", "new"):
        write_text(tmp_path / name, "written")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "elsewhere" / name).read_text() == "written"
    (tmp_path / "lost").symlink_to(tmp_path / "none" / "f")
    with pytest.raises(ConfigError, match="none: no such folder"):
        require_place(tmp_path / "lost", "the model")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ResourceError, match="loop: cannot write here"):
        write_text(tmp_path / "loop", "")


def test_names_that_are_too_long_are_a_sentence_and_long_ones_are_written(tmp_path: Path) -> None:
    longest = tmp_path / ("☃" * 85)  # 255 bytes
    write_text(longest, "one")
    with atomic_folder(tmp_path / ("f" * 255)):
        pass
    assert len(os.listdir(tmp_path)) == 2
    for function in (write_text, require_place, require_regular):
        with pytest.raises(ResourceError, match="cannot write here"):
            function(tmp_path / (256 * "x"), "a text or what it is")


def test_no_other_thread_sees_another_umask(tmp_path: Path) -> None:
    """Its files would be writable for everyone."""
    code = "import os, sys; from pathlib import Path; from cpuft.machine.files import write_text\n"
    code += "sys.addaudithook(lambda name, _: os._exit(9) if name == 'os.umask' else None)\n"
    code += "os.umask = lambda mask: os._exit(9)\n"
    code += "write_text(Path(sys.argv[1]), 'one')"
    subprocess.run([sys.executable, "-c", code, tmp_path / "f"], check=True)


def test_what_killed_processes_left_goes_and_what_others_write_stays(tmp_path: Path) -> None:
    path = tmp_path / "target[1]"
    subprocess.run([sys.executable, "-c", KILLED, "atomic_write", str(path)], check=False)
    (left,) = tmp_path.iterdir()
    assert left.read_text() == "half"
    with atomic_write(path) as mine:
        assert mine.read_text() == ""
        mine.write_text("mine")
        with atomic_write(path) as other:
            assert sorted(tmp_path.iterdir()) == sorted([mine, other])
        sweep(tmp_path)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / ".other.partial").touch()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_made_by_one_process_at_a_time(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "d") as first:
        sweep(tmp_path)
        with pytest.raises(ConfigError, match="d: another process is making it"), atomic_folder(tmp_path / "d"):
            pass
        (first / "f").write_text("whole")
    assert (tmp_path / "d" / "f").read_text() == "whole"


def test_where_a_file_system_has_no_locks_work_goes_on_and_nothing_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)  # no such file system can be mounted here
    (tmp_path / ".f.other.partial").touch()
    write_text(tmp_path / "f", "one")
    with atomic_folder(tmp_path / "d"), scratch_folder(tmp_path / "s"), waiting_lock(tmp_path / "l", lambda: None):
        pass
    with sole_use(tmp_path, "testing") as note:
        assert note is not None
        assert note.endswith("is on a file system without locks: keep other runs out of it yourself")
    assert (tmp_path / "f").read_text() == "one"
    assert (tmp_path / ".f.other.partial").exists()


def test_a_folder_that_cannot_be_synced_is_no_fault() -> None:
    sync(Path("/proc"))  # EINVAL, as from many a network drive
    sync_folder(Path("/proc/none"))


def test_an_error_of_a_file_elsewhere_names_that_file(tmp_path: Path) -> None:
    """Such as a full folder of temporary files."""
    output, other = tmp_path / "out" / "model.gguf", tmp_path / "tmp" / "log"
    output.parent.mkdir()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(other))
    with pytest.raises(ResourceError, match="^" + re.escape(f"{other}: the disk is full")), atomic_write(output):
        raise full
    copied = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(other), None, f"{output.parent}/.model.gguf.partial")
    with pytest.raises(ResourceError, match="^" + re.escape(f"{output}: the disk is full")), atomic_write(output):
        raise copied


SCRATCH = """
import os, sys
from pathlib import Path
from cpuft.errors import ConfigError
from cpuft.machine.locks import scratch_folder
mark = Path(sys.argv[1] + ".mark")
for _ in range(400):
    try:
        with scratch_folder(Path(sys.argv[1])) as folder:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))  # fails where another process is in it, too
            (folder / "file").touch()
            mark.unlink()
    except ConfigError:
        pass
"""


def test_the_scratch_folder_has_one_process_at_a_time(tmp_path: Path) -> None:
    """Its lock goes with it: whoever waits at the door of a removed folder must not be let in."""
    command = [sys.executable, "-c", SCRATCH, str(tmp_path / "out")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == ["", "", ""]
    assert list(tmp_path.iterdir()) == []
