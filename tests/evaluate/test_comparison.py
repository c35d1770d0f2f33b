"""Intervals: against figures worked out elsewhere, and on what must not fail."""

import random
from statistics import stdev

import pytest
from scipy import stats

from cpuft.evaluate.comparison import detectable_difference, difference, examples_needed, mcnemar, mean_of


def test_pairs_say_more_than_means() -> None:
    before = [i / 20 for i in range(20)]
    after = [value + (0.01, 0.02, 0.03)[i % 3] for i, value in enumerate(before)]
    gain = difference(before, after)
    assert gain.mean.low > 0
    assert (gain.wins, gain.ties, gain.losses) == (20, 0, 0)
    assert gain.mean.value == pytest.approx(0.02, abs=1e-3)
    assert mean_of(before).high > mean_of(after).low  # unpaired nothing would be seen


def test_what_is_worse_is_no_gain() -> None:
    gain = difference([0.5, 0.6, 0.7, 0.9], [0.4, 0.6, 0.8, 0.5])
    assert (gain.wins, gain.ties, gain.losses) == (1, 1, 2)
    assert gain.mean.low <= 0
    assert gain.facts()["low"] < 0 < gain.facts()["high"]


def test_little_is_no_certainty() -> None:
    """Of one example, and where all are equal, the bound is that of no event in n: 1 - 0.025^(1/n)."""
    assert (mean_of([0.4]).low, mean_of([0.4]).high) == pytest.approx((0.4 * 0.025, 1 - 0.6 * 0.025))
    assert difference([0.1], [0.9]).mean.low < 0
    seen = 1 - proportion_low(25)
    assert mean_of([1.0] * 25).high == 1.0
    assert mean_of([1.0] * 25).low == pytest.approx(1 - seen)
    assert mean_of([0.0] * 25).high == pytest.approx(seen)
    assert difference([0.5] * 25, [0.5] * 25).mean.low == pytest.approx(-seen)


def proportion_low(n: int) -> float:
    """The lower bound of Clopper and Pearson where all n of n succeed."""
    return float(stats.binomtest(n, n).proportion_ci(0.95, method="exact").low)


@pytest.mark.parametrize("successes", [1, 5, 13, 24])
def test_of_zeros_and_ones_it_is_near_the_exact_interval(successes: int) -> None:
    found = mean_of([1.0] * successes + [0.0] * (25 - successes))
    exact = stats.binomtest(successes, 25).proportion_ci(0.95, method="exact")
    assert found.low == pytest.approx(exact.low, abs=0.03)
    assert found.high == pytest.approx(exact.high, abs=0.03)


def test_the_same_scores_give_the_same_interval() -> None:
    scores = [random.Random(i).random() for i in range(25)]
    assert mean_of(scores) == mean_of(scores)
    assert mean_of(scores, seed=1) != mean_of(scores)


def test_models_are_compared_on_the_same_examples() -> None:
    with pytest.raises(ValueError, match="shorter"):
        difference([0.5, 0.6], [0.5])


def test_flips_are_compared_as_coins() -> None:
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1.0
    assert mcnemar(6, 0) == mcnemar(0, 6) == pytest.approx(2 * 0.5**6)


def test_what_so_many_examples_can_show() -> None:
    """By simulation: of differences with this true mean four in five samples are significant at 5 %."""
    rng = random.Random(0)
    before = [0.0] * 50
    after = [rng.gauss(0, 0.2) for _ in before]
    gain = detectable_difference(before, after)
    assert gain is not None
    spread = stdev(after)
    shown = 0
    for _ in range(400):
        sample = [rng.gauss(gain, spread) for _ in before]
        shown += stats.ttest_1samp(sample, 0).pvalue < 0.05
    assert 0.72 < shown / 400 < 0.86
    assert 49 <= (examples_needed(before, after, gain) or 0) <= 51
    assert detectable_difference([0.5], [0.6]) is None
    assert examples_needed([0.5, 0.5], [0.5, 0.5], 0.1) is None
