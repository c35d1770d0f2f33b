"""What a count of successes says about a rate, and how sure that is.

The bounds are exact (Clopper and Pearson 1934, Biometrika 26, 404-413): each alone is wrong with a chance of at most
1 - confidence, whatever the true rate. Approximate ones are narrower and wrong more often just where a gate looks,
near a rate of 1: one-sided, Wilson's bound lets 25 of 25 pass for a rate above 0.9, which a model of rate 0.9 has with
a chance of 7 %, not 5 % (Cai 2005, J. Statistical Planning and Inference 131, 63-88).
"""

from dataclasses import dataclass

CONFIDENCE = 0.95  # of each bound by itself
MOST_EXAMPLES = 20_000  # beyond these nobody looks for a number that would be enough


@dataclass(frozen=True)
class Proportion:
    """A rate with a lower and an upper bound."""

    good: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The rate seen; 0 of no examples."""
        return self.good / self.n if self.n else 0.0

    def facts(self) -> dict[str, float]:
        """Ready for JSON."""
        return {name: round(getattr(self, name), 4) for name in ("value", "low", "high")}


def proportion(good: int, n: int, confidence: float = CONFIDENCE) -> Proportion:
    """The rate of `good` among `n`; of no examples nothing is known."""
    from scipy import stats  # not at the top: it takes half a second to import

    low = float(stats.beta.ppf(1 - confidence, good, n - good + 1)) if good > 0 else 0.0
    high = float(stats.beta.ppf(confidence, good + 1, n - good)) if good < n else 1.0
    return Proportion(good, n, low, high)


def enough_for_rate(good: int, n: int, limit: float, confidence: float = CONFIDENCE) -> int | None:
    """The least number of examples whose bounds, at the rate seen, leave out `limit`; None where there is none."""
    import numpy as np
    from scipy import stats

    totals = np.arange(n + 1, MOST_EXAMPLES + 1)
    hits = np.floor(totals * (good / n) + 1e-9) if n else totals
    with np.errstate(invalid="ignore"):  # a bound at a rate of 0 or 1 is not what is looked for there
        above = stats.beta.ppf(1 - confidence, hits, totals - hits + 1) > limit
        below = stats.beta.ppf(confidence, hits + 1, totals - hits) < limit
    found = np.flatnonzero(above | below)
    return int(totals[found[0]]) if found.size else None
