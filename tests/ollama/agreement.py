"""Compares what a format's examples train on with the prompts of llama.cpp and of Ollama, token by token.

A prompt of the training text is what an example has before an answer. Both servers turn the text that they render into
tokens with llama.cpp's tokenizer, which adds the BOS; so does this, through a real llama-server.
"""

import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cpuft.backends.llama_server import LlamaServer
from cpuft.chat.message import Message
from cpuft.chat.template import chat_template_of
from cpuft.data.dataset import formatter_of
from cpuft.data.examples import Formatter
from cpuft.data.records import Chat
from cpuft.engine import Engine
from cpuft.gguf.reader import read_gguf
from cpuft.ollama.families import default_system
from tests.ollama.formats import CONVERSATIONS, Format
from tests.ollama.server import OllamaServer

Render = Callable[[Sequence[Message]], str]


@dataclass(frozen=True)
class Agreement:
    """How many prompts of each server equal the training text, of n_prompts in n_conversations.

    own: whether Ollama, given no Go template, took one of its own instead of the file's Jinja.
    """

    n_conversations: int
    n_prompts: int
    llama_cpp: int
    ollama_jinja: int
    ollama_go: int
    own: bool


def compare(format_: Format, model: Path, bare: Path, ollama: OllamaServer) -> Agreement:
    """Compares every prompt of CONVERSATIONS; leaves no model in Ollama.

    model: the file to write.
    bare:  a model without a chat template, so that Ollama cannot prefer Jinja. Its vocabulary does not matter for a Go
           template, so all formats share one file, and Ollama needs one process for them.
    """
    format_.write(model)
    template = chat_template_of(read_gguf(model), datetime.date.today())
    assert template is not None
    default = default_system(template)
    system = None if format_.family.has_default_system else default
    ollama.create("jinja", model)
    ollama.create("go", bare, template=format_.family.go_template(default), system=system)
    with Engine(model, threads=1) as engine, LlamaServer(model, threads=1) as server:
        trained = list(_trained(formatter_of(read_gguf(model), engine, datetime.date.today())))
        renders: list[Render] = [
            lambda messages: str(server.post("/apply-template", {"messages": list(messages)})["prompt"]),
            lambda messages: ollama.rendered("jinja", messages),
            lambda messages: ollama.rendered("go", messages),
        ]
        llama_cpp, jinja, go = (
            sum(_tokens(server, render(asked)) == prompt for asked, prompt in trained) for render in renders
        )
    own = ollama.client.show("jinja").template != format_.jinja
    for name in ("jinja", "go"):
        ollama.client.delete(name)
    return Agreement(len(CONVERSATIONS), len(trained), llama_cpp, jinja, go, own)


def _trained(formatter: Formatter) -> Iterator[tuple[Sequence[Message], list[int]]]:
    """The messages before each answer, and the tokens before it in the example that trains on it."""
    for conversation in CONVERSATIONS:
        turns = [i for i, message in enumerate(conversation) if message["role"] == "assistant"]
        prompts = []
        for example in formatter.examples(Chat([dict(message) for message in conversation]), "f:1"):
            supervised = np.flatnonzero(np.diff(example.supervised.astype(int), prepend=0) == 1)
            prompts += [example.tokens[:start].tolist() for start in supervised]
        yield from zip((conversation[:i] for i in turns), prompts, strict=True)


def _tokens(server: LlamaServer, prompt: str) -> list[int]:
    return list(server.post("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"])


def table(agreements: dict[str, Agreement]) -> str:
    """Markdown, a format a line."""
    lines = [
        "| format | conversations | llama.cpp | Ollama, Jinja | Ollama, our Go template |",
        "|---|---|---|---|---|",
    ]
    for name, one in agreements.items():
        jinja = f"{one.ollama_jinja} of {one.n_prompts}" + (" (its own Go template)" if one.own else "")
        cells = [f"{one.llama_cpp} of {one.n_prompts}", jinja, f"{one.ollama_go} of {one.n_prompts}"]
        lines.append(f"| {name} | {one.n_conversations} | {' | '.join(cells)} |")
    return "\n".join(lines)
