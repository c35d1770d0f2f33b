"""Proves that any adapter file, put onto an engine, gives the logits of the merged model."""

from pathlib import Path

import numpy as np
import pytest

from cpuft.adapters.adapter import Adapter, read_adapter, write_adapter
from cpuft.adapters.attachment import attach_for_inference
from cpuft.engine import Engine
from cpuft.errors import AdapterError
from cpuft.release.merge import merge
from tests.engine.golden import CASES
from tests.engine.random_model import write_model
from tests.gguf.tiny import FloatArray, random_adapter, write_tiny_model

TOKENS = np.array([1, 70, 71, 72, 73], np.int32)


def logits(model: Path, adapter: Adapter | None = None) -> FloatArray:
    with Engine(model, threads=1, precision="f32") as engine:
        if adapter is not None:
            attach_for_inference(engine, adapter)
        return engine.logits(TOKENS, np.array([TOKENS.size], np.int64))


def test_ranks_and_layers_may_differ(tmp_path: Path) -> None:
    """Rank 4 on queries and rank 2 on ffn_down, in the last layer, so with two scales."""
    model = write_tiny_model(tmp_path / "base.gguf", n_layer=3)
    wide, narrow = random_adapter(model, rank=4), random_adapter(model, rank=2, seed=1)
    tensors = {n: v for n, v in wide.items() if n.startswith("blk.2.attn_q")}
    tensors |= {n: v for n, v in narrow.items() if n.startswith("blk.2.ffn_down")}
    write_adapter(tmp_path / "a.gguf", tensors, alpha=8, architecture="llama")
    merged = merge(model, tmp_path / "merged.gguf", adapter_path=tmp_path / "a.gguf").output
    base, expected = logits(model), logits(merged)
    distance = np.linalg.norm(logits(model, read_adapter(tmp_path / "a.gguf")) - expected)
    assert distance < 1e-5 * np.linalg.norm(expected - base)


def test_weights_that_are_fused(tmp_path: Path) -> None:
    """Phi-3's ffn_up holds gate and up: an adapter of it sits on both."""
    case = CASES["phi3"]
    model = write_model(tmp_path / "base.gguf", case.model)
    write_adapter(tmp_path / "a.gguf", case.adapter(), alpha=case.alpha, architecture="phi3")
    merged = merge(model, tmp_path / "merged.gguf", adapter_path=tmp_path / "a.gguf").output
    base, expected = logits(model), logits(merged)
    distance = np.linalg.norm(logits(model, read_adapter(tmp_path / "a.gguf")) - expected)
    assert distance < 1e-5 * np.linalg.norm(expected - base)


def test_a_weight_that_the_engine_cannot_adapt_is_named(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "base.gguf")
    head = {"output.weight.lora_a": np.ones((2, 64)), "output.weight.lora_b": np.ones((327, 2))}
    write_adapter(tmp_path / "a.gguf", head, alpha=8, architecture="llama")
    with pytest.raises(AdapterError, match=r"the adapter changes output\.weight, which cpuft cannot compute with"):
        logits(model, read_adapter(tmp_path / "a.gguf"))
