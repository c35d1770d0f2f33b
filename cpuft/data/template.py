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

from cpuft.data.records import ExampleError
from cpuft.errors import ModelError
from cpuft.models.gguf import Gguf

Message = Mapping[str, Any]
PROBE = "cpuft-probe"  # stands for words that no template says itself


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
        self.takes_system = self._supports_system()

    def render(self, messages: Sequence[Message], *, answer: bool = False, tools: Sequence[Any] | None = None) -> str:
        """The text of a conversation; `answer` adds what comes before the assistant's next words.

        Raises ExampleError with the template's own words where it refuses the conversation.
        """
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
    if token is None:
        return ""
    if not isinstance(tokens, list) or not isinstance(token, int) or not 0 <= token < len(tokens):
        raise ModelError(f"{model.path}: {key} is {token!r}, expected the number of a token, so the file is damaged")
    return str(tokens[token])


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
