"""What scores on the same examples say about two models, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
RESAMPLES = 9999


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


def mean_of(values: Sequence[float], seed: int = 0) -> Mean:
    """The mean with its interval by the bootstrap, bias-corrected and accelerated (Efron 1987).

    values: at least one; of one alone nothing is known but itself, so its interval is all that a score can be.
    """
    import numpy as np  # not at the top: these take half a second to import
    from scipy import stats

    center = sum(values) / len(values)
    if len(values) < 2:
        return Mean(center, -1.0, 1.0)
    if len(set(values)) == 1:
        return Mean(center, center, center)
    found = stats.bootstrap(
        (list(values),), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method="BCa", rng=seed
    )
    return Mean(center, float(found.confidence_interval.low), float(found.confidence_interval.high))


def difference(before: Sequence[float], after: Sequence[float], seed: int = 0) -> Difference:
    """Compares two models on the same examples in the same order, paired."""
    gains = [two - one for one, two in zip(before, after, strict=True)]
    wins, losses = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return Difference(mean_of(gains, seed), wins, len(gains) - wins - losses, losses)
