"""The chat template that a GGUF model carries: Jinja source which writes a conversation as the model expects it.

It is rendered under the conventions of transformers and llama.cpp's server, so that what is trained on is what the
model will be asked. The source comes with a model file that nobody has vouched for and runs in Jinja's sandbox.
"""

import datetime
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cpuft.chat.message import Message
from cpuft.chat.normalization import Taken, normalized, normalized_tools, taken_by
from cpuft.chat.thinking import has_thoughts
from cpuft.errors import ExampleError, ModelError
from cpuft.gguf.reader import Gguf

# What templates are told that ask for the day where a text is only planned with or measured: figures must be the same
# tomorrow. Runs have their own.
ANY_DAY = datetime.date(2026, 1, 31)
# What llama.cpp's server tells a template that asks: that none of what was thought in earlier turns is to be left out,
# which models call by many names.
TOLD = {
    "preserve_reasoning": True,
    "preserve_thinking": True,
    "clear_thinking": False,
    "truncate_history_thinking": False,
    "drop_thinking": False,
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
    tool_use:  Jinja, which stands for the source where a conversation has tools.
    takes_system: whether a system message reaches the text; if not, it is put before the user's first words.
    thinking:  whether it is told that thinking is wanted.
    """

    def __init__(
        self, source: str, model: Path, *, bos_token: str, eos_token: str, date: datetime.date, tool_use: str = ""
    ) -> None:
        self.bos_token, self.eos_token = bos_token, eos_token
        self._environment, self._model = _environment(date), model
        self._default = self._read(source)
        self._tool_use = self._read(tool_use) if tool_use else self._default
        self.takes_system = self._default.taken.system
        # With tools, too, the server goes by what it found without.
        self.thinking = has_thoughts(functools.partial(self._render, self._default.jinja), self._default.taken)

    def render(self, messages: Sequence[Message], *, answer: bool = False, tools: Sequence[Any] | None = None) -> str:
        """The text of a conversation; `answer` adds what comes before the assistant's next words.

        Raises ExampleError where a message is none, and, with its own words, where the template refuses them.
        """
        tools = normalized_tools(tools)
        source = self._tool_use if tools else self._default
        served = normalized(messages, source.taken)
        try:
            return self._render(source.jinja, served, answer=answer, tools=tools, thinking=self.thinking)
        except Exception as error:  # a template is a program from elsewhere: it can fail in any way
            raise ExampleError(f"the model's chat template refuses the conversation: {error}") from error

    def _read(self, source: str) -> "_Source":
        try:
            jinja = self._environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ModelError(f"{self._model}: its chat template is not valid Jinja: {error}") from error
        return _Source(jinja, taken_by(source, functools.partial(self._render, jinja)))

    def _render(
        self,
        jinja: jinja2.Template,
        messages: Sequence[Message],
        *,
        answer: bool,
        tools: Sequence[Any] | None,
        thinking: bool = True,
    ) -> str:
        given = {} if tools is None else {"tools": tools}
        return jinja.render(
            messages=messages,
            add_generation_prompt=answer,
            bos_token=self.bos_token,
            eos_token=self.eos_token,
            enable_thinking=thinking,
            **TOLD,
            **given,
        )


class _Source(NamedTuple):
    jinja: jinja2.Template
    taken: Taken


def chat_template_of(model: Gguf, date: datetime.date) -> ChatTemplate | None:
    """The chat template in a model's file, None where it has none. Raises ModelError."""
    source, tool_use = (str(model.get(f"tokenizer.chat_template{name}") or "") for name in ("", ".tool_use"))
    if not source and not tool_use:
        return None
    bos, eos = special_token(model, "bos"), special_token(model, "eos")
    given = source or tool_use  # as llama.cpp does where a file has only the latter
    return ChatTemplate(given, model.path, bos_token=bos, eos_token=eos, date=date, tool_use=tool_use)


def special_token(model: Gguf, name: str) -> str:
    """The text of the "bos" or "eos" token, "" where the model has none. Raises ModelError."""
    key = f"tokenizer.ggml.{name}_token_id"
    token, tokens = model.get(key), model.get("tokenizer.ggml.tokens")
    if token in (None, -1, 2**32 - 1):  # converters write -1 for none, most of them without its sign
        return ""
    if not isinstance(tokens, list) or not isinstance(token, int) or not 0 <= token < len(tokens):
        raise ModelError(f"{model.path}: {key} is {token!r}, expected the number of a token, so the file is damaged")
    return str(tokens[token])


def _environment(date: datetime.date) -> ImmutableSandboxedEnvironment:
    """Jinja by the conventions of transformers and llama.cpp's server."""
    now = datetime.datetime.combine(date, datetime.time())
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag], finalize=_printed
    )
    environment.filters["tojson"] = _to_json
    environment.filters["safe"] = str  # Jinja's own escapes for HTML whatever is added to a text that is safe
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = now.strftime
    environment.globals["date_string"] = f"{now:%d %b %Y}"  # by these two names llama.cpp's server tells it
    environment.globals["datetime"] = f"{now:%b %d %Y}"
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """transformers' filter: unlike Jinja's own it does not escape for HTML. What `map` and `select` give is a list."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, default=_as_list, **options)


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON")


def _printed(value: Any) -> Any:
    """What {{ value }} writes: nothing for null. Lists and objects every Jinja writes in its own way, so none is."""
    if isinstance(value, list | tuple | dict):
        raise jinja2.TemplateError("it would print a list or an object, and does not say how")
    return "" if value is None else value


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
