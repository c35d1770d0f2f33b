"""The chat template that a GGUF model carries: Jinja source which writes a conversation as the model expects it.

It is rendered under the conventions of transformers and llama.cpp's server, so that what is trained on is what the
model will be asked. The source comes with a model file that nobody has vouched for and runs in Jinja's sandbox.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cpuft.chat.message import Message
from cpuft.errors import ExampleError, ModelError
from cpuft.gguf.reader import Gguf

PROBE = "cpuft-probe"  # stands for words that no template says itself
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "a",
        "description": "a",
        "parameters": {"type": "object", "properties": {"arg": {"type": "string", "description": "a"}}},
    },
}


class _GenerationTag(Extension):
    """Reads {% generation %} … {% endgeneration %}, by which some templates mark answers, as its content alone."""

    tags = {"generation"}  # noqa: RUF012 - Jinja wants a set here

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """Turns messages into text.

    source:    Jinja; model is the file it came from, for messages.
    bos_token: the text of the token that begins a text; likewise eos_token.
    date:      what the template is told when it asks for today, so that a run gives the same text on another day.
    takes_system: whether a system message reaches the text; if not, it is put before the user's first words.
    takes_objects: whether a tool call's arguments are read as a JSON object; if not, as the text of one.
    """

    def __init__(self, source: str, model: Path, *, bos_token: str, eos_token: str, date: datetime.date) -> None:
        self.bos_token, self.eos_token = bos_token, eos_token
        now = datetime.datetime.combine(date, datetime.time())
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = now.strftime
        environment.globals["date_string"] = f"{now:%d %b %Y}"  # by these two names llama.cpp's server tells it
        environment.globals["datetime"] = f"{now:%b %d %Y}"
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ModelError(f"{model}: its chat template is not valid Jinja: {error}") from error
        self._maps_developer = "<|channel|>" not in source  # of gpt-oss, whose developer is not its system
        self.takes_system = self._supports_system()
        self.takes_objects = self._supports_objects()

    def render(self, messages: Sequence[Message], *, answer: bool = False, tools: Sequence[Any] | None = None) -> str:
        """The text of a conversation; `answer` adds what comes before the assistant's next words.

        Raises ExampleError with the template's own words where it refuses the conversation.
        """
        messages = [_as_served(message, self.takes_objects) for message in messages]
        if self._maps_developer:
            messages = [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
        if not self.takes_system:
            messages = _system_into_user(messages)
        try:
            return self._render(messages, answer, tools)
        except Exception as error:  # a template is a program from elsewhere: it can fail in any way
            raise ExampleError(f"the model's chat template refuses the conversation: {error}") from error

    def _render(self, messages: Sequence[Message], answer: bool, tools: Sequence[Any] | None = None) -> str:
        given = {} if tools is None else {"tools": tools}
        return self._template.render(
            messages=messages,
            add_generation_prompt=answer,
            bos_token=self.bos_token,
            eos_token=self.eos_token,
            enable_thinking=True,
            **given,
        )

    def _supports_system(self) -> bool:
        """Whether a system message reaches the text. If not, llama.cpp's server puts it before the user's words."""
        try:
            return PROBE in self._render([{"role": "system", "content": PROBE}, {"role": "user", "content": "a"}], True)
        except Exception:  # as in render
            return False

    def _supports_objects(self) -> bool:
        """Whether the template goes into a tool call's arguments, or writes them as JSON."""
        function = {"name": "a", "arguments": {"arg": PROBE}}
        call = {"id": "call00001", "type": "function", "function": function}
        calls = {"role": "assistant", "content": "", "tool_calls": [call]}
        answer = {"role": "tool", "content": "a", "tool_call_id": "call00001"}
        user, assistant = ({"role": role, "content": "a"} for role in ("user", "assistant"))
        try:
            text = self._render([user, calls, answer, assistant, user], True, [_PROBE_TOOL])
        except Exception:  # as in render
            return False
        return PROBE in text.replace(str(function["arguments"]), "")  # as Python prints it, nothing was gone into


def chat_template_of(model: Gguf, date: datetime.date) -> ChatTemplate | None:
    """The chat template in a model's file, None where it has none. Raises ModelError."""
    source = model.get("tokenizer.chat_template")
    if not source:
        return None
    bos, eos = special_token(model, "bos"), special_token(model, "eos")
    return ChatTemplate(str(source), model.path, bos_token=bos, eos_token=eos, date=date)


def special_token(model: Gguf, name: str) -> str:
    """The text of the "bos" or "eos" token, "" where the model has none. Raises ModelError."""
    key = f"tokenizer.ggml.{name}_token_id"
    token, tokens = model.get(key), model.get("tokenizer.ggml.tokens")
    if token in (None, -1, 2**32 - 1):  # converters write -1 for none, most of them without its sign
        return ""
    if not isinstance(tokens, list) or not isinstance(token, int) or not 0 <= token < len(tokens):
        raise ModelError(f"{model.path}: {key} is {token!r}, expected the number of a token, so the file is damaged")
    return str(tokens[token])


def _as_served(message: Message, objects: bool) -> Message:
    """A message as llama.cpp's server hands it to the template: a tool call's arguments are an object, or its text."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    try:
        served = [{**call, "function": _call(call["function"], objects)} for call in calls]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ExampleError(
            f"tool_calls: {error!r}, expected a list of "
            '{"type": "function", "function": {"name": …, "arguments": an object or its JSON}}'
        ) from error
    return {**message, "content": message.get("content") or "", "tool_calls": served}


def _call(function: Mapping[str, Any], objects: bool) -> dict[str, Any]:
    arguments = function.get("arguments", {})
    if objects:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    elif not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    return {**function, "arguments": arguments}


def _system_into_user(messages: Sequence[Message]) -> Sequence[Message]:
    if len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    system, first, *rest = messages
    return [{**first, "content": f"{system['content']}\n{first.get('content') or ''}"}, *rest]


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """transformers' filter: unlike Jinja's own it does not escape for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
