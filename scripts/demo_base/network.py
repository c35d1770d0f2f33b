"""The tiny base model in PyTorch: llama.cpp's `llama` architecture, with its tensor names and its layout.

B = sequences, T = tokens, C = n_embd, H = n_head, D = C/H = head size, F = n_ff, V = vocabulary.
Parameters are a plain dict from GGUF tensor name to float32 tensor (rows, columns): the file that llama.cpp loads is
this dict written down, and a LoRA pair is two more entries in it. RoPE turns the pairs (2i, 2i+1), which is the
order that GGUF's `llama` expects, so Q and K need no permutation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

Parameters = dict[str, torch.Tensor]

LINEARS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@dataclass(frozen=True)
class Shape:
    """Sizes of the network. Every row is a multiple of 256 wide, so that K-quants fit as well as Q8_0."""

    n_vocab: int = 2048
    n_ctx: int = 1024
    n_layer: int = 4
    n_embd: int = 256
    n_ff: int = 768
    n_head: int = 4
    n_head_kv: int = 2
    rope_base: float = 1e6
    norm_epsilon: float = 1e-5

    @property
    def head_size(self) -> int:
        """Columns of one attention head."""
        return self.n_embd // self.n_head

    def linear(self, name: str) -> tuple[int, int]:
        """(rows, columns) of the linear layer `name` of a block."""
        kv = self.n_head_kv * self.head_size
        return {
            "attn_q": (self.n_embd, self.n_embd),
            "attn_k": (kv, self.n_embd),
            "attn_v": (kv, self.n_embd),
            "attn_output": (self.n_embd, self.n_embd),
            "ffn_gate": (self.n_ff, self.n_embd),
            "ffn_up": (self.n_ff, self.n_embd),
            "ffn_down": (self.n_embd, self.n_ff),
        }[name]


def initial_parameters(shape: Shape, seed: int) -> Parameters:
    """Random weights. What writes to the residual stream starts at zero, so that at first every block passes its input.

    Embedding values have a standard deviation of 0.5; the weight of the last norm brings the logits back near 1.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters: Parameters = {
        "token_embd.weight": 0.5 * torch.randn(shape.n_vocab, shape.n_embd, generator=generator),
        "output_norm.weight": torch.full((shape.n_embd,), 0.05),
    }
    for layer in range(shape.n_layer):
        for norm in ("attn_norm", "ffn_norm"):
            parameters[f"blk.{layer}.{norm}.weight"] = torch.ones(shape.n_embd)
        for name in LINEARS:
            rows, columns = shape.linear(name)
            scale = 0.0 if name in ("attn_output", "ffn_down") else columns**-0.5
            parameters[f"blk.{layer}.{name}.weight"] = scale * torch.randn(rows, columns, generator=generator)
    return parameters


def add_adapter(shape: Shape, rank: int, alpha: float, seed: int) -> Parameters:
    """LoRA pairs for all linear layers: A (rank, columns) random and already times alpha/rank, B (rows, rank) zero."""
    generator = torch.Generator().manual_seed(seed)
    adapter: Parameters = {}
    for layer in range(shape.n_layer):
        for name in LINEARS:
            rows, columns = shape.linear(name)
            bound = columns**-0.5
            values = torch.rand(rank, columns, generator=generator) * 2 * bound - bound
            adapter[f"blk.{layer}.{name}.weight.lora_a"] = values
            adapter[f"blk.{layer}.{name}.weight.lora_b"] = torch.zeros(rows, rank)
    adapter["scale"] = torch.tensor(alpha / rank)
    return adapter


def rope_table(shape: Shape, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (T, D/2) of the rotary angles of positions 0..T-1."""
    frequencies = shape.rope_base ** (-torch.arange(0, shape.head_size, 2).float() / shape.head_size)
    angles = torch.arange(length).float()[:, None] * frequencies[None, :]
    return angles.cos(), angles.sin()


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates x (B, heads, T, D) pair by pair."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def linear(parameters: Parameters, name: str, x: torch.Tensor) -> torch.Tensor:
    """X W^T, plus the LoRA path where `parameters` holds one for `name`."""
    y = F.linear(x, parameters[name + ".weight"])
    lora_a = parameters.get(name + ".weight.lora_a")
    if lora_a is None:
        return y
    lora_b = parameters[name + ".weight.lora_b"]
    return y + parameters["scale"] * F.linear(F.linear(x, lora_a), lora_b)


def hidden_states(parameters: Parameters, shape: Shape, tokens: torch.Tensor) -> torch.Tensor:
    """Normalized output (B, T, C) of the last block for tokens (B, T)."""
    batch, length = tokens.shape
    cos, sin = rope_table(shape, length)
    group = shape.n_head // shape.n_head_kv

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(x, (shape.n_embd,), parameters[name + ".weight"], shape.norm_epsilon)

    def heads(x: torch.Tensor, count: int) -> torch.Tensor:
        return x.view(batch, length, count, shape.head_size).transpose(1, 2)

    x = F.embedding(tokens, parameters["token_embd.weight"])
    for layer in range(shape.n_layer):
        block = f"blk.{layer}."
        h = norm(x, block + "attn_norm")
        q = rope(heads(linear(parameters, block + "attn_q", h), shape.n_head), cos, sin)
        k = rope(heads(linear(parameters, block + "attn_k", h), shape.n_head_kv), cos, sin)
        v = heads(linear(parameters, block + "attn_v", h), shape.n_head_kv)
        k, v = k.repeat_interleave(group, dim=1).to(v.dtype), v.repeat_interleave(group, dim=1)
        mixed = F.scaled_dot_product_attention(q.to(v.dtype), k, v, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(batch, length, shape.n_embd)
        x = x + linear(parameters, block + "attn_output", mixed)
        h = norm(x, block + "ffn_norm")
        gated = F.silu(linear(parameters, block + "ffn_gate", h)) * linear(parameters, block + "ffn_up", h)
        x = x + linear(parameters, block + "ffn_down", gated)
    return norm(x, "output_norm")


def logits(parameters: Parameters, hidden: torch.Tensor) -> torch.Tensor:
    """Scores (..., V) of the next token; the head is tied to the embedding."""
    return F.linear(hidden, parameters["token_embd.weight"])
