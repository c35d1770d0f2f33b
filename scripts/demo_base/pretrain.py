"""Trains the base model on the corpus, in checkpoints that a later call continues."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from scripts.demo_base.circuits import install_copying
from scripts.demo_base.corpus import conversation
from scripts.demo_base.network import Parameters, Shape, hidden_states, initial_parameters, logits
from scripts.demo_base.optimizer import MuonAdam
from scripts.demo_base.tokenizer import ChatTokenizer

Encoded = tuple[list[int], list[bool]]  # tokens, and which of them are supervised


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: warm-up, plateau, then a linear decay to zero over the last `decay` of the steps.

    Then a second phase, `second_steps` that start at `second_rate` and decay to zero. Its invented words are made of
    all the tokenizer's pieces, so that the model learns to copy those, too, that the corpus has in few words.
    """

    steps: int = 2400
    second_steps: int = 600
    second_rate: float = 0.4
    tokens_per_step: int = 4096
    warmup: int = 30
    decay: float = 0.5
    matrix_rate: float = 0.02
    other_rate: float = 0.004

    def at(self, step: int) -> float:
        """Factor of the learning rates at `step` (0-based)."""
        if step >= self.steps:
            return self.second_rate * (1.0 - (step - self.steps) / self.second_steps)
        left = (self.steps - step) / (self.decay * self.steps)
        return min(1.0, (step + 1) / self.warmup, left)


def batches(
    tokenizer: ChatTokenizer, seed: int, tokens_per_batch: int, start: int = 0, fragments: Sequence[str] = ()
) -> Iterator[list[Encoded]]:
    """Conversations of similar length, at most `tokens_per_batch` with padding; endless, beginning at batch `start`."""
    index = made = 0
    while True:
        pool = sorted(
            (tokenizer.encode(conversation(seed, index + i, fragments)) for i in range(512)),
            key=lambda pair: len(pair[0]),
        )
        index += 512
        groups: list[list[Encoded]] = [[]]
        for example in pool:
            if (len(groups[-1]) + 1) * len(example[0]) > tokens_per_batch:
                groups.append([])
            groups[-1].append(example)
        random.Random(index).shuffle(groups)
        for group in groups:
            made += 1
            if made > start:
                yield group


def loss_sum(parameters: Parameters, shape: Shape, batch: Sequence[Encoded]) -> tuple[torch.Tensor, int]:
    """Cross-entropy (nats) summed over the supervised tokens of the batch, and their count."""
    length = max(len(tokens) for tokens, _ in batch)
    tokens = torch.zeros(len(batch), length, dtype=torch.long)
    targets = torch.zeros(len(batch), length, dtype=torch.bool)
    for row, (ids, supervised) in enumerate(batch):
        tokens[row, : len(ids)] = torch.tensor(ids)
        targets[row, : len(ids)] = torch.tensor(supervised)
    hidden = hidden_states(parameters, shape, tokens[:, :-1])
    scores = logits(parameters, hidden[targets[:, 1:]])
    return F.cross_entropy(scores, tokens[:, 1:][targets[:, 1:]], reduction="sum"), int(targets[:, 1:].sum())


def pretrain(
    tokenizer: ChatTokenizer, shape: Shape, schedule: Schedule, seed: int, checkpoint: Path, log: Callable[[str], None]
) -> Parameters:
    """Trains through both phases, continuing `checkpoint` where it exists; returns the parameters."""
    parameters = initial_parameters(shape, seed)
    install_copying(parameters, shape, seed)
    optimizer = MuonAdam(parameters, matrix_rate=schedule.matrix_rate, other_rate=schedule.other_rate)
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        for kept, values in ((parameters, saved["parameters"]), (optimizer.state, saved["state"])):
            kept.update(values)
        optimizer.squares.update(saved["squares"])
        optimizer.steps = saved["steps"]
    for value in parameters.values():
        value.requires_grad_()
    held_out = [tokenizer.encode(conversation(seed + 1, index)) for index in range(32)]
    began, seen = time.monotonic(), 0
    size, first, last = schedule.tokens_per_step, schedule.steps, schedule.steps + schedule.second_steps
    stream = chain(
        islice(batches(tokenizer, seed, size, start=optimizer.steps), max(0, first - optimizer.steps)),
        batches(tokenizer, seed + 2, size, start=max(0, optimizer.steps - first), fragments=tokenizer.fragments()),
    )
    for step, batch in zip(range(optimizer.steps, last), stream, strict=False):
        total, count = loss_sum(parameters, shape, batch)
        (total / count).backward()
        optimizer.step(schedule.at(step))
        seen += sum(len(tokens) for tokens, _ in batch)
        if (step + 1) % 25 == 0:
            speed = seen / (time.monotonic() - began)
            log(f"step {step + 1}/{last} loss {total.item() / count:.4f} {speed:.0f} tokens/s")
        if (step + 1) % 100 == 0 or step + 1 == last:
            with torch.no_grad():
                total, count = loss_sum(parameters, shape, held_out)
            log(f"step {step + 1} held-out loss {total.item() / count:.4f}")
            save(checkpoint, optimizer)
    return parameters


def save(checkpoint: Path, optimizer: MuonAdam) -> None:
    """Writes everything that continuing needs, to a temporary name first."""
    detached = {name: value.detach() for name, value in optimizer.parameters.items()}
    temporary = checkpoint.with_suffix(".tmp")
    torch.save(
        {"parameters": detached, "state": optimizer.state, "squares": optimizer.squares, "steps": optimizer.steps},
        temporary,
    )
    temporary.replace(checkpoint)
