"""What reviewers' verdicts say about two models: how often the tuned one wins, and how sure that is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import NormalDist, mean
from typing import Any

from cpuft.errors import ConfigError
from cpuft.evaluate.comparison import CONFIDENCE, Mean
from cpuft.feedback.verdicts import Judged, Rivals, Verdict, read_verdicts

WON: Mapping[str, float] = {"tuned": 1.0, "tie": 0.5, "base": 0.0}


@dataclass(frozen=True)
class WinRate:
    """How often reviewers who did not know which is which picked the tuned model.

    rate:        wins and half of the ties, over the samples, from 0 to 1; of a sample that several judged, their mean.
    wins, ties, losses: verdicts. n_samples, n_reviewers: how many samples, by how many people.
    not_blind:   verdicts that do not count, since their reviewer could see which is which.
    ratings:     mean stars from 1 to 5 of each model; None where nobody rated it.
    """

    rate: Mean
    wins: int
    ties: int
    losses: int
    n_samples: int
    n_reviewers: int
    not_blind: int
    ratings: Mapping[str, Mean | None]

    def facts(self) -> dict[str, Any]:
        """Ready for JSON."""
        counts = ("wins", "ties", "losses", "n_samples", "n_reviewers", "not_blind")
        ratings = {side: None if stars is None else stars.facts() for side, stars in self.ratings.items()}
        return {**self.rate.facts(), **{name: getattr(self, name) for name in counts}, "ratings": ratings}

    def __str__(self) -> str:
        return f"{self.rate} ({self.wins} wins, {self.ties} ties, {self.losses} losses over {self.n_samples} samples)"


def win_rate(verdicts: Iterable[Verdict]) -> WinRate | None:
    """The win rate of the tuned model; None where nobody has picked blind.

    Samples are what is drawn at random, not verdicts: several people who judge the same sample are no more samples. So
    the interval is Wilson's (1927) for the mean over samples. A mean of numbers from 0 to 1 varies at most as much as a
    proportion does, so ties and several reviewers only make it wider than need be; and unlike the bootstrap it says of
    three wins out of three that this is little.
    """
    given = list(verdicts)
    counted = [verdict for verdict in given if verdict.picked is not None and verdict.blind]
    if not counted:
        return None
    by_sample: dict[str, list[float]] = {}
    for verdict in counted:
        by_sample.setdefault(verdict.sample, []).append(WON[str(verdict.picked)])
    picks = [verdict.picked for verdict in counted]
    return WinRate(
        rate=wilson([mean(won) for won in by_sample.values()]),
        wins=picks.count("tuned"),
        ties=picks.count("tie"),
        losses=picks.count("base"),
        n_samples=len(by_sample),
        n_reviewers=len({verdict.reviewer for verdict in counted}),
        not_blind=sum(verdict.picked is not None for verdict in given) - len(counted),
        ratings={
            "base": _stars(verdict.base_rating for verdict in counted),
            "tuned": _stars(verdict.tuned_rating for verdict in counted),
        },
    )


def read_win_rate(path: Path, base: Judged, tuned: Judged) -> WinRate:
    """What a file of verdicts says of two models: one exported by the page, or the SQLite file of `cpuft review`.

    Raises ConfigError where it is neither, is about others, or holds no blind verdict.
    """
    verdicts = read_verdicts(path, Rivals(base, tuned))
    found = win_rate(verdicts)
    if found is None:
        raise ConfigError(
            f"{path}: none of {len(verdicts)} verdicts was given blind, and others do not count, since reviewers saw "
            "which is which: review in the page's blind mode, as `cpuft review` opens it"
        )
    return found


def wilson(values: Sequence[float]) -> Mean:
    """The mean of at least one number from 0 to 1 with Wilson's score interval (CONFIDENCE)."""
    n, center = len(values), mean(values)
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    middle = (center + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(center * (1 - center) / n + z * z / (4 * n * n))
    return Mean(center, max(0.0, middle - half), min(1.0, middle + half))


def _stars(ratings: Iterable[int | None]) -> Mean | None:
    """Their mean; of a single one nothing is known but the ends of the scale."""
    given = [float(stars) for stars in ratings if stars is not None]
    if not given:
        return None
    # The interval of shares of the scale, 0 to 1, brought back to 1 to 5 stars.
    share = wilson([(stars - 1) / 4 for stars in given])
    return Mean(*(1 + 4 * getattr(share, name) for name in ("value", "low", "high")))
