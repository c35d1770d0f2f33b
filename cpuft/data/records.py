"""Reads datasets of JSON lines: conversations, prompts with completions, or plain text.

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    {"prompt": "…", "completion": "…"}
    {"text": "…"}

Further keys of a line are ignored. A fault is named by its line and does not hide the faults after it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpuft.chat.message import ROLES, Message
from cpuft.errors import DatasetError, ExampleError

FORMATS = '{"messages": […]}, {"prompt": …, "completion": …} or {"text": …}'


@dataclass(frozen=True)
class Chat:
    """A conversation whose last message is the assistant's."""

    messages: Sequence[Message]
    tools: list[Any] | None = None


@dataclass(frozen=True)
class PromptCompletion:
    """A prompt and what shall follow it, both as they stand, without a chat template."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Text:
    """A text of which every token is trained on."""

    text: str


Record = Chat | PromptCompletion | Text


def read_records(path: Path) -> Iterator[tuple[int, Record | ExampleError]]:
    """The examples of a file with their line numbers, from 1; blank lines are passed over.

    Raises DatasetError where the file cannot be read or holds no example at all.
    """
    n_examples = 0
    try:
        with path.open("rb") as stream:
            for line, raw in enumerate(stream, 1):
                raw = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
                if not raw.strip():
                    continue
                n_examples += 1
                try:
                    yield line, _record(_decode(raw))
                except ExampleError as fault:
                    yield line, fault
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file, expected a dataset of JSON lines") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot read the dataset: {error.strerror}") from error
    if not n_examples:
        raise DatasetError(f"{path}: the file holds no examples, expected one JSON object a line, {FORMATS}")


def _decode(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode().rstrip("\r\n"))
    except UnicodeDecodeError as error:
        raise ExampleError(f"byte {error.start + 1} of the line is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ExampleError(f"not valid JSON: {error.msg} at column {error.colno}, expected {FORMATS}") from None
    except RecursionError:
        raise ExampleError("the JSON is nested too deeply") from None


def _record(value: Any) -> Record:
    if not isinstance(value, dict):
        raise ExampleError(f"found {_kind(value)}, expected an object {FORMATS}")
    shapes = [key for key in ("messages", "prompt", "text") if key in value]
    if len(shapes) != 1:
        found = " and ".join(shapes) or f"the keys {', '.join(map(repr, value)) or 'of an empty object'}"
        raise ExampleError(f"found {found}, expected exactly one of {FORMATS}")
    if shapes == ["text"]:
        return Text(_string(value, "text"))
    if shapes == ["prompt"]:
        return PromptCompletion(_string(value, "prompt"), _string(value, "completion"))
    return _chat(value)


def _chat(value: Mapping[str, Any]) -> Chat:
    messages, tools = value["messages"], value.get("tools")
    if not isinstance(messages, list) or not messages:
        raise ExampleError(f"messages: found {_kind(messages)}, expected a list with at least one message")
    if tools is not None and not isinstance(tools, list):
        raise ExampleError(f"tools: found {_kind(tools)}, expected a list")
    for i, message in enumerate(messages):
        _check_message(message, f"messages[{i}]")
    if messages[-1]["role"] != "assistant":
        raise ExampleError(f"the last message is the {messages[-1]['role']}'s, expected an answer to learn")
    if messages[0]["role"] == "assistant":
        raise ExampleError("the first message is the assistant's, expected a system or user message that it answers")
    return Chat(messages, tools)


def _check_message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise ExampleError(f'{where}: found {_kind(message)}, expected {{"role": …, "content": …}}')
    role = message.get("role")
    if role not in ROLES:
        raise ExampleError(f"{where}.role: found {role!r}, expected {', '.join(ROLES[:-1])} or {ROLES[-1]}")
    if role == "assistant" and message.get("tool_calls") and message.get("content") is None:
        return
    content = _string(message, "content", where + ".")
    if role == "assistant" and not content.strip() and not message.get("tool_calls"):
        raise ExampleError(f"{where}.content: the assistant says nothing, expected a text to learn")


def _string(value: Mapping[str, Any], key: str, prefix: str = "") -> str:
    text = value.get(key)
    if not isinstance(text, str):
        found = _kind(text) if key in value else "no such key"
        raise ExampleError(f"{prefix}{key}: found {found}, expected a text")
    if not text and key != "prompt" and not prefix:
        raise ExampleError(f"{key}: found an empty text, expected something to learn")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ExampleError(f"{prefix}{key}: it holds half of a surrogate pair, which is no character")
    return text


def _kind(value: Any) -> str:
    """A JSON value's type in JSON's words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    if isinstance(value, list) and not value:
        return "an empty list"
    return names.get(type(value), "a number")
