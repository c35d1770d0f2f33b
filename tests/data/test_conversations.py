"""Proves that a text says all that a conversation says, once and in its place, or that the conversation is refused."""

from typing import Any

import pytest

from cpuft.data.records import Chat, PromptCompletion, Text
from cpuft.errors import ExampleError
from tests.data.vocabulary import formatter, supervised_texts

QWEN, LLAMA = "Qwen-Qwen2.5-7B-Instruct", "meta-llama-Llama-3.1-8B-Instruct"
MISTRAL, SMOLLM3 = "mistralai-Mistral-Nemo-Instruct-2407", "HuggingFaceTB-SmolLM3-3B"
PHI, R1 = "microsoft-Phi-3.5-mini-instruct", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"
SYSTEM, KIND = ({"role": "system", "content": content} for content in ("Be terse.", "Be kind."))
USER, AGAIN = ({"role": "user", "content": content} for content in ("Hi there", "Again?"))
SAID, MORE = ({"role": "assistant", "content": content} for content in ("Hello!", "Hello again."))
RESULT = {"role": "tool", "content": '{"rain": true}', "tool_call_id": "abcdefghi"}


def call(arguments: Any, content: str | None = None, n: int = 1) -> dict[str, Any]:
    """A message that calls a tool n times; its id is as long as Mistral's must be."""
    called = {"type": "function", "id": "abcdefghi", "function": {"name": "weather", "arguments": arguments}}
    return {"role": "assistant", "content": content, "tool_calls": [called] * n}


def answers(vocabulary: str, template: str, messages: list[dict[str, Any]], **more: Any) -> list[list[str]]:
    """What is trained on in each of a conversation's sequences."""
    written, tokenizer = formatter(vocabulary, template)
    return [supervised_texts(example, tokenizer) for example in written.examples(Chat(messages, **more), "f:1")]


def each(turn: str, end: str = "") -> str:
    """A chat template that writes each message `m` by this Jinja."""
    return "{% for m in messages %}" + turn + "{% endfor %}" + end


ONE_SYSTEM = each("{% if not (m.role == 'system' and loop.index > 1) %}<{{ m.content }}>{% endif %}")
ROLES = each("{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}", "<|im_start|>assistant\n")
FIRST_CALL = each("<{{ m.content }}{% for c in (m.tool_calls or [])[:1] %}{{ c.function | tojson }}{% endfor %}>")


def test_an_answer_that_is_not_trained_on_stays_in_the_text() -> None:
    turns = [SYSTEM, USER, SAID, AGAIN, MORE]
    assert answers("qwen2", QWEN, turns) == [["Hello!<|im_end|>", "Hello again.<|im_end|>"]]
    assert answers("qwen2", QWEN, turns, untrained=frozenset({2})) == [["Hello again.<|im_end|>"]]
    assert len(answers("qwen2", "Qwen-Qwen3-0.6B", turns, untrained=frozenset({2}))) == 1
    written, _ = formatter("qwen2", QWEN)
    assert written.texts(Chat(turns, untrained=frozenset({2}))) == written.texts(Chat(turns))


@pytest.mark.parametrize("said", ["<table>1</table>", "<think", "<thinking is hard>", "think>", "T", "One", "O"])
def test_an_answer_that_begins_as_the_prompt_ends(said: str) -> None:
    """QwQ's template asks with <think>\n, which it leaves out of answers."""
    assert answers("qwen2", "Qwen-QwQ-32B", [USER, {**SAID, "content": said}]) == [[said + "<|im_end|>"]]


def test_an_answer_that_begins_as_words_of_the_prompt() -> None:
    asked = "{{ 'assistant: Here is what I think:' if add_generation_prompt }}"
    template = each("{{ m.role }}: {{ m.content }}<|im_end|>\n", asked)
    assert answers("qwen2", template, [USER, {**SAID, "content": "Here it is."}]) == [[" Here it is.<|im_end|>"]]


def test_an_answer_begins_with_a_whole_tag() -> None:
    """Where a template closes the thoughts that its prompt opens: <think> and </think> begin alike."""
    turn = "<{{ m.role }}>{{ '</think>' if m.role == 'assistant' }}{{ m.content }}<|im_end|>"
    written, _ = formatter("qwen2", each(turn, "{{ '<assistant><think>' if add_generation_prompt }}"))
    assert len(written.examples(Chat([USER, SAID]), "f:1")) == 1
    (note,) = written.notes
    assert note == "the chat template asks for an answer with '<think>', which it leaves out of answers"


