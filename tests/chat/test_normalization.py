"""Proves that a conversation comes to the chat template as llama.cpp's own server hands it over.

A grid: each template in a tiny model that the real llama-server runs, all that llama.cpp brings among them, times each
shape that a conversation has in people's files. Where both make a prompt of it, that is one and the same text.
"""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from cpuft.backends.llama_server import LlamaServer
from cpuft.chat.normalization import Taken, check_characters, normalized, normalized_tools
from cpuft.chat.template import chat_template_of
from cpuft.errors import CpuftError, ExampleError
from cpuft.gguf.reader import read_gguf
from tests.data.vocabulary import MODELS
from tests.gguf.tiny import write_tiny_model
from tests.ollama.formats import GEMMA3, LLAMA2, SMOLLM2, ZEPHYR

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
PROMPTED = CHATML + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
WITH_TOOLS = "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}" + PROMPTED
# Has content as a list of parts and only so.
PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% for part in m.content %}{{ part.text }}{% endfor %}"
    "{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}{% endfor %}"
)
# Looks at a system message and then writes nothing of it: whoever merges it into the user's asks in another way.
FORGETFUL = "{% for m in messages %}{% if m.content and m.role != 'system' %}<{{ m.content }}>{% endif %}{% endfor %}"
NO_SYSTEM = "{% for m in messages if m.role != 'system' %}<{{ m.content }}>{% endfor %}"
# Writes messages as JSON, where the order and the number of their keys show, and null where it is asked for it.
OPEN = "{% for m in messages %}{{ m | tojson }}{{ m.name }}{{ none }}{% endfor %}"
OPEN += "{{ (tools or []) | map(attribute='type') | tojson }}"
# Has a developer beside its system, which the server knows by the sign of gpt-oss.
CHANNELS = "{% for m in messages %}<|start|>{{ m.role }}<|channel|>{{ m.content }}<|end|>{% endfor %}"

TEMPLATES: dict[str, str] = {
    "SmolLM2": SMOLLM2,
    "Llama 2": LLAMA2,
    "Zephyr": ZEPHYR,
    "Gemma 3": GEMMA3,
    "ChatML": PROMPTED,
    "only parts": PARTS,
    "forgetful": FORGETFUL,
    "no system": NO_SYSTEM,
    "open": OPEN,
    "channels": CHANNELS,
}
# Whether thinking is wanted shows in all of these. The server says so only to those in which its analysis finds
# thoughts, by a tag behind what was thought or by what a prompt ends with.
ASKING = "{% if enable_thinking %}Think.{% else %}Do not think.{% endif %}\n"
THINKING = "{% for m in messages %}[{{ m.role }}] {{ m.reasoning_content }}@{{ m.content }}\n{% endfor %}"
CALLING = (
    "{% for m in messages %}{% if m.tool_calls %}<t>{{ m.reasoning_content }}</t>{% endif %}{{ m.content }}{% endfor %}"
)


def prompting(wanted: str, said: str) -> str:
    """A template whose prompt ends with `said` where thoughts are wanted, or `wanted` is "not" and they are not."""
    return PROMPTED + f"{{% if add_generation_prompt and {wanted} enable_thinking %}}{said}{{% endif %}}"


TEMPLATES |= {
    "asked without thoughts": ASKING + PROMPTED,
    "thoughts with a tag": ASKING + THINKING.replace("@", "</think>"),
    "thoughts in brackets": ASKING + THINKING.replace("@", "\n[/THINK]"),
    "thoughts without a tag": ASKING + THINKING.replace("@", " - "),
    "thoughts with calls alone": ASKING + CALLING,
    "a prompt with a thought": prompting("", "Let me think:"),
    "a prompt with none": prompting("not", "<think></think>"),
    "another beginning and a prompt with none": ASKING + prompting("not", "<think>\n\n</think>\n"),
    "another beginning and a prompt with words": ASKING + prompting("not", "I say:"),
    "another prompt": PROMPTED + "{{ '<think>' if enable_thinking else '<answer>' }}",
}
# Writes, in JSON, the value of a name that nobody gives it, which no Jinja but llama.cpp's does.
REFUSED = "fireworks-ai-llama-3-firefunction-v2"
PUBLISHED = sorted(path.stem for path in (MODELS / "templates").glob("*.jinja") if path.stem != REFUSED)

