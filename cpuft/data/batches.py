"""Which examples an optimizer step sees, in which order, and how they are packed into passes of the engine.

Everything here is a function of the seed, the epoch and the examples, so a resumed run goes on exactly where it stopped
and nothing depends on timing, on free memory or on a random generator's state.
"""

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cpuft.data.examples import Example
from cpuft.engine import Batch

UintArray = npt.NDArray[np.uint64]


@functools.lru_cache(maxsize=2)  # of each epoch every step asks for it
def epoch_order(n_examples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """[n_examples]: the order of an epoch, in which every example stands once."""
    order = np.argsort(_hash(seed, epoch, np.arange(n_examples, dtype=np.uint64)), kind="stable")
    order.flags.writeable = False
    return order


def steps_per_epoch(n_examples: int, examples_per_step: int) -> int:
    """How many optimizer steps an epoch has; the last one may see fewer examples."""
    return -(-n_examples // examples_per_step)


def step_examples(n_examples: int, examples_per_step: int, seed: int, step: int) -> tuple[int, npt.NDArray[np.int64]]:
    """The epoch, from 0, that optimizer step `step`, from 1, belongs to, and the indices of its examples."""
    epoch, position = divmod(step - 1, steps_per_epoch(n_examples, examples_per_step))
    first = position * examples_per_step
    return epoch, epoch_order(n_examples, seed, epoch)[first : first + examples_per_step]


def dropout_keys(seed: int, epoch: int, indices: npt.NDArray[np.int64]) -> UintArray:
    """[n]: a number for each example and epoch that selects its dropout masks, however it is grouped."""
    return _hash(seed ^ 0xD20, epoch, indices.astype(np.uint64))


def passes(
    examples: Sequence[Example],
    indices: npt.NDArray[np.int64],
    tokens_per_pass: int,
    keys: UintArray | None = None,
    *,
    prefix_block: int | None = None,
) -> list[Batch]:
    """Packs examples[indices] into few batches that take at most tokens_per_pass tokens; a longer example has its own.

    keys: [len(indices)], the examples' dropout keys, or None for no dropout.
    prefix_block: the engine computes a beginning that examples of a pass share once, in whole blocks of so many tokens,
        where there is no dropout: what all of them share then counts once a pass. None: it counts in each.
    """
    chosen = [examples[i] for i in indices]
    prefix = 0 if prefix_block is None or keys is not None else _shared_prefix(chosen) // prefix_block * prefix_block
    batches = []
    for group in _first_fit([example.tokens.size - prefix for example in chosen], tokens_per_pass - prefix):
        grouped = [chosen[i] for i in group]
        batches.append(
            Batch(
                tokens=np.concatenate([example.tokens for example in grouped]),
                supervised=np.concatenate([example.supervised for example in grouped]),
                lengths=np.asarray([example.tokens.size for example in grouped], np.int64),
                dropout_keys=None if keys is None else np.ascontiguousarray(keys[group]),
            )
        )
    return batches


def _shared_prefix(examples: Sequence[Example]) -> int:
    """How many tokens all the examples begin with, none of which predicts a supervised token."""
    shared = min(max(int(example.supervised.argmax()) - 1, 0) for example in examples)
    for example in examples[1:]:
        differs = example.tokens[:shared] != examples[0].tokens[:shared]
        shared = int(differs.argmax()) if differs.any() else shared
    return shared


def _first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Positions in groups whose lengths sum to at most `capacity`: longest first, each into the first group with room.

    It needs at most 11/9 of the fewest groups possible, plus one (Johnson 1973). Groups keep the given order inside.
    """
    groups: list[list[int]] = []
    room: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[position]
        group = next((g for g, free in enumerate(room) if free >= length), None)
        if group is None:
            groups.append([position])
            room.append(capacity - length)
        else:
            groups[group].append(position)
            room[group] -= length
    return [sorted(group) for group in groups]


def _hash(seed: int, epoch: int, index: UintArray) -> UintArray:
    """[n]: 64 well mixed bits for each index (the finalizer of SplitMix64, Steele et al. 2014, once for each word)."""
    state = np.full(index.shape, seed & (2**64 - 1), np.uint64)
    for word in (np.full(index.shape, epoch, np.uint64), index):
        state = state * np.uint64(0x9E3779B97F4A7C15) + word  # wraps around, as intended
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state
