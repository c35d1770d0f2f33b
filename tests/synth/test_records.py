"""Examples are read as users have them, written whole, and survive a killed process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cpuft.errors import DatasetError
from cpuft.roles import Role
from cpuft.roles.answer import read_answer, write_answer
from cpuft.synth.records import Appender, RoleRecord, chat_of, read_records, write_records
from tests.synth.conftest import document, record

ANSWER = document("tea")


@pytest.mark.parametrize(
    "line",
    [
        {"concept": " A shop ", "requirements": ANSWER, "source": "human"},
        {"input": "A shop", "requirements_yaml": write_answer(ANSWER), "source": "human"},
        {"question": "A shop", "output": write_answer(ANSWER), "source": "human", "domain": None},
        {
            "messages": [
                {"role": "system", "content": "Be good."},
                {"role": "user", "content": "Concept: A shop"},
                {"role": "assistant", "content": write_answer(ANSWER)},
            ],
            "source": "human",
        },
    ],
)
def test_users_files_are_read_as_they_are(line: dict[str, object], role: Role, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(json.dumps(line) + "\n\n")
    (read,) = read_records(tmp_path / "own.jsonl", role)
    assert (read.inputs, read_answer(read.answer), read.facts) == ({"concept": "A shop"}, ANSWER, {"source": "human"})
    assert read.place == f"{tmp_path}/own.jsonl:1"


def test_what_is_written_is_read_again(role: Role, tmp_path: Path) -> None:
    odd = RoleRecord({"concept": "Ünï — “quotes”"}, "no: [document", {"score": 0.1})
    records = [record("a", score=1.0, domain="x"), odd]
    write_records(tmp_path / "r.jsonl", records, role)
    again = read_records(tmp_path / "r.jsonl", role)
    assert [(one.inputs, one.answer, one.facts) for one in again] == [(r.inputs, r.answer, r.facts) for r in records]


def test_faults_name_their_lines(role: Role, tmp_path: Path) -> None:
    lines = ["[]", "{", '{"concept": ""}', '{"concept": "a"}', '{"concept": "a", "answer": 3}', '{"messages": [3]}']
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    with pytest.raises(DatasetError) as caught:
        read_records(tmp_path / "bad.jsonl", role)
    assert all(f"bad.jsonl:{n}: " in str(caught.value) for n in range(1, 7))
    assert "no answer, expected it under requirements or requirements_yaml or answer" in str(caught.value)
    (tmp_path / "empty.jsonl").write_text("\n")
    for name, sentence in (("empty.jsonl", "holds no examples"), ("none.jsonl", "no such file")):
        with pytest.raises(DatasetError, match=sentence):
            read_records(tmp_path / name, role)


def test_a_conversation_has_the_short_prompt(role: Role) -> None:
    system, user, answer = chat_of(record("a shop"), role)["messages"]
    assert (system["content"], user["content"]) == (role.short_prompt, "Concept: a shop")
    assert read_answer(answer["content"]) == document("a shop")


APPEND = """
import itertools, sys
from pathlib import Path
from cpuft.roles import find_role
from cpuft.synth.records import Appender, RoleRecord
appender = Appender(Path(sys.argv[1]), find_role("ba"))
for n in itertools.count():
    appender.add(RoleRecord({"concept": f"number {n}"}, "title: " + "x" * 5000))
    print(n, flush=True)
"""


def test_a_killed_process_loses_nothing_that_it_said_it_had(role: Role, tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    with subprocess.Popen([sys.executable, "-c", APPEND, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(20):
            last = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
    with path.open("ab") as stream:
        stream.write(b'{"concept": "half of a li')  # as a kill in the middle of a write leaves it
    appender = Appender(path, role)
    appender.add(record("after"))
    appender.close()
    asked = [one.asked for one in read_records(path, role)]
    assert asked[: last + 1] == [f"number {n}" for n in range(last + 1)]
    assert asked[-1] == "after"
