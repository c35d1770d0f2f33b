"""Checks that the text of a conversation says what the data say: each message once, and an answer within its answer.

A chat template is a program from elsewhere. It may leave a message out, write it twice, or cut the thoughts off an
answer, and a model would learn what nobody wrote. White space is a template's own matter.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from cpuft.chat.message import Message
from cpuft.errors import ExampleError

FLAGS = ("/no_think", "/think", "/system_override")  # SmolLM3's template obeys these and takes them out of a prompt
THOUGHTS_END = "</think>"  # what an assistant thought earlier, templates leave out of the prompts that follow
LONGEST_ASKED = 64  # characters of an answer's beginning, such as <think>, that a template puts into the prompt
MEND = "take it out of the line, or give the text as prompt and completion"


class Answer(NamedTuple):
    """The characters [start, stop) of a text are the assistant's, its messages[turn]; `said`: where its words end."""

    turn: int
    start: int
    said: int
    stop: int


class Written(NamedTuple):
    """A conversation through messages[last] as a text, and those answers in it that are trained on."""

    text: str
    answers: list[Answer]
    last: int


def check_complete(messages: Sequence[Message], written: Written) -> None:
    """Raises ExampleError, which names the message, where the text lacks a part of these normalised messages."""
    answers = {answer.turn: answer for answer in written.answers}
    for i, message in enumerate(messages[: written.last + 1]):
        if i in answers:
            _, start, _, stop = answers[i]
            lost = next((name for name, part in _parts(message) if not _says(written.text, part, start, stop)), None)
            place = "its answer"
        else:
            stop = next((answer.start for answer in written.answers if answer.turn > i), len(written.text))
            lost = None if _says_earlier(written.text, message, stop) else "content"
            place = "what comes before the answer"
        if lost is not None:
            raise ExampleError(f"messages[{i}].{lost}: the chat template leaves it out of {place}: {MEND}")


def marked(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The same conversation with a mark for each content and for each call's arguments, which `check_marks` counts."""
    changed = []
    for i, message in enumerate(messages):
        marks = _marks(message, i)
        calls = [
            {**call, "function": {**call["function"], "arguments": dict.fromkeys(_first_key(call), marks[_called(n)])}}
            for n, call in enumerate(message.get("tool_calls", ()))
        ]
        content = {"content": marks.get("content", message["content"])}
        changed.append({**message, **content, **({"tool_calls": calls} if calls else {})})
    return changed


def check_marks(messages: Sequence[Message], written: Written) -> None:
    """Raises ExampleError where a mark of `marked` messages does not stand in their text exactly once."""
    for i, message in enumerate(messages[: written.last + 1]):
        for name, mark in _marks(message, i).items():
            times = written.text.count(mark)
            if times != 1:
                found = f"writes it {times} times" if times else "leaves it out of the text"
                raise ExampleError(f"messages[{i}].{name}: the chat template {found}: {MEND}")


def shape_of(messages: Sequence[Message]) -> tuple[Any, ...]:
    """What `marked` keeps of a conversation: the marks of conversations of one shape need to be counted once."""
    return tuple(
        (
            m["role"],
            bool(m["content"].strip()),
            "reasoning_content" in m,
            tuple(map(_first_key, m.get("tool_calls", ()))),
        )
        for m in messages
    )


def _parts(message: Message) -> Iterator[tuple[str, str]]:
    """Whatever an answer must say, each with its name."""
    yield "content", message["content"]
    yield "reasoning_content", message.get("reasoning_content", "")
    for n, call in enumerate(message.get("tool_calls", ())):
        yield f"tool_calls[{n}].function.name", call["function"]["name"]
        for leaf in _leaves(call["function"]["arguments"]):
            yield _called(n), leaf


def _leaves(value: Any) -> Iterator[str]:
    """The names and texts inside a JSON value; numbers are written in too many ways to be looked for."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)


def _says(text: str, part: str, start: int, stop: int) -> bool:
    """Whether text[start:stop] has a part as it is, or as JSON, or but for white space and flags.

    Of an answer, the prompt may hold the beginning already.
    """
    part = part.strip()
    written = (part, json.dumps(part, ensure_ascii=False)[1:-1], json.dumps(part)[1:-1])
    if any(text.find(way, start, stop) >= 0 for way in written):
        return True
    before = text[max(start - LONGEST_ASKED, 0) : start].rstrip()
    asked = next((n for n in range(min(len(part), len(before)), 0, -1) if before.endswith(part[:n])), 0)
    return _compact(part[asked:]) in _compact(text[start:stop])


def _says_earlier(text: str, message: Message, stop: int) -> bool:
    content = message["content"]
    if _says(text, content, 0, stop):
        return True
    return message["role"] == "assistant" and _says(text, content.rpartition(THOUGHTS_END)[2], 0, stop)


def _compact(text: str) -> str:
    for flag in FLAGS:
        text = text.replace(flag, "")
    return "".join(text.split())


def _marks(message: Message, i: int) -> dict[str, str]:
    names = ["content"] if message["content"].strip() else []
    names += [_called(n) for n in range(len(message.get("tool_calls", ())))]
    return {name: f"cpuft-mark-{i}-{n}-" for n, name in enumerate(names)}


def _called(n: int) -> str:
    return f"tool_calls[{n}].function.arguments"


def _first_key(call: Any) -> tuple[str, ...]:
    return (next(iter(call["function"]["arguments"]), "argument"),)
