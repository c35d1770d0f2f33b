"""A text is the same tokens here, in llama.cpp, and in the packages that the models were trained with."""

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cpuft.chat.template import special_token
from cpuft.data.dataset import formatter_of
from cpuft.data.records import PromptCompletion
from cpuft.engine import Engine
from cpuft.gguf.reader import read_gguf
from tests.data.vocabulary import VocabularyOnly
from tests.real import models
from tests.real.hard_texts import COUNT, hard_texts
from tests.real.packages import packaged

FAULTS_SHOWN = 5


@dataclass(frozen=True)
class Opened:
    """A real model's file and its engine."""

    path: Path
    engine: Engine


@pytest.fixture(scope="module", params=[models.CODER, models.GEMMA])
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    """Each model in turn."""
    path = models.require(str(request.param))
    with Engine(path, threads=1) as engine:
        yield Opened(path, engine)


def test_there_are_a_thousand_texts() -> None:
    """All different, and the same on every machine."""
    texts = hard_texts()
    assert len(set(texts)) == len(texts) == COUNT
    assert sum(len(text) for text in texts) == 28812


@pytest.mark.parametrize("parse_special", [False, True])
def test_llama_cpp_s_tokens(parse_special: bool, opened: Opened) -> None:
    """Through our C interface come llama.cpp's tokens, and its text of them, with and without BOS."""
    theirs = VocabularyOnly(opened.path)
    for text in hard_texts():
        for add_special in (False, True):
            options = {"add_special": add_special, "parse_special": parse_special}
            tokens = opened.engine.tokenize(text, **options)
            assert tokens == theirs.tokenize(text, **options), ascii(text)
        assert opened.engine.detokenize(tokens) == theirs.detokenize(tokens), ascii(text)


@pytest.mark.parametrize("parse_special", [False, True])
def test_the_package_s_tokens(parse_special: bool, opened: Opened) -> None:
    """What Hugging Face's tokenizers (Qwen2) and Google's sentencepiece (Gemma) make of it, of those below apart."""
    theirs = packaged(opened.path, parse_special=parse_special)
    sentencepiece = opened.path.stem == models.GEMMA
    texts = [text for text in hard_texts() if not (sentencepiece and SPACES_TO_SENTENCEPIECE.search(text))]
    assert len(texts) > 0.9 * COUNT
    faults = [
        (ascii(text), ours, wanted)
        for text in texts
        if (ours := opened.engine.tokenize(text, parse_special=parse_special)) != (wanted := theirs(text))
    ]
    assert not faults, f"{len(faults)} of {len(texts)} differ: {faults[:FAULTS_SHOWN]}"


def test_examples_of_hard_texts(opened: Opened) -> None:
    """Each can be trained on, as the tokens of the text, and every byte of the answer and the end is learned."""
    model = read_gguf(opened.path)
    formatter, eos = formatter_of(model, opened.engine, datetime.date(2026, 1, 31)), special_token(model, "eos")
    for text in hard_texts():
        # Behind a control token that ends the answer nothing is learned, so a word follows it.
        answer = f"A{text}." + eos
        (example,) = formatter.examples(PromptCompletion(f"Q{text}\n", answer), "f:1")
        tokens = opened.engine.tokenize(f"Q{text}\n{answer}", add_special=True)
        assert example.tokens.tolist() == tokens, ascii(text)
        learned = opened.engine.detokenize(example.tokens[example.supervised == 1].tolist()).decode()
        assert learned.replace("▁", " ") == answer.replace("▁", " "), ascii(text)


# A sign that SentencePiece puts for a space, beside another one or a space: it then takes both for a run of spaces.
SPACES_TO_SENTENCEPIECE = re.compile("▁[▁ ]| ▁")
DIFFERENCES = {"▁▁": models.GEMMA, "▁ b": models.GEMMA, "e\u0301": models.CODER, "a</s>": models.CODER}


@pytest.mark.parametrize("text", DIFFERENCES)
def test_where_llama_cpp_leaves_the_published_tokenizer(text: str) -> None:
    """Training follows llama.cpp there, too, because that is what will answer; these are all the differences known."""
    path = models.require(DIFFERENCES[text])
    with Engine(path, threads=1) as engine:
        ours = engine.tokenize(text)
    assert ours == VocabularyOnly(path).tokenize(text)
    assert ours != packaged(path, parse_special=True, published=True)(text)


def test_what_a_user_says_of_control_tokens(opened: Opened) -> None:
    """Read as text they are letters, and their letters give the text back; read as a prompt they are themselves."""
    mark = "<|im_end|>" if opened.path.stem == models.CODER else "<end_of_turn>"
    as_text = opened.engine.tokenize(f"say {mark} now", parse_special=False)
    as_prompt = opened.engine.tokenize(f"say {mark} now", parse_special=True)
    (token,) = opened.engine.tokenize(mark)
    assert token in as_prompt
    assert token not in as_text
    for tokens in (as_text, as_prompt):
        assert opened.engine.detokenize(tokens).decode() == f"say {mark} now"
