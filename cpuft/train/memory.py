"""Whether a training pass may keep its activations or has to compute them again."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from cpuft.config import Config

BYTE_BLOCK = (
    64  # values that share a float32 scale where they are kept as bytes: kByteBlock of native/kernels/kernels.h
)
HEADROOM = 0.85  # of the memory that is free: other programs, and the workspaces that one layer's pass needs


def activation_policy(config: Config, facts: Mapping[str, Any], n_tokens: int) -> Literal["keep", "recompute"]:
    """The configured policy, or for "auto" the fastest that fits for passes of n_tokens; gradients are the same."""
    if config.training.activations != "auto":
        return "keep" if config.training.activations == "keep" else "recompute"
    needed = activation_bytes(config, facts, n_tokens) + int(facts["weight_bytes"])
    return "keep" if needed <= HEADROOM * free_memory() else "recompute"


def activation_bytes(config: Config, facts: Mapping[str, Any], n_tokens: int) -> int:
    """What the adapted layers of a pass keep for the backward pass under "keep", in bytes.

    A token leaves in each layer what native/activations.h lists: the residual before it, q, k, v, the attention's
    output, the residual after that, the MLP's gate and up, and what norms behind attention and MLP read, in bfloat16
    unless the precision is f32, gate and up in bytes where it is int8; and in float32 a sum for each head, and `rank`
    values for each adapted linear layer.
    """
    embd, ff, head, head_kv = (int(facts[name]) for name in ("n_embd", "n_ff", "n_head", "n_head_kv"))
    n_layer = min(int(facts["n_layer"]), config.lora.layers or int(facts["n_layer"]))
    rows = (4 if facts["post_norms"] else 2) * embd + 2 * (head + head_kv) * int(facts["head_size"])
    sums = head + config.lora.rank * len(config.lora.targets)
    rows_bytes = rows * (4 if facts["precision"] == "f32" else 2)
    return n_tokens * n_layer * (rows_bytes + 2 * _mlp_bytes(ff, facts["precision"]) + 4 * sums)


def _mlp_bytes(n_ff: int, precision: str) -> int:
    """Of a row of gate or up as native/stored_rows.h keeps it."""
    if precision == "int8":
        return -(-n_ff // BYTE_BLOCK) * 4 + -(-n_ff // 4) * 4
    return n_ff * (4 if precision == "f32" else 2)


def free_memory() -> int:
    """Bytes that this process could still take: what Linux calls available, elsewhere half of what is installed."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
