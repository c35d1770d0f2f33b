"""Proves that llama-imatrix reads the training text as the chat template writes it, once for a model and data set."""

import datetime
import json
from pathlib import Path

import numpy as np
import pytest

from cpuft.adapters.adapter import write_adapter
from cpuft.data.batches import epoch_order
from cpuft.data.dataset import formatter_of, load_dataset
from cpuft.engine import Engine
from cpuft.errors import DatasetError
from cpuft.gguf.reader import read_gguf
from cpuft.release import importance_text as calibration
from cpuft.release.importance import read_imatrix
from cpuft.release.importance_text import calibration_text, importance_matrix
from tests.gguf.tiny import random_adapter, write_tiny_model


def write_chats(path: Path, n_chats: int) -> Path:
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"say {i}"},
                {"role": "assistant", "content": f"it is {i}, you said"},
            ]
        }
        for i in range(n_chats)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(calibration, "cache_dir", lambda: tmp_path / "cache")
    return write_tiny_model(tmp_path / "base.gguf")


def test_the_text_is_what_is_trained_on(model: Path, tmp_path: Path) -> None:
    path = write_chats(tmp_path / "train.jsonl", 5)
    with Engine(model) as engine:
        formatter = formatter_of(read_gguf(model), engine, datetime.date.today())
        text = calibration_text(engine, formatter, path)
        order = epoch_order(5, seed=0, epoch=0)
        assert text == "".join(f"<s>user\nsay {i}</s><s>assistant\nit is {i}, you said</s>" for i in order)
        examples = load_dataset(path, formatter, max_length=512, limit="", truncate=False).examples
        trained = np.concatenate([examples[i].tokens for i in order])
        assert engine.tokenize(text, add_special=True) == trained.tolist()
        assert calibration_text(engine, formatter, path, max_tokens=examples[0].tokens.size * 2).count("user") == 2


def test_a_matrix_is_computed_once(model: Path, tmp_path: Path) -> None:
    data = write_chats(tmp_path / "train.jsonl", 20)
    write_adapter(tmp_path / "a.gguf", random_adapter(model, rank=2), alpha=4, architecture="llama")
    first = importance_matrix(data, model, threads=1)
    written = first.path.stat().st_mtime_ns
    assert first.path.parent == tmp_path / "cache" / "imatrix"
    assert first.dataset == "train.jsonl"
    again = importance_matrix(data, model, threads=2)
    assert (again.path, again.path.stat().st_mtime_ns) == (first.path, written)
    adapted = importance_matrix(data, model, adapter=tmp_path / "a.gguf", threads=1)
    assert adapted.path != first.path
    last = "blk.1.ffn_down.weight"
    assert not np.allclose(adapted.values[last], first.values[last], rtol=1e-2)  # the adapter took part
    assert importance_matrix(first.path, model).values.keys() == read_imatrix(first.path).values.keys()


def test_too_little_text_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "too short"}')
    with pytest.raises(DatasetError, match=r"train\.jsonl: \d+ tokens, expected at least 32 to compute"):
        importance_matrix(tmp_path / "train.jsonl", model)
