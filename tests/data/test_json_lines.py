"""Proves that the values of a file are found however it was written, each with its line, and read from a pipe twice."""

import codecs
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from cpuft.data.json_lines import read_values
from cpuft.errors import DatasetError, ExampleError

VALUES = [{"text": "naïve ☃"}, {"text": "two\u2028lines of one", "n": [1]}, {"text": "🎉"}]


def read(path: Path, content: str | bytes) -> list[tuple[int, Any]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(line, str(value) if isinstance(value, ExampleError) else value) for line, value in read_values(path)]


def lines(end: str) -> str:
    return end.join(json.dumps(value, ensure_ascii=False) for value in VALUES) + end


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system(tmp_path: Path, end: str) -> None:
    assert read(tmp_path / "d.jsonl", lines(end)) == list(enumerate(VALUES, 1))
    assert read(tmp_path / "d.jsonl", end + lines(end)) == list(enumerate(VALUES, 2))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_that_the_first_bytes_tell(tmp_path: Path, encoding: str, end: str) -> None:
    mark = {
        "utf-8-sig": b"",
        "utf-16-le": codecs.BOM_UTF16_LE,
        "utf-16-be": codecs.BOM_UTF16_BE,
        "utf-32-le": codecs.BOM_UTF32_LE,
        "utf-32-be": codecs.BOM_UTF32_BE,
    }[encoding]
    assert read(tmp_path / "d.jsonl", mark + lines(end).encode(encoding)) == list(enumerate(VALUES, 1))


def test_first_bytes_that_lie(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"d\.jsonl: its first bytes say that it is UTF-16, .*: save it as UTF-8"):
        read(tmp_path / "d.jsonl", codecs.BOM_UTF16_LE + b'{"text": "a"}\n\x00')


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (json.dumps(VALUES), [1, 1, 1]),
        (json.dumps(VALUES, indent=2), [2, 5, 11]),
        ("\n" + json.dumps(VALUES, indent=2, ensure_ascii=False), [3, 6, 12]),
        ("\n".join(json.dumps(value, indent=2) for value in VALUES), [1, 4, 10]),
    ],
)
def test_values_over_many_lines(tmp_path: Path, content: str, found: list[int]) -> None:
    assert read(tmp_path / "d.json", content) == list(zip(found, VALUES, strict=True))


def test_a_fault_of_a_list_is_named_by_its_line(tmp_path: Path) -> None:
    values = read(tmp_path / "d.json", '[\n  {"text": "a"},\n  {"text": }\n]')
    assert values == [
        (2, {"text": "a"}),
        (3, "not valid JSON: Expecting value at column 12, expected one JSON object a line"),
    ]
    assert read(tmp_path / "d.json", b'[\n{"text": "a"},\n{"text": "\xff"}]') == [
        (3, "a byte of the line is not UTF-8")
    ]


def test_a_line_that_begins_an_object_is_a_fault_of_its_own(tmp_path: Path) -> None:
    values = read(tmp_path / "d.jsonl", '{\n\n{"text": "a"}\n')
    assert [line for line, _ in values] == [1, 3]
    assert values[1] == (3, {"text": "a"})


def test_a_pipe_is_read_twice(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(lines("\n"),))
    writer.start()
    first, again = list(read_values(pipe)), list(read_values(pipe))
    writer.join()
    assert first == again == list(enumerate(VALUES, 1))
