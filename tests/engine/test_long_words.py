"""A text without a space, such as an encoded picture, is tokenized however long it is.

llama.cpp splits texts for some models with std::regex, which calls itself for each letter of a word.
"""

from pathlib import Path

import gguf
import pytest
from gguf.gguf_writer import GGUFValue

from cpuft.engine import Engine

from .random_model import ModelSpec, write_model

SPEC = ModelSpec("qwen2", n_layer=1, n_embd=48, n_ff=64, n_head=3, n_head_kv=1, head_size=16, seed=47)


@pytest.mark.parametrize(("kind", "letter"), [("gpt-4o", "a"), ("tekken", "a"), ("default", "!"), ("qwen2", "a")])
def test_forty_thousand_letters_in_a_row(kind: str, letter: str, tmp_path: Path) -> None:
    """Twice as many as fill a stack of 8 MiB."""
    metadata = {"tokenizer.ggml.pre": GGUFValue(kind, gguf.GGUFValueType.STRING)}
    with Engine(write_model(tmp_path / "m.gguf", SPEC, metadata=metadata), threads=1) as engine:
        word = letter * 40_000
        assert engine.detokenize(engine.tokenize(word)).decode() == word
