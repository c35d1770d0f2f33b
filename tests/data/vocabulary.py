"""The vocabularies and chat templates that come with llama.cpp's source, run by llama.cpp itself."""

import ctypes
import datetime
import functools
from collections.abc import Sequence
from pathlib import Path

from cpuft import toolchain
from cpuft.chat.alignment import AlignedTokenizer
from cpuft.chat.template import ChatTemplate
from cpuft.data.dataset import formatter_of
from cpuft.data.examples import Example, Formatter
from cpuft.gguf.reader import read_gguf

toolchain.use_llama_cpp()  # before the import: it decides which libraries are loaded
import llama_cpp  # noqa: E402

MODELS = toolchain.locate().source / "models"
DATE = datetime.date(2026, 1, 31)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _discard(level: int, text: bytes, data: None) -> None:
    """Tells llama.cpp's log to nobody."""


llama_cpp.llama_log_set(_discard, ctypes.c_void_p(0))


class VocabularyOnly:
    """A tokenizer as llama.cpp runs it, through llama-cpp-python; the model's weights are not needed."""

    def __init__(self, path: Path) -> None:
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        assert model is not None, f"llama.cpp cannot load {path}"
        self._vocabulary = llama_cpp.llama_model_get_vocab(model)

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """As Engine.tokenize."""
        data = text.encode()
        tokens = (llama_cpp.llama_token * (len(data) + 16))()
        n = llama_cpp.llama_tokenize(self._vocabulary, data, len(data), tokens, len(tokens), add_special, parse_special)
        assert n >= 0
        return list(tokens[:n])

    def detokenize(self, tokens: Sequence[int], *, render_special: bool = True) -> bytes:
        """As Engine.detokenize."""
        text = ctypes.create_string_buffer(512 * len(tokens) + 512)
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        n = llama_cpp.llama_detokenize(self._vocabulary, array, len(array), text, len(text), False, render_special)
        assert n >= 0
        return text.raw[:n]


@functools.cache
def tokenizer_of(name: str) -> VocabularyOnly:
    """The tokenizer of models/ggml-vocab-NAME.gguf."""
    return VocabularyOnly(MODELS / f"ggml-vocab-{name}.gguf")


def formatter(name: str, template: str | None = None) -> tuple[Formatter, AlignedTokenizer]:
    """A formatter for a vocabulary, with its own chat template, or one by its file's name, or one given as Jinja."""
    model = read_gguf(MODELS / f"ggml-vocab-{name}.gguf")
    made = formatter_of(model, tokenizer_of(name), DATE)
    tokenizer = made._tokenizer
    if template is None:
        return made, tokenizer
    source = template if "{" in template else (MODELS / "templates" / f"{template}.jinja").read_text(encoding="utf-8")
    tokens = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
    return Formatter(tokenizer, ChatTemplate(source, model.path, **tokens, date=DATE)), tokenizer


def supervised_texts(example: Example, tokenizer: AlignedTokenizer) -> list[str]:
    """The stretches of an example that are trained on, as text."""
    stretches: list[bytes] = []
    before = 0
    for token, supervised in zip(example.tokens.tolist(), example.supervised.tolist(), strict=True):
        if supervised and not before:
            stretches.append(b"")
        if supervised:
            stretches[-1] += tokenizer.piece(token).text
        before = supervised
    return [stretch.decode() for stretch in stretches]
