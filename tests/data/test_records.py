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
        ([ASK, {**SAY, "weight": 0.5}], "messages[1].weight: found 0.5, expected 1 or true to train on it"),
        ([ASK, {**SAY, "train": "no"}], "messages[1].train: found 'no', expected 1 or true to train on it"),
        ([ASK, {**SAY, "weight": 0, "train": True}], "messages[1]: weight and train contradict each other"),
        ([ASK, {**SAY, "weight": 0}], "each of the assistant's messages says not to train on it"),
        ([ASK, {**SAY, "reasoning_content": "\ud800"}], "messages[1].reasoning_content: it holds half of a surrogate"),
        ([ASK, {**SAY, "tool_calls": [{"function": {"arguments": {"\udc00": 1}}}]}], "arguments: it holds half of a"),
        ('{"messages": [{}], "tools": ["\\ud800"]}', "messages[0].role: found None"),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", "holds a whole number of thousands of digits: write it as a text"),
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


def test_half_of_a_surrogate_pair_in_a_tool(tmp_path: Path) -> None:
    line = json.dumps({"messages": [ASK, SAY], "tools": [{"function": {"name": "\ud800"}}]})
    ((_, fault),) = read(tmp_path / "d.jsonl", line)
    assert str(fault) == "tools[0].function.name: it holds half of a surrogate pair, which is no character"


def test_a_column_of_null_is_none(tmp_path: Path) -> None:
    """As Arrow exports a table whose lines have different keys."""
    ask, say = ({**message, "tool_calls": None, "name": None, "weight": None} for message in (ASK, SAY))
    lines = [
        {"messages": [ask, say], "prompt": None, "completion": None, "text": None, "tools": None},
        {"messages": None, "prompt": "p", "completion": "c", "text": None},
        {"messages": None, "prompt": None, "text": "t"},
    ]
    records = read(tmp_path / "d.jsonl", "\n".join(map(json.dumps, lines)))
    assert [record for _, record in records] == [Chat([ASK, SAY]), PromptCompletion("p", "c"), Text("t")]


def test_not_a_number_is_none(tmp_path: Path) -> None:
    """As pandas exports a table whose lines have different keys."""
    assert read(tmp_path / "d.jsonl", '{"text": "t", "prompt": NaN}') == [(1, Text("t"))]


def test_a_prompt_beside_messages_is_theirs(tmp_path: Path) -> None:
    """As in UltraChat. With a completion there would be two things to learn, and none of them is chosen."""
    line = {"prompt": "a", "prompt_id": "7", "messages": [ASK, SAY]}
    assert read(tmp_path / "d.jsonl", json.dumps(line)) == [(1, Chat([ASK, SAY]))]
    ((_, fault),) = read(tmp_path / "d.jsonl", json.dumps({**line, "completion": "b"}))
    assert "found messages and prompt, expected exactly one of" in str(fault)


@pytest.mark.parametrize("wish", [{"weight": 0}, {"train": False}, {"loss": False}, {"trainable": False}, {"loss": 0}])
def test_an_answer_that_is_not_to_be_trained_on(tmp_path: Path, wish: dict[str, Any]) -> None:
    weak = {**SAY, **wish}
    wanted = {**SAY, **dict.fromkeys(wish, 1)}
    (_, record), *_ = read(tmp_path / "d.jsonl", json.dumps({"messages": [ASK, weak, ASK, wanted, ASK, weak]}))
    assert record == Chat([ASK, weak, ASK, wanted], untrained=frozenset({1}))  # what comes after it teaches nothing


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(DatasetError, match=r"d\.jsonl: the file holds no examples"):
        read(tmp_path / "d.jsonl", content)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file, expected a dataset of JSON lines"):
        list(read_records(tmp_path / "none.jsonl"))
    with pytest.raises(DatasetError, match="cannot read the dataset: Is a directory"):
        list(read_records(tmp_path))
