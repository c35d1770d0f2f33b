"""The one way by which messages come to a chat template: the way on which llama.cpp's server takes them.

A data set writes a conversation in many ways that mean the same: a call's arguments as an object or as its JSON, no
content or null, the role "developer", keys that no template knows. The server brings them all into one form and then
into what the model's template takes. The same is done here, so that what is trained on is what the model will be asked.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from cpuft.chat.message import Message
from cpuft.errors import ExampleError

PROBE = "cpuft-probe"  # stands for words that no template says itself
CALLS = '{"type": "function", "function": {"name": …, "arguments": an object or its JSON}}'
TOOLS = '{"type": "function", "function": {"name": …, "description": …, "parameters": an object}}'
# Without trimming, a model of this template, StepFun's, thinks in circles: the server trims for it.
TRIMMED = "You have access to the following functions in JSONSchema format"
SURROGATE = re.compile("[\ud800-\udfff]")
HARMONY = "<|channel|>"  # in gpt-oss's template, whose developer is another than its system

Render = Callable[..., str]  # of ChatTemplate: messages that are normalised already, and tools


@dataclass(frozen=True)
class Taken:
    """What a chat template takes.

    system:    it reads a system message's content; if not, that goes before the next message's.
    developer: it knows the role "developer", which is the system's to all others.
    objects:   it goes into a tool call's arguments; if not, they are the text of a JSON object.
    only_parts: it reads content as a list of parts, and not as a text.
    trimmed:   contents come to it without white space around them.
    """

    system: bool = True
    developer: bool = False
    objects: bool = True
    only_parts: bool = False
    trimmed: bool = False


def normalized(messages: Sequence[Message], taken: Taken) -> list[dict[str, Any]]:
    """Messages in the form that a template is given. Raises ExampleError, which names the message and the key."""
    served = [_message(message, f"messages[{i}]", taken) for i, message in enumerate(messages)]
    if not taken.system and served and served[0]["role"] == "system":
        system, *served = served
        if served:
            served[0] = {**served[0], "content": f"{system['content']}\n{served[0]['content']}"}
    if taken.only_parts:
        served = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in served]
    return served


def normalized_tools(tools: Sequence[Any] | None) -> list[dict[str, Any]] | None:
    """Descriptions of tools in the form that a template is given, None where there are none. Raises ExampleError."""
    return [_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)] if tools else None


def check_characters(value: Any, where: str) -> None:
    """Refuses, with ExampleError, a text that is no text: JSON can write half of a surrogate pair, UTF-8 cannot."""
    if isinstance(value, str):
        if SURROGATE.search(value):
            raise ExampleError(f"{where}: it holds half of a surrogate pair, which is no character")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            check_characters(key, f"a key of {where}")
            check_characters(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            check_characters(inner, f"{where}[{i}]")


def taken_by(source: str, render: Render) -> Taken:
    """What a template takes, found as llama.cpp finds it: by what it does with conversations made for that."""
    trimmed, developer = TRIMMED in source, HARMONY in source
    only_parts = not _says_probe(render, _Words(PROBE)) and _says_probe(render, [{"type": "text", "text": PROBE}])
    return Taken(_reads_system(render), developer, _goes_into_arguments(render), only_parts, trimmed)


def _message(message: Message, where: str, taken: Taken) -> dict[str, Any]:
    """A message of the keys that the server knows, in its order, which templates that write them as JSON show."""
    role = str(message["role"])
    plain: dict[str, Any] = {
        "role": "system" if role == "developer" and not taken.developer else role,
        "content": _text(message, "content", where),
    }
    for key in ("reasoning_content", "name", "tool_call_id"):
        text = _text(message, key, where)
        if text:
            plain[key] = text
    if taken.trimmed:
        plain.update({key: plain[key].strip() for key in ("content", "reasoning_content") if key in plain})
    calls = message.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise ExampleError(f"{where}.tool_calls: found {_shown(calls)}, expected a list of {CALLS}")
    if calls:
        plain["tool_calls"] = [_call(c, f"{where}.tool_calls[{i}]", taken.objects) for i, c in enumerate(calls)]
    return plain


def _call(call: Any, where: str, objects: bool) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ExampleError(f"{where}: found {_shown(call)}, expected {CALLS}")
    arguments, given = _arguments(function, where), function.get("arguments")
    if not objects:
        text = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
        arguments = given if isinstance(given, str) else text
    served = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    identifier = _text(call, "id", where)
    return {**served, "id": identifier} if identifier else served


def _arguments(function: Mapping[str, Any], where: str) -> Any:
    """The arguments of a call as an object, in whichever of both ways they are written."""
    where = f"{where}.function.arguments"
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            why = f": {error.msg}" if isinstance(error, json.JSONDecodeError) else ""
            raise ExampleError(f"{where}: not valid JSON{why}, expected {CALLS}") from None
    if arguments is None or arguments == "":
        return {}
    if not isinstance(arguments, dict):
        raise ExampleError(f"{where}: found {_shown(arguments)}, expected {CALLS}")
    check_characters(arguments, where)
    return arguments


def _tool(tool: Any, where: str) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ExampleError(f"{where}: found {_shown(tool)}, expected {TOOLS}")
    parameters = function.get("parameters")
    description = _text(function, "description", where)
    inner = {
        "name": function["name"],
        "description": description,
        "parameters": {} if parameters is None else parameters,
    }
    return {"type": "function", "function": inner}


def _text(value: Mapping[str, Any], key: str, where: str) -> str:
    """A text, "" where there is none: null says no more than a key that is absent."""
    text = value.get(key)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ExampleError(f"{where}.{key}: found {_shown(text)}, expected a text")
    return text


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=repr)
    return text if len(text) <= 80 else text[:79] + "…"


class _Watched(dict[str, Any]):
    """A message that knows whether its content was looked at."""

    looked = False

    def __getitem__(self, key: str) -> Any:
        self.looked = self.looked or key == "content"
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.looked = self.looked or key == "content"
        return super().get(key, default)

    def items(self) -> Any:
        self.looked = True
        return super().items()


class _Words(str):
    """A content that is no list: llama.cpp's Jinja does not go through a text letter by letter, as Python's would."""

    __slots__ = ()

    def __iter__(self) -> NoReturn:
        raise TypeError("a text is no list")


def _tried(render: Render, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> str:
    """What a template makes of a conversation, "" where it refuses it."""
    try:
        return render(messages, answer=True, tools=tools)
    except Exception:  # a template is a program from elsewhere: it can fail in any way
        return ""


def _says_probe(render: Render, content: Any) -> bool:
    return PROBE in _tried(render, [{"role": "user", "content": content}])


def _reads_system(render: Render) -> bool:
    system = _Watched(role="system", content=_Words(PROBE))
    _tried(render, [system, {"role": "user", "content": _Words("User message")}])
    return system.looked


def _goes_into_arguments(render: Render) -> bool:
    """Whether a call's argument reaches the text, as more than Python prints of a dictionary."""
    arguments = {"arg": PROBE}
    user = {"role": "user", "content": _Words("User message")}
    call = {"id": "call00001", "type": "function", "function": {"name": "tool1", "arguments": arguments}}
    calls = {"role": "assistant", "content": _Words(""), "tool_calls": [call]}
    answer = {"role": "tool", "content": _Words("Tool response"), "tool_call_id": "call00001"}
    said = {"role": "assistant", "content": _Words("The tool response was 'tool response'")}
    argument = {"type": "string", "description": "Arg description"}
    parameters = {"type": "object", "properties": {"arg": argument}, "required": ["arg"]}
    function = {"name": "tool1", "description": "Tool description", "parameters": parameters}
    tool = {"name": "tool", "type": "function", "function": function}
    text = _tried(render, [user, calls, answer, said, user], [tool])
    return PROBE in text.replace(str(arguments), "")
