"""Proves that datasets of all three forms are read, and that each fault is named by its line and its key."""

import json
from pathlib import Path
from typing import Any

import pytest

from cpuft.data.records import Chat, PromptCompletion, Record, Text, read_records
from cpuft.errors import DatasetError, ExampleError

ASK = {"role": "user", "content": "a"}
SAY = {"role": "assistant", "content": "b"}


def read(path: Path, content: str | bytes) -> list[tuple[int, Record | ExampleError]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_records(path))


def test_three_forms_and_blank_lines(tmp_path: Path) -> None:
    lines = [json.dumps({"messages": [ASK, SAY], "id": 7}), "", '{"prompt": "p", "completion": "c"}', '{"text": "t"}']
    records = read(tmp_path / "d.jsonl", "\ufeff" + "\r\n".join(lines))
    assert records == [(1, Chat([ASK, SAY])), (3, PromptCompletion("p", "c")), (4, Text("t"))]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "not valid JSON: Expecting property name enclosed in double quotes at column 2"),
        ("[1]", "found a list, expected an object"),
        ("{}", "found the keys of an empty object, expected exactly one of"),
        ('{"message": []}', "found the keys 'message', expected exactly one of"),
        ('{"text": "a", "prompt": "b"}', "found prompt and text, expected exactly one of"),
        ('{"text": 3}', "text: found a number, expected a text"),
        ('{"text": ""}', "text: found an empty text"),
        ('{"prompt": "p"}', "completion: found no such key, expected a text"),
        ('{"text": "\\ud800"}', "half of a surrogate pair"),
        ('{"messages": []}', "messages: found an empty list"),
        ('{"messages": {}}', "messages: found an object"),
        ([1, SAY], "messages[0]: found a number"),
        ([{"role": "human", "content": "a"}, SAY], "messages[0].role: found 'human', expected system"),
        ([{"role": ["user"], "content": "a"}, SAY], "messages[0].role: found ['user'], expected system"),
        ([{"role": "user"}, SAY], "messages[0].content: found no such key"),
        ([{"role": "user", "content": None}, SAY], "messages[0].content: found null"),
        ([ASK, {"role": "assistant", "content": " \n"}], "messages[1].content: the assistant says nothing"),
        ([ASK], "the last message is the user's"),
        ([SAY], "the first message is the assistant's"),
        (b'{"text": "\xff"}', "byte 11 of the line is not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_fault_says_what_was_found(tmp_path: Path, line: Any, fault: str) -> None:
    content = json.dumps({"messages": line}) if isinstance(line, list) else line
    before, after = b'{"text": "a"}\n', b'\n{"text": "b"}'
    raw = content if isinstance(content, bytes) else content.encode()
    records = read(tmp_path / "d.jsonl", before + raw + after)
    assert [number for number, _ in records] == [1, 2, 3]
    assert isinstance(records[1][1], ExampleError)
    assert fault in str(records[1][1])
    assert records[2][1] == Text("b")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(DatasetError, match=r"d\.jsonl: the file holds no examples"):
        read(tmp_path / "d.jsonl", content)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file, expected a dataset of JSON lines"):
        list(read_records(tmp_path / "none.jsonl"))
    with pytest.raises(DatasetError, match="cannot read the dataset: Is a directory"):
        list(read_records(tmp_path))
