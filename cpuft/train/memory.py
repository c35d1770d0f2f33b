"""Whether a training pass may keep its activations or has to compute them again."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from cpuft.config import Config

HEADROOM = 0.85  # of the memory that is free: other programs, and the workspaces that one layer's pass needs


def activation_policy(config: Config, facts: Mapping[str, Any], n_tokens: int) -> Literal["keep", "recompute"]:
    """The configured policy, or for "auto" the fastest that fits for passes of n_tokens; gradients are the same."""
    if config.training.activations != "auto":
        return "keep" if config.training.activations == "keep" else "recompute"
    needed = activation_bytes(config, facts, n_tokens) + int(facts["weight_bytes"])
    return "keep" if needed <= HEADROOM * free_memory() else "recompute"


def activation_bytes(config: Config, facts: Mapping[str, Any], n_tokens: int) -> int:
    """What the adapted layers of a pass keep for the backward pass under "keep", in bytes.

    A token leaves in each layer: q, k, v, the attention's output, the residual after it, and the gate and up
    projections, in the precision of the products; and in float32 the residual before the layer, a sum for each head,
    and `rank` values for each adapted linear layer. The large arrays are those of native/activations.h.
    """
    embd, ff, head, head_kv = (int(facts[name]) for name in ("n_embd", "n_ff", "n_head", "n_head_kv"))
    n_layer = min(int(facts["n_layer"]), config.lora.layers or int(facts["n_layer"]))
    wide = 2 * (head + head_kv) * int(facts["head_size"]) + embd + 2 * ff
    narrow = embd + head + config.lora.rank * len(config.lora.targets)
    return n_tokens * n_layer * (wide * (4 if facts["precision"] == "f32" else 2) + 4 * narrow)


def free_memory() -> int:
    """Bytes that this process could still take: what Linux calls available, elsewhere half of what is installed."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
