"""Proves that of a conversation exactly the assistant's words and the token that ends its turn are trained on."""

from typing import Any

import pytest

from cpuft.data.records import Chat
from cpuft.errors import ExampleError
from tests.data.vocabulary import formatter, supervised_texts, tokenizer_of

ONE, TWO = "Hello!\n\n  - one\n  - two 🎉 naïve", "Sí, <again>."
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be terse."},
    {"role": "user", "content": "Hi ☃, what is\n\n1 + 1?"},
    {"role": "assistant", "content": ONE},
    {"role": "user", "content": "Again?"},
    {"role": "assistant", "content": TWO},
]
# vocabulary, chat template (None: the one in the vocabulary's file), what precedes and follows the assistant's words
WHOLE = [
    ("qwen2", None, "", "<|im_end|>"),
    ("qwen2", "Qwen-Qwen2.5-7B-Instruct", "", "<|im_end|>"),
    ("qwen2", "HuggingFaceTB-SmolLM3-3B", "", "<|im_end|>"),
    ("llama-bpe", "meta-llama-Llama-3.1-8B-Instruct", "", "<|eot_id|>"),
    ("llama-bpe", "meta-llama-Llama-3.2-3B-Instruct", "", "<|eot_id|>"),
    ("phi-3", None, " ", "<|end|>"),  # SentencePiece puts a space before a word that follows a control token
    ("phi-3", "microsoft-Phi-3.5-mini-instruct", " ", "<|end|>"),
    # Gemma's own vocabulary is not there; in this one <end_of_turn> is ordinary text, and so is the line end after it.
    ("llama-spm", "google-gemma-2-2b-it", "", "<end_of_turn>\n"),
]
NO_SYSTEM = ("phi-3 None", "llama-spm google-gemma-2-2b-it")  # vocabulary and template that have no system role
# Templates that write a turn in another way once it is not the last: a sequence for each answer.
EACH = [
    ("qwen2", "Qwen-Qwen3-0.6B", "<think>\n\n</think>\n\n", "<|im_end|>"),
    ("llama-spm", "mistralai-Mistral-Nemo-Instruct-2407", "", "</s>"),
]


@pytest.mark.parametrize(("vocabulary", "template", "before", "after"), WHOLE)
def test_the_answers_of_a_conversation(vocabulary: str, template: str | None, before: str, after: str) -> None:
    written, tokenizer = formatter(vocabulary, template)
    (example,) = written.examples(Chat(TURNS), "f:1")
    assert supervised_texts(example, tokenizer) == [before + ONE + after, before + TWO + after]
    folded = ["the chat template has no system role: the system prompt went before the user's words"]
    assert list(written.notes) == (folded if f"{vocabulary} {template}" in NO_SYSTEM else [])


@pytest.mark.parametrize(("vocabulary", "template", "before", "after"), EACH)
def test_a_template_that_rewrites_earlier_turns(vocabulary: str, template: str, before: str, after: str) -> None:
    written, tokenizer = formatter(vocabulary, template)
    first, second = written.examples(Chat(TURNS), "f:1")
    assert supervised_texts(first, tokenizer) == [before + ONE + after]
    assert supervised_texts(second, tokenizer) == [before + TWO + after]
    assert any("rewrites earlier turns" in note for note in written.notes)


@pytest.mark.parametrize(("vocabulary", "template", "before", "after"), [*WHOLE, *EACH])
def test_the_tokens_are_the_prompt_of_the_server_and_its_answer(
    vocabulary: str, template: str | None, before: str, after: str
) -> None:
    """The sequence begins with the tokens of the prompt as rendered alone, with one BOS where the model wants one."""
    written, tokenizer = formatter(vocabulary, template)
    (example,) = written.examples(Chat(TURNS[:3]), "f:1")
    assert written._template is not None
    prompt = written._template.render(TURNS[:2], answer=True)
    tokens = tokenizer_of(vocabulary).tokenize(prompt.removeprefix(tokenizer.bos_token), add_special=True)
    assert example.tokens.tolist()[: len(tokens)] == tokens
    assert not example.supervised[: len(tokens)].any()
    assert example.supervised[len(tokens)]
    n_bos = 1 if tokenizer_of(vocabulary).tokenize("a", add_special=True)[0] == tokens[0] else 0
    bos = tokenizer_of(vocabulary).tokenize(tokenizer.bos_token)
    assert example.tokens.tolist().count(bos[0]) == n_bos
    assert supervised_texts(example, tokenizer) == [before + ONE + after]


def test_a_token_across_the_border_is_trained_on() -> None:
    """ "</b>\n" and the answer's "\n" become one token, so the tokens of the prompt are no beginning of the whole's."""
    template = "{% for m in messages %}{% if m.role == 'assistant' %}:\n{{ m.content }}<|im_end|>{% else %}"
    template += "{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}:\n{% endif %}"
    written, tokenizer = formatter("qwen2", template)
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\nb"}]
    (example,) = written.examples(Chat(chat), "f:1")
    assert [tokenizer.piece(token).text for token in example.tokens] == [b"a", b":\n\n", b"b", b"<|im_end|>"]
    assert example.supervised.tolist() == [0, 1, 1, 1]


def test_an_answer_that_the_template_asks_for_in_other_words() -> None:
    written, tokenizer = formatter("qwen2", "Qwen-QwQ-32B")
    (example,) = written.examples(Chat(TURNS[:3]), "f:1")
    assert supervised_texts(example, tokenizer) == [ONE + "<|im_end|>"]
    assert list(written.notes) == [
        "the chat template asks for an answer with '<think>\\n', which it leaves out of answers"
    ]


def test_a_template_that_drops_the_answer_is_refused() -> None:
    template = "{% for m in messages if m.role == 'user' %}{{ m.content }}\n{% endfor %}"
    written, _ = formatter("qwen2", template)
    with pytest.raises(ExampleError, match=r"messages\[2\], so it cannot be found"):
        written.examples(Chat(TURNS[:3]), "f:1")


def test_a_template_that_refuses_is_quoted() -> None:
    written, _ = formatter("llama-spm", "google-gemma-2-2b-it")
    chat = [TURNS[1], TURNS[1], TURNS[2]]
    with pytest.raises(ExampleError, match="refuses the conversation: Conversation roles must alternate"):
        written.examples(Chat(chat), "f:1")


def test_tool_calls_are_trained_on() -> None:
    written, tokenizer = formatter("qwen2", "Qwen-Qwen2.5-7B-Instruct")
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    chat = [TURNS[1], {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "2"}]
    (example,) = written.examples(Chat([*chat, {"role": "assistant", "content": "It is 2."}]), "f:1")
    answer = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>'
    assert supervised_texts(example, tokenizer) == [answer, "It is 2.<|im_end|>"]
