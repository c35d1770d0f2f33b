"""The training text of a real model is the prompt that llama-server makes of the same conversation."""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpuft.backends.llama_server import LlamaServer
from cpuft.chat.template import chat_template_of
from cpuft.data.dataset import formatter_of
from cpuft.data.records import Chat
from cpuft.engine import Engine
from cpuft.gguf.reader import read_gguf
from tests.real.models import threads

SYSTEM = {"role": "system", "content": "  You are a business analyst.\nAnswer in YAML. "}
TURNS = [
    {"role": "user", "content": 'Hi <b>"x"</b>, naïve ☃ & 中文\n\n'},
    {"role": "assistant", "content": "Hello!\n\n  - one 🎉\n"},
    {"role": "user", "content": "\tWhy <|im_end|> and <|endoftext|>?"},  # its own control tokens, in a user's words
    {"role": "assistant", "content": "{{ .Twice }} {% raw %} \\n"},
    {"role": "user", "content": "   "},
    {"role": "assistant", "content": "title: So\nitems: [1, 2]"},
]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a städtchen.",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
        },
    }
]
CALL = {"type": "function", "id": "1", "function": {"name": "weather", "arguments": '{"place": "Köln"}'}}
WITH_TOOLS: list[Any] = [
    {"role": "user", "content": "Weather in Köln?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": '{"rain": true}'},
    {"role": "assistant", "content": "It rains."},
]
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[Any] | None]] = {
    "one turn": (TURNS[:2], None),
    "one turn with a system prompt": ([SYSTEM, *TURNS[:2]], None),
    "three turns": (TURNS, None),
    "three turns with a system prompt": ([SYSTEM, *TURNS], None),
    "an empty system prompt": ([{**SYSTEM, "content": ""}, *TURNS[:2]], None),
    "tools that are not called": ([SYSTEM, *TURNS[:2]], TOOLS),
    "a tool that is called": (WITH_TOOLS, TOOLS),
}


@pytest.fixture(scope="module")
def server(coder: Path) -> Iterator[LlamaServer]:
    """llama-server on the real file."""
    with LlamaServer(coder, n_ctx=1024, threads=threads()) as server:
        yield server


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_prompt(name: str, coder: Path, server: LlamaServer) -> None:
    """Before each answer, text and tokens of the example are those of llama-server's prompt, and it learns the rest."""
    messages, tools = CONVERSATIONS[name]
    model, today = read_gguf(coder), datetime.date.today()
    template = chat_template_of(model, today)
    assert template is not None
    with Engine(coder, threads=1) as engine:
        (example,) = formatter_of(model, engine, today).examples(Chat(messages, tools), "f:1")
        starts = np.flatnonzero(np.diff(example.supervised.astype(int), prepend=0) == 1)
        ends = np.flatnonzero(np.diff(example.supervised.astype(int), append=0) == -1) + 1
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        for turn, start, end in zip(turns, starts, ends, strict=True):
            asked = {"messages": messages[:turn], **({} if tools is None else {"tools": tools})}
            prompt = server.post("/apply-template", asked)["prompt"]
            assert template.render(messages[:turn], answer=True, tools=tools) == prompt
            wanted = server.post("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})
            assert example.tokens[:start].tolist() == wanted["tokens"]
            answer = engine.detokenize(example.tokens[start:end].tolist()).decode()
            assert answer.endswith("<|im_end|>")
            assert answer.startswith(messages[turn]["content"])