def test_a_call_that_begins_as_the_prompt_ends() -> None:
    answer = '<tool_call>\n{"name": "weather", "arguments": {"place": "here"}}\n</tool_call><|im_end|>'
    assert answers("qwen2", "Qwen-QwQ-32B", [USER, call({"place": "here"})]) == [[answer]]


@pytest.mark.parametrize("said", ["It ends in <|im_end|>", "<|im_end|>", "<|im_end|> <|endoftext|>", "a<|im_end|>b"])
def test_the_end_of_a_turn_is_trained_on_whatever_the_words_end_in(said: str) -> None:
    turns = [USER, {**SAID, "content": said}, AGAIN, MORE]
    assert answers("qwen2", QWEN, turns) == [[said + "<|im_end|>", "Hello again.<|im_end|>"]]


def test_the_end_of_a_turn_is_trained_on_behind_a_call_that_a_control_token_closes() -> None:
    template = each(
        "<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function | tojson }}<|endoftext|>{% endfor %}<|im_end|>\n",
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    )
    answer = '{"name": "weather", "arguments": {"place": "here"}}<|endoftext|><|im_end|>'
    assert answers("qwen2", template, [USER, call({"place": "here"})]) == [[answer]]


@pytest.mark.parametrize("text", ["So.<|im_end|>", "<|im_end|>", "So.<|im_end|>\n", "So.", "<|im_end|>So.<|im_end|> "])
def test_the_end_of_a_completion_is_trained_on_whatever_it_ends_in(text: str) -> None:
    written, tokenizer = formatter("qwen2")
    eos = tokenizer.eos_token
    (completion,) = written.examples(PromptCompletion("Q:", text), "f:1")
    assert supervised_texts(completion, tokenizer) == [text + eos]
    (whole,) = written.examples(Text("Q:" + text), "f:1")
    assert whole.supervised.tolist() == [0] + [1] * (whole.tokens.size - 1)


def test_thoughts_are_trained_on_where_the_template_has_a_place_for_them() -> None:
    thinking = {**SAID, "reasoning_content": "I think."}
    answer = "<think>\nI think.\n</think>\n\nHello!<|im_end|>"
    assert answers("qwen2", "Qwen-Qwen3-0.6B", [USER, thinking]) == [[answer]]
    assert answers("qwen2", "Qwen-Qwen3-0.6B", [USER, thinking, AGAIN, thinking]) == [[answer], [answer]]
    written_out = {**SAID, "content": "<think>\nI think.\n</think>\n\nHello!"}
    assert answers("qwen2", "Qwen-Qwen3-0.6B", [USER, written_out]) == [[answer]]


def test_calls_where_the_template_has_them_in_another_way_once_they_are_there() -> None:
    """Mistral's has the system message only while the user's is the last. To this vocabulary, ][ is one token."""
    called = '][TOOL_CALLS][{"name": "weather", "arguments": {"place": "here"}, "id": "abcdefghi"}]</s>'
    turns = [USER, call({"place": "here"}), {**RESULT, "name": "weather"}, SAID]
    assert answers("llama-spm", MISTRAL, turns) == [[called, "Hello!</s>"]]
    assert answers("llama-spm", MISTRAL, [SYSTEM, *turns[:2]]) == [[called]]
    with pytest.raises(
        ExampleError, match=r"messages\[0\]\.content: the chat template leaves it out of what comes before"
    ):
        answers("llama-spm", MISTRAL, [SYSTEM, *turns])  # as asked for the last answer, there is no system message


def test_a_call_where_a_space_stands_before_words_alone() -> None:
    """As in older templates of Mistral's, which also have the system message only while the user's is the last."""
    template = "{% set system = messages[0].content + ' ' if messages[0].role == 'system' else '' %}" + each(
        "{% if m.role == 'user' %}[INST]{{ system if loop.last }}{{ m.content }}[/INST]\n"
        "{% elif m.tool_calls %}{{ m.tool_calls[0].function | tojson }}</s>"
        "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}"
    )
    called = '{"name": "weather", "arguments": {"place": "here"}}</s>'
    assert answers("llama-spm", template, [SYSTEM, USER, call({"place": "here"})]) == [[called]]
    assert answers("llama-spm", template, [SYSTEM, USER, SAID]) == [[" Hello!</s>"]]


