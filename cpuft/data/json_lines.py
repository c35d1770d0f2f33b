"""Reads the JSON values of a file: one a line, or those of a list that was written over many lines.

UTF-8 is expected. UTF-16 and UTF-32 are read where the file says so in its first bytes, as Windows' tools write it.
A line may end as on any system. A pipe is read once and kept, because a data set is read more often.
"""

import codecs
import functools
import io
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cpuft.errors import DatasetError, ExampleError

# A file whose first line is but the beginning of its first value: a list, or an object with its first key below.
SPREAD, SPREAD_FILE = re.compile(rb"\s*(\[|\{\s*$)"), re.compile(rb'\s*(\[|\{\s*")')
BETWEEN = re.compile(r"[\s,]*")  # values of a list, or of a row
EXPECTED = "expected one JSON object a line"
# The longest first: UTF-32's mark begins as UTF-16's does.
ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_values(path: Path) -> Iterator[tuple[int, Any | ExampleError]]:
    """The values of a file with the numbers of their lines, from 1; blank lines are passed over.

    A line that is no JSON is an ExampleError in its place. Raises DatasetError where the file cannot be read.
    """
    try:
        with _open(path) as stream:
            lines = _lines(path, stream)
            first, beginning = next(((number, line) for number, line in lines if line.strip()), (1, b""))
            if SPREAD.match(beginning):
                data = b"\n".join([beginning, *(line for _, line in lines)])
                if SPREAD_FILE.match(data):
                    yield from _spread(first, data)
                    return
                lines = ((number, line) for number, line in enumerate(data.split(b"\n")[1:], first + 1))
            if beginning:
                yield first, _value(beginning)
            yield from ((number, _value(line)) for number, line in lines if line.strip())
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file, expected a dataset of JSON lines") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot read the dataset: {error.strerror}") from error


def _open(path: Path) -> BinaryIO:
    status = path.stat()
    if stat.S_ISFIFO(status.st_mode):
        return io.BytesIO(_drained(path, (status.st_dev, status.st_ino)))
    return path.open("rb")


@functools.lru_cache(maxsize=8)
def _drained(path: Path, pipe: tuple[int, int]) -> bytes:  # noqa: ARG001 - what tells it from a later one of its name
    """All that comes out of a pipe, told by its device and inode: whoever asks again gets the same."""
    return path.read_bytes()


def _lines(path: Path, stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of a file in UTF-8 with their numbers, without their ends."""
    head = stream.read(4)
    stream.seek(0)
    encoding = next((name for mark, name in ENCODINGS if head.startswith(mark)), None)
    number = 0
    for raw in stream if encoding is None else _transcoded(path, stream, encoding):
        for line in raw.splitlines():  # where lines end with CR alone, the file is a single one to Python
            number += 1
            yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _transcoded(path: Path, stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    try:
        with io.TextIOWrapper(stream, encoding=encoding, newline="\n") as lines:
            for line in lines:
                yield line.encode()
    except UnicodeError as error:
        name = encoding.upper()
        raise DatasetError(
            f"{path}: its first bytes say that it is {name}, which it is not ({error}): save it as UTF-8"
        ) from None


def _value(line: bytes) -> Any | ExampleError:
    try:
        return json.loads(line.decode(), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        return ExampleError(f"byte {error.start + 1} of the line is not UTF-8")
    except (ValueError, RecursionError) as error:
        return ExampleError(_fault(error))


def _spread(first: int, data: bytes) -> Iterator[tuple[int, Any | ExampleError]]:
    """The values of a list, or of a row of objects, that go over many lines, each with the line that it begins on.

    A fault ends them: nothing tells where the next value begins.
    """
    decoder = json.JSONDecoder(parse_constant=_no_number)
    line, counted = first, 0
    try:
        text = data.decode()
        position = _behind(text, text.find("[") + 1 if text.lstrip().startswith("[") else 0)
        while position < len(text) and text[position] != "]":
            line, counted = line + text.count("\n", counted, position), position
            value, position = decoder.raw_decode(text, position)
            yield line, value
            position = _behind(text, position)
    except UnicodeDecodeError as error:
        yield first + data.count(b"\n", 0, error.start), ExampleError("a byte of the line is not UTF-8")
    except json.JSONDecodeError as error:
        yield first + error.lineno - 1, ExampleError(_fault(error))
    except (ValueError, RecursionError) as error:
        yield line, ExampleError(_fault(error))


def _behind(text: str, position: int) -> int:
    """Where the next value begins, behind white space and commas."""
    found = BETWEEN.match(text, position)
    return found.end() if found else position


def _fault(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error.msg} at column {error.colno}, {EXPECTED}"
    if isinstance(error, RecursionError):
        return "the JSON is nested too deeply"
    return "the JSON holds a whole number of thousands of digits: write it as a text"  # Python converts 4,300 at most


def _no_number(name: str) -> None:
    """What NaN and Infinity stand for, which are no JSON: pandas writes NaN where a column has nothing."""
