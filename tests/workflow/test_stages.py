"""Stages are done once, again where their inputs have changed, and on where they were stopped."""

from pathlib import Path

import pytest

from cpuft.errors import ConfigError
from cpuft.workflow.stages import Stages


class Work:
    """Appends to a file, and counts how often it was done."""

    def __init__(self, path: Path, *, fails: bool = False) -> None:
        self.path, self.fails, self.times = path, fails, 0

    def __call__(self) -> None:
        """Does it."""
        self.times += 1
        with self.path.open("a") as stream:
            stream.write("x")
        if self.fails:
            raise KeyboardInterrupt


def test_a_stage_is_done_once(tmp_path: Path) -> None:
    work = Work(tmp_path / "out")
    assert Stages(tmp_path).run("one", {"n": 1}, [work.path], work)
    assert not Stages(tmp_path).run("one", {"n": 1}, [work.path], work)  # another process
    assert work.times == 1


def test_other_inputs_begin_anew(tmp_path: Path) -> None:
    work, source = Work(tmp_path / "out"), tmp_path / "in"
    for content, expected in (("a", 1), ("b", 2), ("b", 2), ("a", 3)):
        source.write_text(content)
        Stages(tmp_path).run("one", {"source": source}, [work.path], work)
        assert work.times == expected
        assert work.path.read_text() == "x"  # not added to what was there before


def test_a_stopped_stage_goes_on(tmp_path: Path) -> None:
    work = Work(tmp_path / "out", fails=True)
    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path).run("one", {"n": 1}, [work.path], work)
    work.fails = False
    assert Stages(tmp_path).run("one", {"n": 1}, [work.path], work)
    assert work.path.read_text() == "xx"
    assert not Stages(tmp_path).run("one", {"n": 1}, [work.path], work)


def test_an_output_that_is_gone_or_changed_is_made_again(tmp_path: Path) -> None:
    work, stages = Work(tmp_path / "out"), Stages(tmp_path)
    stages.run("one", {}, [work.path], work)
    work.path.unlink()
    assert stages.run("one", {}, [work.path], work)
    work.path.write_text("someone's own")
    assert stages.run("one", {}, [work.path], work)


def test_what_nobody_here_made_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("someone's own")
    with pytest.raises(ConfigError, match="out: it is there already, and was not made here"):
        Stages(tmp_path).run("one", {}, [tmp_path / "out"], Work(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "someone's own"


def test_a_damaged_state_is_no_leave_to_remove(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"one": ')
    with pytest.raises(ConfigError, match="damaged, so nobody knows what is done"):
        Stages(tmp_path)


def test_the_order_of_a_set_is_no_input(tmp_path: Path) -> None:
    """It differs from process to process, so that nothing would ever be kept: such values are refused."""
    with pytest.raises(TypeError, match="not JSON serializable"):
        Stages(tmp_path).run("one", {"keys": frozenset("abc")}, [], Work(tmp_path / "out"))
