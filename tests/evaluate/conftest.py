"""What the evaluations of the bundled model share."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpuft import demo


@pytest.fixture(scope="module")
def one_cpu() -> Iterator[None]:
    """Beside other tests, threads of one server that share CPUs only wait for each other."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six of the demo's test questions, as conversations."""
    path = tmp_path_factory.mktemp("questions") / "test.jsonl"
    path.write_text("".join(demo.TEST.read_text(encoding="utf-8").splitlines(keepends=True)[:6]))
    assert all("messages" in json.loads(line) for line in path.read_text().splitlines())
    return path


@pytest.fixture
def own_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that remembers answers, of this test alone."""
    path = tmp_path / "answers.sqlite"
    monkeypatch.setattr("cpuft.evaluate.contender.answers_file", lambda: path)
    return path
