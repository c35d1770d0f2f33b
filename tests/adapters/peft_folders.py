"""PEFT folders, and bases of every architecture: headers alone, which is all that a conversion reads of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from cpuft.gguf.reader import TYPES_BY_NAME, Field, Gguf, Tensor
from cpuft.gguf.writer import text, u32
from tests.gguf.tiny import FloatArray

# 6 heads of 4 values share 2 heads of keys, and no two sizes are equal, so that nothing fits where it should not.
HEAD_SIZE, N_QUERY, N_KEY, N_EMBD, N_FF, N_LAYER = 4, 24, 8, 18, 28, 3
STANDARD = {
    "attn_q": (N_QUERY, N_EMBD),
    "attn_k": (N_KEY, N_EMBD),
    "attn_v": (N_KEY, N_EMBD),
    "attn_output": (N_EMBD, N_QUERY),
    "ffn_gate": (N_FF, N_EMBD),
    "ffn_up": (N_FF, N_EMBD),
    "ffn_down": (N_EMBD, N_FF),
}
FUSED = {
    "attn_qkv": (N_QUERY + 2 * N_KEY, N_EMBD),
    "attn_output": (N_EMBD, N_QUERY),
    "ffn_up": (2 * N_FF, N_EMBD),
    "ffn_down": (N_EMBD, N_FF),
}


def header(architecture: str) -> Gguf:
    """A base model's header, with N_LAYER layers."""
    fields: list[Field] = [
        text("general.architecture", architecture),
        text("general.name", "tiny"),
        u32(f"{architecture}.attention.head_count", 6),
        u32(f"{architecture}.embedding_length", N_EMBD),
        u32(f"{architecture}.attention.key_length", HEAD_SIZE),
    ]
    linears = FUSED if architecture == "phi3" else STANDARD
    names = [(f"blk.{layer}.{own}.weight", shape) for layer in range(N_LAYER) for own, shape in linears.items()]
    tensors = {name: Tensor(name, shape, TYPES_BY_NAME["f32"], 0) for name, shape in names}
    return Gguf(Path(f"{architecture}.gguf"), 3, 0, 32, {field.key: field for field in fields}, tensors)


def adapter_tensors(base: Gguf, rank: int = 3, seed: int = 0) -> dict[str, FloatArray]:
    """A random pair for each of a base's weights."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, FloatArray] = {}
    for name, tensor in base.tensors.items():
        tensors[name + ".lora_a"] = rng.standard_normal((rank, tensor.columns)).astype(np.float32)
        tensors[name + ".lora_b"] = rng.standard_normal((tensor.rows, rank)).astype(np.float32)
    return tensors


def module_pair(module: str, shape: tuple[int, int], rank: int = 3, seed: int = 0) -> dict[str, FloatArray]:
    """A random pair by PEFT's names: module "layers.0.self_attn.q_proj" with (n_out, n_in)."""
    rng = np.random.default_rng(seed)
    name = f"base_model.model.model.{module}.lora_"
    return {
        f"{name}A.weight": rng.standard_normal((rank, shape[1])).astype(np.float32),
        f"{name}B.weight": rng.standard_normal((shape[0], rank)).astype(np.float32),
    }


def write_folder(folder: Path, tensors: dict[str, Any], **config: Any) -> Path:
    """A folder as PEFT saves it: rank 3 and alpha 6, unless `config` says otherwise."""
    folder.mkdir()
    document = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["q_proj"], "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    (folder / "adapter_model.safetensors").write_bytes(safetensors.numpy.save(tensors))
    return folder
