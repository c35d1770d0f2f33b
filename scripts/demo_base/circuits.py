"""Gives the fresh network the circuit for copying, so that training need not find it.

A transformer learns to continue "... parcel app ... parcel" with "app" through an induction circuit (Olsson et al.,
2022, https://arxiv.org/abs/2209.11895): a head of one block writes to every position which token came before, a head of
a later block looks for the positions whose previous token is the current one, and copies what stands there. With random
weights that circuit appears, all of a sudden, after millions of tokens; two cores cannot wait for it. Written into
the initial weights it works before the first step, and training sharpens it as it does all other weights.

The residual stream (C = n_embd) is cut by a random orthonormal basis into a constant direction, a subspace `match`,
two subspaces for copies of `match` of the last token and of the one before it, and two subspaces whose content is
copied. D = head size. Heads 0 and 1 of a block share the first key-value head, heads 2 and 3 the second.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scripts.demo_base.network import Parameters, Shape

# Only the pairs that turn fast tell neighbours apart. The right offset must win over the next by about 8 nats:
# sharpness^2 / sqrt(D) * sum(1 - cos angle) = 8, where that sum over the fast pairs is 0.8 and D is 64.
_FAST_PAIRS = 8
_POSITION_SHARPNESS = 9.0
# A match must score about 12 nats where a mismatch has a standard deviation of 2.
_MATCH_SHARPNESS = 1.65
# What is copied must outweigh the current token, which is in the residual stream too.
_COPY_STRENGTH = 1.4
# RoPE pairs from this one on turn by less than 0.0024 a token (base 1e6, D 64): matching is blind to distance.
_SLOW_PAIR = 14
_CONSTANT = 2.0


@dataclass(frozen=True)
class _Subspaces:
    """Orthonormal rows, (1, C), (S, C) three times and (D, C) twice, with S = D - 2 * _SLOW_PAIR."""

    constant: torch.Tensor
    match: torch.Tensor
    last: torch.Tensor
    before_last: torch.Tensor
    copied: tuple[torch.Tensor, torch.Tensor]


def _subspaces(shape: Shape, seed: int) -> _Subspaces:
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(shape.n_embd, shape.n_embd, generator=generator))
    slow, size = shape.head_size - 2 * _SLOW_PAIR, shape.head_size
    constant, match, last, before, first, second, _ = torch.split(
        basis, [1, slow, slow, slow, size, size, shape.n_embd - 1 - 3 * slow - 2 * size]
    )
    return _Subspaces(constant, match, last, before, (first, second))


def install_copying(parameters: Parameters, shape: Shape, seed: int) -> None:
    """Writes the circuit into blocks 0 and 1 of freshly initialized `parameters`."""
    spaces = _subspaces(shape, seed)
    embedding = parameters["token_embd.weight"]
    for space in (spaces.constant, spaces.last, spaces.before_last):
        embedding -= embedding @ space.T @ space
    # Equal norms make the constant equally large after normalization, whatever the token is.
    embedding *= 0.5 * shape.n_embd**0.5 / embedding.norm(dim=1, keepdim=True)
    embedding += _CONSTANT * spaces.constant
    _look_back(parameters, shape, spaces)
    _find_and_copy(parameters, shape, spaces)


def _look_back(parameters: Parameters, shape: Shape, spaces: _Subspaces) -> None:
    """Block 0: head 0 attends to the last token, head 1 to the one before; both write its `match` content."""
    size = shape.head_size
    angles = shape.rope_base ** (-torch.arange(0, size, 2).float() / size)
    fast = torch.arange(size // 2) < _FAST_PAIRS
    constant = _CONSTANT / (0.5**2 + _CONSTANT**2 / shape.n_embd) ** 0.5  # its size after normalization

    def pairs(phase: torch.Tensor) -> torch.Tensor:
        """Rows (D, C) that turn the constant direction into unit pairs with the given phases (D/2)."""
        vector = torch.stack((fast * phase.cos(), fast * phase.sin()), dim=-1).flatten()
        return _POSITION_SHARPNESS / constant * vector[:, None] * spaces.constant

    # A query of phase p meets a key of phase k at the offset where their difference, in steps of the angle, is k - p.
    parameters["blk.0.attn_k.weight"][:size] = pairs(angles)
    parameters["blk.0.attn_q.weight"][:size] = pairs(0 * angles)
    parameters["blk.0.attn_q.weight"][size : 2 * size] = pairs(-angles)
    value, output = parameters["blk.0.attn_v.weight"], parameters["blk.0.attn_output.weight"]
    slow = spaces.match.shape[0]
    value[:slow] = spaces.match
    output[:, :slow] = spaces.last.T
    output[:, size : size + slow] = spaces.before_last.T


def _find_and_copy(parameters: Parameters, shape: Shape, spaces: _Subspaces) -> None:
    """Block 1: head 0 looks for the current token, head 2 for the last one, just before a position; both copy it."""
    size, slow = shape.head_size, slice(2 * _SLOW_PAIR, shape.head_size)
    query, key = parameters["blk.1.attn_q.weight"], parameters["blk.1.attn_k.weight"]
    value, output = parameters["blk.1.attn_v.weight"], parameters["blk.1.attn_output.weight"]
    for group, (sought, held) in enumerate(((spaces.match, spaces.last), (spaces.last, spaces.before_last))):
        head = 2 * group
        query[head * size : (head + 1) * size] = 0
        key[group * size : (group + 1) * size] = 0
        query[head * size : (head + 1) * size][slow] = _MATCH_SHARPNESS * sought
        key[group * size : (group + 1) * size][slow] = _MATCH_SHARPNESS * held
        value[group * size : (group + 1) * size] = spaces.copied[group]
        output[:, head * size : (head + 1) * size] = _COPY_STRENGTH * spaces.copied[group].T
