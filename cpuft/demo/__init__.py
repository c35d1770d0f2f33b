"""The demo's files: a tiny base model, and examples of the BA task. README.md beside them says how they were made."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

BASE_MODEL = _FOLDER / "base-q8_0.gguf"
TRAIN = _FOLDER / "train.jsonl"
VALIDATION = _FOLDER / "val.jsonl"
TEST = _FOLDER / "test.jsonl"
