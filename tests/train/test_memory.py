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
    "weight_bytes": 5_000_000,
}
CONFIG = Config(LoraConfig(rank=8, target_modules=("q_proj", "up_proj")))
WIDE = 2 * 200 + 2 * 100 + 100 + 2 * 1000  # q, o; k, v; residual after attention; gate, up
NARROW = 100 + 10 + 2 * 8  # residual before the layer; one for each head; rank values for each target


def test_the_size_of_what_is_kept() -> None:
    assert activation_bytes(CONFIG, FACTS, 7) == 7 * 3 * 4 * (WIDE + NARROW)
    assert activation_bytes(CONFIG, {**FACTS, "precision": "bf16"}, 7) == 7 * 3 * (2 * WIDE + 4 * NARROW)
    last = replace(CONFIG, lora=replace(CONFIG.lora, layers=1))
    assert activation_bytes(last, FACTS, 7) == 7 * 4 * (WIDE + NARROW)


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
