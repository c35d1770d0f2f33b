"""A model file that changes while it is open ends a pass with one sentence, never the process, and without numbers."""

import os
from pathlib import Path

import numpy as np
import pytest

from cpuft.engine import Batch, Engine
from cpuft.errors import ModelError

from .random_model import ModelSpec, write_model

SPEC = ModelSpec("llama", n_layer=1, n_embd=48, n_ff=64, n_head=3, n_head_kv=1, head_size=16, seed=44)
TOKENS = np.arange(8, dtype=np.int32)
LENGTHS = np.array([8], np.int64)
BATCH = Batch(TOKENS, np.ones(8, np.uint8), LENGTHS)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model that a test may spoil."""
    return write_model(tmp_path / "model.gguf", SPEC)


def every_pass(engine: Engine) -> list[str]:
    """What each function that reads weights says."""
    hidden = np.zeros((1, SPEC.n_embd), np.float32)
    said = []
    for run in (
        lambda: engine.forward_backward(BATCH),
        lambda: engine.forward(BATCH),
        lambda: engine.forward_frozen(TOKENS, LENGTHS),
        lambda: engine.forward_hidden(TOKENS, LENGTHS),
        lambda: engine.logits_of(hidden),
    ):
        with pytest.raises(ModelError) as caught:
            run()
        said.append(str(caught.value))
    return said


def test_a_file_that_was_cut(model: Path) -> None:
    """Between two passes; `test_cut_files` cuts one in the middle of a pass."""
    size = model.stat().st_size
    with Engine(model, threads=2) as engine:
        engine.adapter_init(rank=2, alpha=4.0)
        os.truncate(model, size // 2)
        wanted = f"{model} had {size} bytes when it was opened and has {size // 2} now"
        assert all(sentence.startswith(wanted) for sentence in every_pass(engine))


def test_a_file_that_was_overwritten(model: Path) -> None:
    with Engine(model, threads=2) as engine:
        engine.adapter_init(rank=2, alpha=4.0)
        parameters = engine.parameters.copy()
        with model.open("r+b") as stream:
            stream.seek(-4096, os.SEEK_END)
            stream.write(b"\xff" * 4096)
        os.utime(model, (2e9, 2e9))  # a clock that is too coarse to tell would be the machine's fault
        assert all("was written to since it was opened" in sentence for sentence in every_pass(engine))
        assert np.array_equal(engine.parameters, parameters)


def test_a_new_file_in_its_place_changes_nothing(model: Path) -> None:
    """What is mapped is the old one, vocabulary included, which is read when it is first asked for."""
    with Engine(model, threads=2) as engine:
        engine.adapter_init(rank=2, alpha=4.0)
        loss = engine.forward(BATCH)
        other = model.with_name("other.gguf")
        other.write_bytes(b"no GGUF file")
        other.replace(model)
        assert engine.forward(BATCH) == loss
        tokens = engine.tokenize("to be")
        assert engine.detokenize(tokens).strip() == b"to be"
    with pytest.raises(ModelError, match="magic"):
        Engine(model)
