"""The bundled base model is small, loads in llama.cpp, speaks ChatML, and answers concepts in ordinary text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gguf
import jinja2
import pytest

from cpuft import demo, toolchain
from cpuft.engine import Engine
from cpuft.roles import find_role

toolchain.use_llama_cpp()  # before the import: it decides which libraries are loaded

from llama_cpp import Llama  # noqa: E402

MAX_BYTES = 12_000_000
QUANTIZATION_BLOCK = 256  # of the K-quants; Q8_0 needs 32


@pytest.fixture(scope="module")
def reader() -> gguf.GGUFReader:
    return gguf.GGUFReader(demo.BASE_MODEL)


@pytest.fixture(scope="module")
def llama() -> Iterator[Llama]:
    model = Llama(str(demo.BASE_MODEL), n_ctx=512, verbose=False)
    yield model
    model.close()


def prompts() -> list[Any]:
    """System and user messages of the test set."""
    return [json.loads(line)["messages"][:2] for line in demo.TEST.read_text(encoding="utf-8").splitlines()]


def test_it_is_small_and_quantized_to_q8_0(reader: gguf.GGUFReader) -> None:
    assert demo.BASE_MODEL.stat().st_size <= MAX_BYTES
    assert reader.fields["general.architecture"].contents() == "llama"
    for tensor in reader.tensors:
        if len(tensor.shape) == 2:
            assert tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0, tensor.name
            assert tensor.shape[0] % QUANTIZATION_BLOCK == 0, tensor.name


def test_its_template_is_chatml(reader: gguf.GGUFReader) -> None:
    template = jinja2.Environment().from_string(reader.fields["tokenizer.chat_template"].contents())
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    text = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
    assert template.render(messages=messages) == text
    assert template.render(messages=messages, add_generation_prompt=True) == text + "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    "text", ["Oyster reef tracking app", "  - id: FR001\n", "two  spaces\t", "naïve ✓ 東京", "", "\n\n"]
)
def test_every_text_survives_its_tokenizer(text: str) -> None:
    with Engine(demo.BASE_MODEL) as engine:
        assert engine.detokenize(engine.tokenize(text)) == text.encode()


def test_the_turn_marks_are_single_tokens_and_end_the_answer(llama: Llama) -> None:
    start, end = (llama.tokenize(mark, add_bos=False, special=True) for mark in (b"<|im_start|>", b"<|im_end|>"))
    assert (len(start), len(end)) == (1, 1)
    assert llama.token_eos() == end[0]


def test_it_answers_in_ordinary_text(llama: Llama) -> None:
    scores = []
    for messages in prompts()[:5]:
        reply: Any = llama.create_chat_completion(messages, temperature=0.0, max_tokens=160)
        answer: str = reply["choices"][0]["message"]["content"]
        assert len(answer.split()) >= 5
        scores.append(find_role("ba").metric(answer, {}).total)
    assert sum(scores) / len(scores) < 0.3