@pytest.mark.parametrize(
    ("vocabulary", "template", "messages"),
    [
        ("qwen2", SMOLLM3, [{**SYSTEM, "content": "Be terse. /no_think"}, USER, SAID]),
        ("llama-bpe", LLAMA, [{**USER, "content": "\n Hi \n"}, {**SAID, "content": "  Hello!\n"}]),
        ("llama-bpe", LLAMA, [USER, call('{"place": "K\\u00f6ln \\"x\\" \\n"}', ""), RESULT, SAID]),
        ("qwen2", QWEN, [SYSTEM, KIND, USER, SAID]),
        ("qwen2", QWEN, [{**SYSTEM, "content": ""}, USER, SAID]),
        ("qwen2", QWEN, [{**USER, "role": "developer"}, USER, SAID]),
        ("llama-spm", "google-gemma-2-2b-it", [{**SYSTEM, "role": "developer"}, USER, SAID]),
    ],
)
def test_what_a_template_may_do(vocabulary: str, template: str, messages: list[dict[str, Any]]) -> None:
    assert all(answers(vocabulary, template, messages))


@pytest.mark.parametrize(
    ("vocabulary", "template", "messages", "fault"),
    [
        ("qwen2", SMOLLM3, [SYSTEM, KIND, USER, SAID], r"messages\[1\]\.content: .* before the answer"),
        ("qwen2", SMOLLM3, [USER, SAID, KIND, AGAIN, MORE], r"messages\[2\]\.content: .* before"),
        ("qwen2", each("{% if m.role != 'system' %}<{{ m.content }}>{% endif %}"), [SYSTEM, SAID], r"messages\[0\]"),
        ("qwen2", each("<{{ m.content if m.role != 'tool' }}>"), [USER, SAID, RESULT, MORE], r"messages\[2\]\.content"),
        ("phi-3", PHI, [USER, call({"a": 1}), RESULT, SAID], r"messages\[1\]\.tool_calls"),
        ("qwen2", ROLES, [USER, call({"a": "b"})], "cannot be found|tool_calls"),
        ("qwen2", FIRST_CALL, [USER, call({"a": "b"}, n=2)], r"messages\[1\]\.tool_calls\[1\].* leaves it out"),
        (
            "llama-bpe",
            LLAMA,
            [USER, call({"a": "b"}, "Let me see."), RESULT, SAID],
            r"messages\[1\]\.content: .* its answer",
        ),
        ("qwen2", QWEN, [USER, {**SAID, "reasoning_content": "I think."}], r"messages\[1\]\.reasoning_content"),
        (
            "qwen2",
            R1,
            [USER, {**SAID, "content": "<think>\nhm\n</think>\n\nHello!"}],
            r"messages\[1\]\.content: the chat template leaves it out of its answer: take it out of the line, or give",
        ),
        (
            "qwen2",
            each("<{{ m.content }}|{{ m.content }}>"),
            [USER, SAID],
            r"messages\[0\]\.content: .* writes it 2 times",
        ),
        (
            "qwen2",
            each("<{{ m.content[:9] }}>"),
            [{**USER, "content": "Hi there, you"}, SAID],
            r"messages\[0\]\.content",
        ),
        (  # both say the same, so that only counting tells that one of them is lost
            "qwen2",
            ONE_SYSTEM,
            [SYSTEM, SYSTEM, USER, SAID],
            r"messages\[1\]\.content: the chat template leaves it out of the text",
        ),
    ],
)
def test_what_a_template_must_not_do(
    vocabulary: str, template: str, messages: list[dict[str, Any]], fault: str
) -> None:
    with pytest.raises(ExampleError, match=fault):
        answers(vocabulary, template, messages)


def test_tools_that_the_template_leaves_out_are_told_of() -> None:
    tools = [{"type": "function", "function": {"name": "weather", "description": "It."}}]
    for template, notes in ((PHI, 1), (QWEN, 0)):
        written, _ = formatter("qwen2", template)
        assert written.examples(Chat([USER, SAID], tools), "f:1")
        assert len([note for note in written.notes if "has no place for tools" in note]) == notes


def test_marks_are_counted_for_every_shape() -> None:
    """A shape that was found good does not speak for another."""
    written, _ = formatter(
        "qwen2", each("{% if not (m.role == 'system' and loop.index > 1) %}<{{ m.content }}>{% endif %}")
    )
    for _ in range(2):
        assert written.examples(Chat([SYSTEM, USER, SAID]), "f:1")
        with pytest.raises(ExampleError, match=r"messages\[1\]"):
            written.examples(Chat([SYSTEM, SYSTEM, USER, SAID]), "f:1")
