"""Proves that tokens are llama.cpp's own and that every byte of a text lies in the token that stands for it."""

import random
from collections.abc import Sequence

import pytest

from cpuft.chat.alignment import AlignedTokenizer
from cpuft.errors import ExampleError
from tests.data.vocabulary import formatter, tokenizer_of

VOCABULARIES = ["qwen2", "llama-bpe", "llama-spm", "phi-3"]
ALPHABET = [
    "a",
    "Z",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    ".",
    " ?",
    " !",
    "'s",
    " 't",
    "é",
    "ß",
    "☃",
    "🎉",
    "漢字",
    "1",
    "00",
    "▁▂▃",
    "▁",
]


def texts() -> list[str]:
    """Three hundred texts of pieces on which tokenizers are known to differ."""
    rng = random.Random(0)
    return ["".join(rng.choices(ALPHABET, k=rng.randint(1, 24))) for _ in range(300)]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_spans_are_in_order_and_cover_all_but_white_space(vocabulary: str) -> None:
    _, tokenizer = formatter(vocabulary)
    for text in texts():
        tokens, spans = tokenizer.tokenize(text)
        assert tokens == tokenizer_of(vocabulary).tokenize(text, add_special=True)
        data, position = text.encode(), 0
        for start, end in spans:
            assert position <= start <= end
            assert not data[position:start].strip()
            position = end
        assert not data[position:].strip()


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_a_word_is_where_its_tokens_are(vocabulary: str) -> None:
    _, tokenizer = formatter(vocabulary)
    for text in texts()[:50]:
        whole = f"{text} Antananarivo {text}"
        tokens, spans = tokenizer.tokenize(whole)
        start = len(text.encode()) + 1
        end = start + len("Antananarivo")
        inside = [token for token, span in zip(tokens, spans, strict=True) if span.start < end and span.end > start]
        assert b"".join(tokenizer.piece(token).text for token in inside).strip() == b"Antananarivo"


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("<|end|>  ▁", (9, 12)),  # the control token swallows both spaces; ▁ is a space to this vocabulary, and alone
        ("<|end|> \n▁▂▃", (17, 18)),  # three tokens stand for the bytes of ▃
        ("▁<|end|>▁▁", (10, 16)),
        ("<|user|>\n▁▁▂ ▁<|end|>", (22, 29)),
    ],
)
def test_a_sparkline_behind_a_control_token(text: str, last: tuple[int, int]) -> None:
    _, tokenizer = formatter("phi-3")
    _, spans = tokenizer.tokenize(text)
    assert spans[-1] == last


def test_a_bos_that_the_text_has_is_not_doubled() -> None:
    _, tokenizer = formatter("llama-bpe")
    with_bos, spans = tokenizer.tokenize("<|begin_of_text|>Hello there")
    without, _ = tokenizer.tokenize("Hello there")
    assert with_bos == without
    assert [spans[0], spans[-1]] == [(0, 17), (22, 28)]


def test_control_tokens_are_told_from_text() -> None:
    _, tokenizer = formatter("qwen2")
    (end,) = tokenizer_of("qwen2").tokenize("<|im_end|>")
    (word,) = tokenizer_of("qwen2").tokenize(" word")
    assert tokenizer.piece(end) == (b"<|im_end|>", True)
    assert tokenizer.piece(word) == (b" word", False)


def test_text_that_has_no_token_is_refused() -> None:
    class Deaf:
        """A tokenizer that knows one letter and is silent about all others."""

        def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
            return [0 for letter in text if letter == "a"]

        def detokenize(self, tokens: Sequence[int], *, render_special: bool = True) -> bytes:
            return b"a" * len(tokens)

    with pytest.raises(ExampleError, match="no token for the text that begins with '☃'"):
        AlignedTokenizer(Deaf(), bos_token="", eos_token="").tokenize("aa☃")
