"""Intervals: against figures worked out elsewhere, and on what must not fail."""

import random

import pytest

from cpuft.evaluate.comparison import difference, mean_of


def test_an_interval_covers_as_often_as_it_says() -> None:
    """Of 200 samples of 25 from a known distribution nearly 95 % have its mean inside."""
    rng = random.Random(0)
    covered = 0
    for _ in range(200):
        mean = mean_of([rng.betavariate(5, 2) for _ in range(25)])
        covered += mean.low <= 5 / 7 <= mean.high
    assert 0.88 <= covered / 200 <= 0.99


def test_pairs_say_more_than_means() -> None:
    before = [i / 20 for i in range(20)]
    after = [value + 0.02 for value in before]
    gain = difference(before, after)
    assert gain.mean.low > 0
    assert (gain.wins, gain.ties, gain.losses) == (20, 0, 0)
    assert gain.mean.value == pytest.approx(0.02)
    assert mean_of(before).high > mean_of(after).low  # unpaired nothing would be seen


def test_what_is_worse_is_no_gain() -> None:
    gain = difference([0.5, 0.6, 0.7, 0.9], [0.4, 0.6, 0.8, 0.5])
    assert (gain.wins, gain.ties, gain.losses) == (1, 1, 2)
    assert gain.mean.low <= 0
    assert gain.facts()["low"] < 0 < gain.facts()["high"]


def test_little_is_no_certainty() -> None:
    assert (mean_of([0.4]).low, mean_of([0.4]).high) == (-1.0, 1.0)
    assert (mean_of([0.5, 0.5]).low, mean_of([0.5, 0.5]).high) == (0.5, 0.5)
    assert difference([0.1], [0.9]).mean.low <= 0


def test_the_same_scores_give_the_same_interval() -> None:
    scores = [random.Random(i).random() for i in range(25)]
    assert mean_of(scores) == mean_of(scores)
    assert mean_of(scores, seed=1) != mean_of(scores)


def test_models_are_compared_on_the_same_examples() -> None:
    with pytest.raises(ValueError, match="shorter"):
        difference([0.5, 0.6], [0.5])
