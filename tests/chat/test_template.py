"""Proves that chat templates are rendered by the conventions of transformers and llama.cpp, inside a sandbox."""

import datetime
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cpuft.chat.template import ChatTemplate, special_token
from cpuft.errors import ExampleError, ModelError
from cpuft.gguf import writer as gguf_writer
from cpuft.gguf.reader import Field, read_gguf
from tests.gguf.tiny import write_tiny_model

USER = {"role": "user", "content": "Hi"}
CHAT = [
    {"role": "system", "content": "  Be terse.\n"},
    {"role": "user", "content": 'Hi <b>"x"</b>, naïve ☃\n\n'},
    {"role": "assistant", "content": "Hello!\n\n  - one 🎉\n"},
    {"role": "user", "content": "Again?"},
]


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, Path("m.gguf"), bos_token="<s>", eos_token="</s>", date=datetime.date(2026, 1, 31))


def render(source: str, messages: Sequence[Mapping[str, Any]] = (USER,), **options: Any) -> str:
    return template(source).render(messages, **options)


def test_blocks_take_their_white_space_with_them() -> None:
    assert render("  {% for m in messages %}\n{{ m.content }}!\n  {% endfor %}\nend") == "Hi!\nend"


def test_what_a_template_is_told() -> None:
    source = "{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}{{ strftime_now('%d %b %Y') }}{{ date_string }}"
    assert render(source) == "<s></s>False31 Jan 202631 Jan 2026"
    assert "True" in render(source, answer=True)


def test_loop_controls_and_generation_marks() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}"
    assert render(source, [USER, USER]) == "Hi"


def test_json_is_not_escaped_for_html() -> None:
    assert render("{{ {'a': '<é>'} | tojson }}") == '{"a": "<é>"}'


def test_a_refusal_is_quoted() -> None:
    with pytest.raises(ExampleError, match="refuses the conversation: no system please"):
        render("{{ raise_exception('no system please') }}")


@pytest.mark.parametrize("source", ["{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{{ messages[9].content }}", "{{ x.y.z }}"])
def test_a_template_that_fails_is_a_fault_of_the_example(source: str) -> None:
    with pytest.raises(ExampleError, match="refuses the conversation"):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ render.__globals__.x }}",
        "{{ range(10**9) | list }}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    with pytest.raises(ExampleError):
        render(source)


def test_bad_jinja_names_the_model() -> None:
    with pytest.raises(ModelError, match=r"m\.gguf: its chat template is not valid Jinja"):
        template("{% for %}")


def test_a_system_message_that_the_template_drops_goes_to_the_user() -> None:
    source = "{% for m in messages if m.role != 'system' %}[{{ m.content }}]{% endfor %}"
    assert render(source, CHAT[:2]) == f"[{CHAT[0]['content']}\n{CHAT[1]['content']}]"


@pytest.mark.parametrize("calls", ["x", [1], [{}], [{"function": {"arguments": "no JSON"}}], [{"function": 1}]])
def test_tool_calls_that_are_none(calls: Any) -> None:
    source = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}"
    )
    chat = [USER, {"role": "assistant", "content": "", "tool_calls": calls}]
    with pytest.raises(ExampleError, match=r"^messages\[1\]\.tool_calls.*: .*, expected "):
        render(source + "{% endfor %}{% endfor %}", chat)


@pytest.mark.parametrize("none", [gguf_writer.u32("", 2**32 - 1), Field("", 5, struct.pack("<i", -1))])
def test_a_token_number_of_minus_one_means_none(none: Field, tmp_path: Path) -> None:
    """llama.cpp warns of it and goes on."""
    model = read_gguf(write_tiny_model(tmp_path / "m.gguf", n_layer=1))
    key = "tokenizer.ggml.eos_token_id"
    assert special_token(model, "eos") == "</s>"
    assert special_token(replace(model, fields=model.fields | {key: none}), "eos") == ""
    with pytest.raises(ModelError, match=r"eos_token_id is 4294967294, expected the number of a token"):
        special_token(replace(model, fields=model.fields | {key: gguf_writer.u32(key, 2**32 - 2)}), "eos")
