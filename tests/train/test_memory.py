"""Proves that activations are kept where they fit into the free memory, and how large they are taken to be."""

from dataclasses import replace
from typing import Any

import pytest

from cpuft.config import Config, LoraConfig, TrainConfig
from cpuft.train import memory
from cpuft.train.memory import activation_bytes, activation_policy, free_memory

FACTS: dict[str, Any] = {
    "n_layer": 3,
    "n_embd": 100,
    "n_ff": 1000,
    "n_head": 10,
    "n_head_kv": 5,
    "head_size": 20,
    "precision": "f32",
    "post_norms": False,
    "weight_bytes": 5_000_000,
}
CONFIG = Config(LoraConfig(rank=8, target_modules=("q_proj", "up_proj")))
ROWS = 2 * 100 + 2 * 200 + 2 * 100  # residual before the layer and after attention; q, o; k, v
MLP = 2 * 1000  # gate, up
SUMS = 10 + 2 * 8  # one for each head; rank values for each target


def test_the_size_of_what_is_kept() -> None:
    assert activation_bytes(CONFIG, FACTS, 7) == 7 * 3 * 4 * (ROWS + MLP + SUMS)
    assert activation_bytes(CONFIG, {**FACTS, "precision": "bf16"}, 7) == 7 * 3 * (2 * (ROWS + MLP) + 4 * SUMS)
    scales = 2 * 16 * 4  # of 1000 values in blocks of 64, for gate and up
    assert activation_bytes(CONFIG, {**FACTS, "precision": "int8"}, 7) == 7 * 3 * (2 * ROWS + MLP + scales + 4 * SUMS)
    post_normed = 2 * 100  # what attention and the MLP give, before their norms
    normed = activation_bytes(CONFIG, {**FACTS, "post_norms": True}, 7)
    assert normed == 7 * 3 * 4 * (ROWS + post_normed + MLP + SUMS)
    last = replace(CONFIG, lora=replace(CONFIG.lora, layers=1))
    assert activation_bytes(last, FACTS, 7) == 7 * 4 * (ROWS + MLP + SUMS)


def test_the_policy_follows_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = activation_bytes(CONFIG, FACTS, 1000) + 5_000_000
    for free, policy in ((needed, "recompute"), (2 * needed, "keep")):
        monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
        assert activation_policy(CONFIG, FACTS, 1000) == policy
        for fixed in ("keep", "recompute"):
            config = replace(CONFIG, training=TrainConfig(activations=fixed))
            assert activation_policy(config, FACTS, 1000) == fixed


def test_there_is_free_memory() -> None:
    assert 1 << 20 < free_memory() < 1 << 50
