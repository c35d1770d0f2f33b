"""Reads datasets of JSON lines: conversations, prompts with completions, or plain text.

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    {"prompt": "…", "completion": "…"}
    {"text": "…"}

Further keys of a line are ignored, and so are those whose value is null. An assistant's message with "weight": 0 (or
"train", "loss" or "trainable": false) is read, but not trained on. A fault is named by its line and does not hide the
faults after it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpuft.chat.message import ROLES, Message
from cpuft.chat.normalization import check_characters
from cpuft.data.json_lines import read_values
from cpuft.errors import DatasetError, ExampleError

FORMATS = '{"messages": […]}, {"prompt": …, "completion": …} or {"text": …}'
# By these an assistant's message says whether it is trained on: OpenAI's word, and those of other trainers.
TRAIN_KEYS = ("weight", "train", "loss", "trainable")


@dataclass(frozen=True)
class Chat:
    """A conversation whose last message is the assistant's, and trained on.

    untrained: the places of those of the assistant's messages that are not.
    """

    messages: Sequence[Message]
    tools: list[Any] | None = None
    untrained: frozenset[int] = frozenset()


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
    for line, value in read_values(path):
        n_examples += 1
        try:
            yield line, _record(value) if not isinstance(value, ExampleError) else value
        except ExampleError as fault:
            yield line, fault
    if not n_examples:
        raise DatasetError(f"{path}: the file holds no examples, expected one JSON object a line, {FORMATS}")


def _record(value: Any) -> Record:
    if not isinstance(value, dict):
        raise ExampleError(f"found {_kind(value)}, expected an object {FORMATS}")
    value = _given(value)
    shapes = [key for key in ("messages", "prompt", "text") if key in value]
    if shapes == ["messages", "prompt"] and "completion" not in value:
        shapes = ["messages"]  # as in UltraChat, whose prompt is the first message's text
    if len(shapes) != 1:
        found = " and ".join(shapes) or f"the keys {', '.join(map(repr, value)) or 'of an empty object'}"
        raise ExampleError(f"found {found}, expected exactly one of {FORMATS}")
    if shapes == ["text"]:
        return Text(_string(value, "text"))
    if shapes == ["prompt"]:
        return PromptCompletion(_string(value, "prompt"), _string(value, "completion"))
    return _chat(value)


def _given(value: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that have a value: whoever exports columns writes null where a line has none."""
    return {key: inner for key, inner in value.items() if inner is not None}


def _chat(value: Mapping[str, Any]) -> Chat:
    messages, tools = value["messages"], value.get("tools")
    if not isinstance(messages, list) or not messages:
        raise ExampleError(f"messages: found {_kind(messages)}, expected a list with at least one message")
    if tools is not None and not isinstance(tools, list):
        raise ExampleError(f"tools: found {_kind(tools)}, expected a list")
    for i, message in enumerate(messages):
        _check_message(message, f"messages[{i}]")
    check_characters(messages, "messages")
    check_characters(tools, "tools")
    if messages[-1]["role"] != "assistant":
        raise ExampleError(f"the last message is the {messages[-1]['role']}'s, expected an answer to learn")
    if messages[0]["role"] == "assistant":
        raise ExampleError("the first message is the assistant's, expected a system or user message that it answers")
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    untrained = frozenset(i for i in answers if not _is_trained(messages[i], f"messages[{i}]"))
    if len(untrained) == len(answers):
        raise ExampleError("each of the assistant's messages says not to train on it, expected an answer to learn")
    last = max(i for i in answers if i not in untrained)  # what comes after it teaches nothing
    return Chat(
        [_given(message) for message in messages[: last + 1]],
        tools or None,
        untrained - {*range(last, answers[-1] + 1)},
    )


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


def _is_trained(message: Mapping[str, Any], where: str) -> bool:
    """Whether an assistant's message is to be learnt, which the formats of others say in words of their own."""
    said = {key: message[key] for key in TRAIN_KEYS if message.get(key) is not None}
    for key, wish in said.items():
        if wish not in (0, 1):  # true and false among them
            raise ExampleError(f"{where}.{key}: found {wish!r}, expected 1 or true to train on it, 0 or false not to")
    if len({bool(wish) for wish in said.values()}) > 1:
        raise ExampleError(f"{where}: {' and '.join(said)} contradict each other about training on the message")
    return all(said.values())


def _string(value: Mapping[str, Any], key: str, prefix: str = "") -> str:
    text = value.get(key)
    if not isinstance(text, str):
        found = _kind(text) if key in value else "no such key"
        raise ExampleError(f"{prefix}{key}: found {found}, expected a text")
    if not text and key != "prompt" and not prefix:
        raise ExampleError(f"{key}: found an empty text, expected something to learn")
    check_characters(text, prefix + key)
    return text


def _kind(value: Any) -> str:
    """A JSON value's type in JSON's words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    if isinstance(value, list) and not value:
        return "an empty list"
    return names.get(type(value), "a number")