SYSTEM, DEVELOPER = ({"role": role, "content": "Be terse."} for role in ("system", "developer"))
USER, AGAIN = ({"role": "user", "content": content} for content in ("Hi there", "Again?"))
SAID = {"role": "assistant", "content": "Hello!"}
PARAMETERS = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "It.", "parameters": PARAMETERS}}
STRICT = {**TOOL, "strict": True, "function": {**TOOL["function"], "strict": True}}  # type: ignore[dict-item]
BARE = {"type": "function", "function": {"name": "now"}}
ARGUMENTS = {"place": "Köln", "n": [1, 2.5, None], "deep": {"a": True}}
ODD = {"place": 'a "b" \\ \'\n{} <&>', "t": True, "f": 1.5, "e": [], "o": {}, "l": ["x", {"y": None}]}
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "name": "weather", "content": '{"rain": true}'}


def call(arguments: Any, content: str | None = "", **more: Any) -> dict[str, Any]:
    """A message that calls a tool; its id is as long as Mistral's must be."""
    called = {"type": "function", "id": "abcdefghi", "function": {"name": "weather", "arguments": arguments}}
    return {"role": "assistant", "content": content, "tool_calls": [called], **more}


def without(message: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The message without some of its keys."""
    return {key: value for key, value in message.items() if key not in keys}


ONE_CALL = call(ARGUMENTS)["tool_calls"][0]
TWO_CALLS = {**call(ARGUMENTS), "tool_calls": [ONE_CALL, {**ONE_CALL, "id": "abcdefghj"}]}
NO_IDS = {**call(ARGUMENTS), "tool_calls": [without(ONE_CALL, "id")]}
INDEXED = {**call(ARGUMENTS), "tool_calls": [{"index": 0, **ONE_CALL}]}
Shape = tuple[list[dict[str, Any]], list[Any] | None]
SHAPES: dict[str, Shape] = {
    "one question": ([USER], None),
    "system": ([SYSTEM, USER], None),
    "turns": ([SYSTEM, USER, SAID, AGAIN], None),
    "white space": (
        [
            {"role": "system", "content": "  Be terse.\n"},
            {"role": "user", "content": 'Hi <b>"x"</b>, naïve ☃\n\n'},
            {"role": "assistant", "content": "Hello!\n\n  - one 🎉\n"},
            {"role": "user", "content": "\n ▁▂ {{ x }} {% y %} \\"},
        ],
        None,
    ),
    "developer": ([DEVELOPER, USER], None),
    "two system messages": ([SYSTEM, {**SYSTEM, "content": "Be kind."}, USER], None),
    "system and developer": ([SYSTEM, {**DEVELOPER, "content": "Be kind."}, USER], None),
    "system in between": ([USER, SAID, SYSTEM, AGAIN], None),
    "system before an answer": ([SYSTEM, SAID, AGAIN], None),
    "empty system": ([{**SYSTEM, "content": ""}, USER], None),
    "two questions": ([USER, AGAIN], None),
    "two answers": ([USER, SAID, {**SAID, "content": "And more."}, AGAIN], None),
    "tools": ([SYSTEM, USER], [TOOL]),
    "no tools": ([USER], []),
    "strict tools": ([USER], [STRICT]),
    "a bare tool": ([USER], [BARE]),
    "call": ([USER, call(ARGUMENTS), RESULT], [TOOL]),
    "call as text": ([USER, call(json.dumps(ARGUMENTS)), RESULT], [TOOL]),
    "call as odd text": ([USER, call('{"place":   "K\\u00f6ln"}'), RESULT], [TOOL]),
    "call of odd values": ([USER, call(ODD), RESULT], [TOOL]),
    "call without arguments": ([USER, call({}), RESULT], [TOOL]),
    "call with null": ([USER, call(ARGUMENTS, None), RESULT], [TOOL]),
    "call without content": ([USER, without(call(ARGUMENTS), "content"), RESULT], [TOOL]),
    "call with words": ([USER, call(ARGUMENTS, "Let me see."), RESULT], [TOOL]),
    "call without tools": ([USER, call(ARGUMENTS), RESULT], None),
    "call with index": ([USER, INDEXED, RESULT], [TOOL]),
    "call without id": ([USER, NO_IDS, without(RESULT, "tool_call_id")], [TOOL]),
    "two calls": ([USER, TWO_CALLS, RESULT, {**RESULT, "tool_call_id": "abcdefghj"}], [TOOL]),
    "after a call": ([SYSTEM, USER, call(ARGUMENTS), RESULT, SAID, AGAIN], [TOOL]),
    "result of null": ([USER, call(ARGUMENTS), {**RESULT, "content": None}], [TOOL]),
    "thoughts": ([USER, {**SAID, "reasoning_content": "I think."}, AGAIN], None),
    "thoughts in content": ([USER, {**SAID, "content": "<think>\nhm\n</think>\n\nHello!"}, AGAIN], None),
    "thoughts and call": ([USER, call(ARGUMENTS, reasoning_content="I think."), RESULT], [TOOL]),
    "name": ([{**USER, "name": "Bob"}], None),
    "unknown keys": ([{**USER, "id": 3}, {**SAID, "refusal": None, "annotations": [], "weight": 0}, AGAIN], None),
    "no calls": ([USER, {**SAID, "tool_calls": []}, AGAIN], None),
    "flag": ([{**SYSTEM, "content": "Be terse. /no_think"}, USER], None),
}


def differences(model: Path) -> tuple[int, dict[str, tuple[str, str]]]:
    """How many shapes both make a prompt of, and the shapes, with both prompts, where these are not the same."""
    ours = chat_template_of(read_gguf(model), datetime.date.today())
    assert ours is not None
    n_both, differing = 0, {}
    with LlamaServer(model, threads=1) as server:
        for name, (messages, tools) in SHAPES.items():
            asked = {"messages": messages} if tools is None else {"messages": messages, "tools": tools}
            try:
                prompts = (
                    ours.render(messages, answer=True, tools=tools),
                    server.post("/apply-template", asked)["prompt"],
                )
            except (ExampleError, CpuftError):
                continue
            n_both += 1
            if prompts[0] != prompts[1]:
                differing[name] = prompts
    return n_both, differing


@pytest.mark.parametrize("name", [*TEMPLATES, *PUBLISHED])
def test_prompts_are_the_servers(name: str, tmp_path: Path) -> None:
    source = TEMPLATES.get(name) or (MODELS / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
    n_both, differing = differences(write_tiny_model(tmp_path / "m.gguf", n_layer=1, chat_template=source))
    assert differing == {}
    assert n_both >= len(SHAPES) // 3  # Gemma 2's has neither tools nor a system


@pytest.mark.parametrize("default", [PROMPTED, NO_SYSTEM, ""])
def test_a_template_for_tools_is_taken_where_there_are_tools(default: str, tmp_path: Path) -> None:
    templates = [
        {"name": "tool_use", "template": WITH_TOOLS},
        *([{"name": "default", "template": default}] if default else []),
    ]
    model = write_tiny_model(tmp_path / "m.gguf", n_layer=1, chat_template=templates)
    n_both, differing = differences(model)
    assert differing == {}
    assert n_both >= len(SHAPES) - 2
    ours = chat_template_of(read_gguf(model), datetime.date.today())
    assert ours is not None
    assert '"weather"' in ours.render([USER], tools=[TOOL])


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (call('{"place": '), r"messages\[0\]\.tool_calls\[0\]\.function\.arguments: not valid JSON: Expecting value"),
        (call("[1]"), r"arguments: found \[1\], expected"),
        (call('{"place": "\\ud800"}'), r"arguments\.place: it holds half of a surrogate pair"),
        (call('{"n": ' + "9" * 5000 + "}"), "arguments: not valid JSON, expected"),
        ({**call({}), "tool_calls": {}}, r"messages\[0\]\.tool_calls: found \{\}, expected a list of"),
        ({**call({}), "tool_calls": [{"name": "f"}]}, r'tool_calls\[0\]: found \{"name": "f"\}, expected'),
        ({**SAID, "content": ["Hello!"]}, r'messages\[0\]\.content: found \["Hello!"\], expected a text'),
        ({**SAID, "reasoning_content": 3}, r"messages\[0\]\.reasoning_content: found 3, expected a text"),
    ],
)
def test_a_fault_names_message_and_key(message: dict[str, Any], fault: str) -> None:
    with pytest.raises(ExampleError, match=fault):
        normalized([message], Taken())


@pytest.mark.parametrize("tool", ["weather", {"name": "weather"}, {"type": "function", "function": {}}])
def test_a_tool_that_is_none(tool: Any) -> None:
    with pytest.raises(ExampleError, match=r"tools\[0\]: found .*, expected"):
        normalized_tools([tool])


def test_half_of_a_surrogate_pair_is_found_wherever_it_is() -> None:
    for value in ({"a": ["b", "\udc00"]}, [{"\ud800": 1}], "\ud83d"):
        with pytest.raises(ExampleError, match="half of a surrogate pair"):
            check_characters(value, "tools")
    check_characters({"a": ["b", "🎉", 1, None, True]}, "tools")
