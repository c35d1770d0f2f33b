"""`cpuft role` lists roles, makes one that passes its own check, and says what is wrong with others."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cpuft.cli.main import cli
from cpuft.roles import NAMES


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["role", *map(str, arguments)])


def test_the_list_has_every_role() -> None:
    listed = json.loads(run("list", "--json").output)
    assert tuple(role["name"] for role in listed) == NAMES
    assert "concept -> title, description" in run("list").output


@pytest.fixture
def clerk(tmp_path: Path) -> Path:
    assert run("new", tmp_path / "clerk").exit_code == 0
    return tmp_path / "clerk"


def test_a_new_role_is_whole(clerk: Path) -> None:
    checked = run("check", clerk)
    assert checked.exit_code == 0, checked.output
    assert "1 seed examples; nothing is wrong" in checked.output


@pytest.mark.parametrize(
    ("file", "before", "after", "sentence"),
    [
        ("prompt.md", "points", "things", "prompt.md: does not name the field points"),
        ("seeds.yaml", "concept:", "concpt:", "example 1 lacks the input concept"),
        ("seeds.yaml", "- The second thing", "", "example 1: points: "),
        ("seeds.yaml", "- The second thing", "", "example 1 scores 0.67: points is no list of at least two"),
        (
            "metric.py",
            "fields = read",
            "assert answer; fields = read",
            "metric.py: fails on the answer '' (AssertionError",
        ),
        ("metric.py", "return Score.of", "return Score(2.0); Score.of", "metric.py: gives 2.0 for the answer"),
        (
            "metric.py",
            "return Score.of",
            "return Score(1.0); Score.of",
            "gives 1.00 for the answer 'prose', which is none",
        ),
    ],
)
def test_what_is_wrong_is_said(file: str, before: str, after: str, sentence: str, clerk: Path) -> None:
    text = (clerk / file).read_text()
    assert before in text
    (clerk / file).write_text(text.replace(before, after))
    checked = run("check", clerk)
    assert checked.exit_code == 2
    assert sentence in checked.output


def test_nothing_is_overwritten_and_names_are_names(clerk: Path, tmp_path: Path) -> None:
    again = run("new", clerk)
    assert again.exit_code == 2
    assert "the folder is not empty" in again.output
    assert "is no name for a role" in run("new", tmp_path / "A B").output
