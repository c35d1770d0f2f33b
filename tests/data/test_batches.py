"""Proves that every example is seen once an epoch, in an order of the seed alone, packed without padding."""

from typing import Any

import numpy as np
import pytest

from cpuft.data.batches import dropout_keys, epoch_order, passes, step_examples, steps_per_epoch
from cpuft.data.examples import Example


def examples(lengths: list[int]) -> list[Example]:
    """Example i has only the token i, so that its place in a batch is visible."""
    return [Example(np.full(n, i, np.int32), np.arange(n, dtype=np.uint8) % 2, f"d:{i}") for i, n in enumerate(lengths)]


def test_every_example_once_an_epoch_and_the_last_step_is_partial() -> None:
    for epoch in range(3):
        steps = [step_examples(10, 4, 7, 3 * epoch + step) for step in (1, 2, 3)]
        assert [found for found, _ in steps] == [epoch] * 3
        assert [indices.size for _, indices in steps] == [4, 4, 2]
        assert sorted(np.concatenate([indices for _, indices in steps])) == list(range(10))
    assert steps_per_epoch(10, 4) == 3


def test_orders_differ_by_epoch_and_seed_and_are_pinned() -> None:
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    # A later version must give the same order: a run would otherwise not resume as it began.
    assert epoch_order(10, 0, 0).tolist() == [0, 7, 3, 1, 9, 5, 4, 6, 8, 2]


def test_the_order_is_fair() -> None:
    """Over 2000 epochs each of 5 examples comes first 400 times, give or take 5 standard deviations of 18."""
    first = np.bincount([epoch_order(5, 0, epoch)[0] for epoch in range(2000)], minlength=5)
    assert abs(first - 400).max() < 90


def test_a_dropout_key_belongs_to_the_example_and_the_epoch() -> None:
    keys = dropout_keys(3, 1, np.arange(6))
    assert dropout_keys(3, 1, np.array([4, 2])).tolist() == keys[[4, 2]].tolist()
    every = np.concatenate([dropout_keys(seed, epoch, np.arange(100)) for seed in range(5) for epoch in range(5)])
    assert len(set(every.tolist())) == 2500


@pytest.mark.parametrize("budget", [1, 7, 12, 1000])
def test_passes_hold_each_example_whole_within_the_budget(budget: int) -> None:
    lengths = [5, 3, 12, 1, 7, 7, 2]
    indices = np.array([6, 0, 2, 4, 5, 1, 3])
    batches = passes(examples(lengths), indices, budget, dropout_keys(0, 0, indices))
    seen = []
    for batch in batches:
        assert batch.tokens.size <= budget or batch.lengths.size == 1
        starts = np.cumsum(batch.lengths) - batch.lengths
        assert batch.dropout_keys is not None
        for start, length, key in zip(starts, batch.lengths, batch.dropout_keys, strict=True):
            index = int(batch.tokens[start])
            assert batch.tokens[start : start + length].tolist() == [index] * lengths[index]
            assert batch.supervised[start : start + length].tolist() == [i % 2 for i in range(lengths[index])]
            assert key == dropout_keys(0, 0, np.array([index]))[0]
            seen.append(index)
    assert sorted(seen) == sorted(indices)


def test_passes_are_few() -> None:
    lengths = [6, 6, 5, 5, 4, 4]
    assert len(passes(examples(lengths), np.arange(6), 10)) == 3
    assert passes(examples(lengths), np.arange(6), 10)[0].dropout_keys is None


def with_prefix(prefix: int, answers: list[int]) -> list[Example]:
    """Examples that begin with `prefix` equal tokens, then have one of their own, and an answer of so many more."""
    beginning = np.arange(prefix, dtype=np.int32)
    return [
        Example(
            np.concatenate([beginning, np.full(n + 1, 1000 + i, np.int32)]),
            np.concatenate([np.zeros(prefix + 1, np.uint8), np.ones(n, np.uint8)]),
            f"d:{i}",
        )
        for i, n in enumerate(answers)
    ]


def test_a_shared_beginning_counts_once_a_pass() -> None:
    four = with_prefix(20, [9, 9, 9, 9])  # 30 tokens each, 16 of them in two whole blocks that all share
    everyone = np.arange(4)

    def sizes(budget: int, **options: Any) -> list[int]:
        return [batch.lengths.size for batch in passes(four, everyone, budget, **options)]

    assert sizes(16 + 4 * 14, prefix_block=8) == [4]
    assert sizes(16 + 4 * 14 - 1, prefix_block=8) == [3, 1]
    assert sizes(16 + 4 * 14) == [2, 2]
    assert sizes(16 + 4 * 14, prefix_block=8, keys=dropout_keys(0, 0, everyone)) == [2, 2]  # dropout shares nothing
    assert sizes(1, prefix_block=8) == [1, 1, 1, 1]


def test_what_predicts_a_supervised_token_is_not_shared() -> None:
    """Two equal examples: the answer's first token stands at 17, so 16 predicts it, and one block of 16 is shared."""
    one = with_prefix(16, [5])[0]
    batches = passes([one, one], np.arange(2), 16 + 2 * 6, prefix_block=16)
    assert [batch.lengths.size for batch in batches] == [2]
    assert len(passes([one, one], np.arange(2), 16 + 2 * 6 - 1, prefix_block=16)) == 2
    earlier = Example(one.tokens, np.roll(one.supervised, -1), "d")
    assert len(passes([earlier, earlier], np.arange(2), 16 + 2 * 6, prefix_block=16)) == 2
