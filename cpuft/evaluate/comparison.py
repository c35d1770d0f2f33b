"""What scores on the same examples say about two models, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

CONFIDENCE = 0.95
RESAMPLES = 10_000
SCORES, DIFFERENCES = (0.0, 1.0), (-1.0, 1.0)  # what a score can be, and a difference of two
POWER = 0.80
EQUAL = 1e-9  # scores that differ by less do so by rounding
UNSEEN = 0.5  # of an example, which stands for those that are farther out than any that was seen


@dataclass(frozen=True)
class Mean:
    """A mean with its interval of confidence (CONFIDENCE)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def facts(self) -> dict[str, float]:
        """Ready for JSON."""
        return {name: round(getattr(self, name), 4) for name in ("value", "low", "high")}


@dataclass(frozen=True)
class Difference:
    """How much better the second of two models is, example by example."""

    mean: Mean
    wins: int
    ties: int
    losses: int

    def __str__(self) -> str:
        sign = "+" if self.mean.value >= 0 else ""
        counts = f"{self.wins} better, {self.ties} equal, {self.losses} worse"
        return f"{sign}{self.mean} ({counts})"

    def facts(self) -> dict[str, float]:
        """Ready for JSON."""
        return {**self.mean.facts(), "wins": self.wins, "ties": self.ties, "losses": self.losses}


def mean_of(values: Sequence[float], limits: tuple[float, float] = SCORES, seed: int = 0) -> Mean:
    """The mean with its interval, by a bootstrap that allows for what so few examples may not have shown.

    values: at least one. limits: what a value can be.

    The Bayesian bootstrap (Rubin 1981), and for each bound half an example more, as far out on its side as the farthest
    on either: for values that are 0 or 1 that is between the exact interval of Clopper and Pearson (1934), which adds a
    whole one, and the one without, which is too short. The level is widened as for Student's t (Hesterberg 2015, What
    Teachers Should Know about the Bootstrap). Where all values are equal, others may be so frequent that none among n
    had a probability of 2.5 %, and anything that a value can be.

    tests/evaluate/test_coverage.py measures how often the truth is inside, and that BCa (Efron 1987) falls short where
    scores are heaped at 0 and 1.
    """
    import numpy as np  # not at the top: these take half a second to import
    from scipy import stats

    center, n = fmean(values), len(values)
    tail = (1.0 - CONFIDENCE) / 2
    if max(values) - min(values) < EQUAL:
        unseen = 1.0 - tail ** (1.0 / n)
        return Mean(center, center - unseen * (center - limits[0]), center + unseen * (limits[1] - center))
    rng = np.random.default_rng(seed)
    level = float(stats.norm.cdf(stats.t.ppf(tail, n - 1)))
    reach = max(abs(value - center) for value in values)
    # Shares of all values by Dirichlet's distribution: exponential, or gamma where an example counts half.
    weights = np.concatenate(
        [rng.standard_exponential((RESAMPLES, n)), rng.standard_gamma(UNSEEN, (RESAMPLES, 1))], axis=1
    )
    weights /= weights.sum(axis=1, keepdims=True)
    far = max(center - reach, limits[0]), min(center + reach, limits[1])
    low, high = (
        float(np.quantile(weights @ np.array([*values, end]), q))
        for end, q in zip(far, (level, 1 - level), strict=True)
    )
    return Mean(center, low, high)


def difference(
    before: Sequence[float], after: Sequence[float], limits: tuple[float, float] = DIFFERENCES, seed: int = 0
) -> Difference:
    """Compares two models on the same examples in the same order, paired. limits: what a difference can be."""
    gains = [two - one for one, two in zip(before, after, strict=True)]
    wins, losses = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return Difference(mean_of(gains, limits, seed), wins, len(gains) - wins - losses, losses)


def detectable_difference(before: Sequence[float], after: Sequence[float]) -> float | None:
    """The true mean difference that so many paired examples would show, significant at 5 %, with a power of 80 %.

    (z_0.975 + z_0.8) s / sqrt(n) with s the standard deviation of the differences (Miller 2024, Adding Error Bars to
    Evals, section 5). None where there is one example, or no spread that could be known.
    """
    spread = _spread(before, after)
    return None if not spread else round(_QUANTILES * spread / math.sqrt(len(before)), 4)


def examples_needed(before: Sequence[float], after: Sequence[float], gain: float) -> int | None:
    """How many examples would show a mean difference of `gain`, by the same formula; None where nothing is known."""
    spread = _spread(before, after)
    return None if not spread or gain == 0 else math.ceil((_QUANTILES * spread / gain) ** 2)


def mcnemar(gained: int, lost: int) -> float:
    """How likely flips so uneven are where both directions are equally likely: McNemar's test, exact (two-sided)."""
    from scipy import stats

    return 1.0 if gained + lost == 0 else float(stats.binomtest(gained, gained + lost).pvalue)


def _spread(before: Sequence[float], after: Sequence[float]) -> float:
    gains = [two - one for one, two in zip(before, after, strict=True)]
    return stdev(gains) if len(gains) > 1 else 0.0


_QUANTILES = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2) + NormalDist().inv_cdf(POWER)
