"""How often a nominal 95 % interval holds the truth: simulated scores and differences of 25 examples."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from cpuft.evaluate import comparison
from cpuft.evaluate.comparison import DIFFERENCES, SCORES, mean_of

EXAMPLES, SAMPLES = 25, 2000
Draw = Callable[[np.random.Generator], npt.NDArray[np.float64]]
SHAPE = (SAMPLES, EXAMPLES)


def heaped(rng: np.random.Generator, zeros: float, ones: float) -> npt.NDArray[np.float64]:
    """Scores of which so large shares are 0 and 1, the rest anything between."""
    kind, between = rng.random(SHAPE), rng.random(SHAPE)
    return np.where(kind < zeros, 0.0, np.where(kind < zeros + ones, 1.0, between))


def heaped_mean(zeros: float, ones: float) -> float:
    """Its true mean."""
    return ones + (1 - zeros - ones) / 2


WEAK, GOOD = (0.4, 0.3), (0.1, 0.8)
CASES: dict[str, tuple[Draw, float, tuple[float, float]]] = {
    "spread scores": (lambda rng: rng.beta(5, 2, SHAPE), 5 / 7, SCORES),
    "scores, most of them 1": (lambda rng: heaped(rng, *GOOD), heaped_mean(*GOOD), SCORES),
    "scores at both ends": (lambda rng: heaped(rng, *WEAK), heaped_mean(*WEAK), SCORES),
    "one in five fails": (lambda rng: (rng.random(SHAPE) < 0.8).astype(float), 0.8, SCORES),
    "small differences": (lambda rng: rng.normal(0.05, 0.1, SHAPE), 0.05, DIFFERENCES),
    "weak against good": (
        lambda rng: heaped(rng, *GOOD) - heaped(rng, *WEAK), heaped_mean(*GOOD) - heaped_mean(*WEAK), DIFFERENCES,
    ),
    "good against good": (lambda rng: heaped(rng, *GOOD) - heaped(rng, *GOOD), 0.0, DIFFERENCES),
    "most are ties": (
        lambda rng: np.where(rng.random(SHAPE) < 0.1, rng.choice([-0.5, 0.5, 1.0], SHAPE), 0.0), 0.1 / 3, DIFFERENCES,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_truth_is_inside_as_often_as_it_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 1000)  # what a tenth of them costs in precision is small beside this
    draw, truth, limits = CASES[name]
    samples = draw(np.random.default_rng(7))
    found = [mean_of(sample.tolist(), limits, seed) for seed, sample in enumerate(samples)]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.93 <= covered <= 0.97


def test_where_most_are_ties_bca_falls_short() -> None:
    draw, truth, _ = CASES["most are ties"]
    samples = [one for one in draw(np.random.default_rng(7))[:300] if np.ptp(one)]
    covered = 0
    for sample in samples:
        found = stats.bootstrap((sample,), np.mean, n_resamples=999, method="BCa", rng=0).confidence_interval
        covered += found.low <= truth <= found.high
    assert covered / len(samples) < 0.91
