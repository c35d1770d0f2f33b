"""Go or no-go: the figures of a tuned model held against bounds, with what chance leaves open.

A figure from examples passes where the worse end of its interval keeps the bound, and fails where not even the better
end does; between the two there are not enough examples to tell. On point estimates alone, a model that is worse than
its base passes whenever it was lucky.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import Any

from cpuft.evaluate.comparison import CONFIDENCE
from cpuft.evaluate.proportion import enough_for_rate
from cpuft.evaluate.thresholds import CRITERIA, VALUE, Threshold, Thresholds

ROUNDING = 1e-9  # 0.77 / 0.7 - 1 is no less than 0.1
MOST_EXAMPLES = 1_000_000  # more are the same as "none"


class Verdict(StrEnum):
    """What is said of a criterion."""

    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "not enough examples to tell"
    UNMEASURED = "not measured"


class Decision(StrEnum):
    """What is said of the model."""

    GO = "go"
    NO_GO = "no-go"
    UNDECIDED = "not enough examples to tell"


@dataclass(frozen=True)
class Figure:
    """What was measured of a model.

    low, high:   its interval; None where it was not sampled, or the result has none.
    n:           how many examples it comes from; None where it comes from none, as memory does.
    good:        of a share, how many of the n.
    few_will_do: its interval can be trusted however few the examples are; the bootstrap's cannot.
    wanted:      the smallest distance from the bound worth showing; None: the one that was seen.
    note:        what else a reader should know, as the end of a sentence.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    good: int | None = None
    few_will_do: bool = False
    wanted: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Judged:
    """A criterion, what was measured, and what that means. enough: how many examples would tell, where that is open."""

    threshold: Threshold
    figure: Figure | None
    verdict: Verdict
    sentence: str = ""
    enough: int | None = None

    def facts(self) -> dict[str, Any]:
        """Ready for JSON; a figure that is missing, or no number, is null."""
        figure, limit = self.figure or Figure(math.nan), self.threshold
        numbers = {name: _number(getattr(figure, name)) for name in ("value", "low", "high")}
        return {
            "name": limit.name,
            **numbers,
            "bound": limit.bound,
            "limit": limit.limit,
            "decide_on": limit.decide_on,
            "n_examples": figure.n,
            "verdict": str(self.verdict),
            "enough_examples": self.enough,
            "sentence": self.sentence,
            "critical": limit.critical,
            "optional": limit.optional,
        }


def judge_all(figures: Mapping[str, Figure], thresholds: Thresholds) -> list[Judged]:
    """Every criterion of the thresholds, in their order."""
    return [judge(figures.get(one.name), one, thresholds) for one in thresholds.criteria]


def judge(figure: Figure | None, threshold: Threshold, rules: Thresholds) -> Judged:
    """What a figure says about a criterion. A better figure never gets a worse verdict, nor a harder bound a better."""
    if figure is None:
        return Judged(threshold, None, Verdict.UNMEASURED, f"give a result of `{CRITERIA[threshold.name][1]}`, too")
    trusted = figure.few_will_do and threshold.decide_on != VALUE
    if figure.n is not None and figure.n < rules.min_examples and not trusted:
        least = max(rules.min_examples, _enough(figure, threshold, rules) or 0)
        said = f"{figure.n} examples, about {least} would be enough; fewer than {rules.min_examples} decide nothing"
        return Judged(threshold, figure, Verdict.UNDECIDED, said, least)
    worse, better = _ends(figure, threshold)
    if _keeps(worse, threshold):
        return Judged(threshold, figure, Verdict.PASS, figure.note)
    if not _keeps(better, threshold):
        return Judged(threshold, figure, Verdict.FAIL, figure.note or _missed(figure, better, threshold))
    enough = _enough(figure, threshold, rules)
    return Judged(threshold, figure, Verdict.UNDECIDED, _open(figure, threshold, enough), enough)


def decide(judged: Sequence[Judged]) -> Decision:
    """Go where all that is critical passed: one failure outweighs any doubt, and nothing measured is no success."""
    critical = [one for one in judged if one.threshold.critical]
    verdicts = {one.verdict for one in critical}
    missing = any(one.verdict == Verdict.UNMEASURED and not one.threshold.optional for one in critical)
    if Verdict.FAIL in verdicts or missing:
        return Decision.NO_GO
    if Verdict.UNDECIDED in verdicts:
        return Decision.UNDECIDED
    return Decision.GO if Verdict.PASS in verdicts else Decision.NO_GO


def enough_for_mean(spread: float, distance: float, *, power: float, confidence: float = CONFIDENCE) -> int | None:
    """How many examples show that a mean lies `distance` from a bound, with the chance `power`.

    n = ((z(1 - alpha/2) + z(power)) * spread / distance)^2, where alpha is 1 - confidence: the number for a paired
    comparison of means (Cohen 1988, Statistical Power Analysis for the Behavioral Sciences, 2nd ed., chapter 2;
    Julious 2004, Statistics in Medicine 23, 1921-1986, section 3).
    spread: standard deviation of what is averaged. None where no reasonable number is enough.
    """
    if distance <= 0:
        return None
    z = NormalDist().inv_cdf(1 - (1 - confidence) / 2) + NormalDist().inv_cdf(power)
    n = (z * spread / distance) ** 2
    return math.ceil(n) if n <= MOST_EXAMPLES else None


def _keeps(value: float, threshold: Threshold) -> bool:
    """Whether a number keeps the bound."""
    ahead = (value - threshold.limit) * (1 if threshold.more_is_better else -1)
    return ahead > ROUNDING if len(threshold.sign) == 1 else ahead >= -ROUNDING


def _ends(figure: Figure, threshold: Threshold) -> tuple[float, float]:
    """(the worse end, the better end) of what decides."""
    if threshold.decide_on == VALUE or figure.low is None or figure.high is None:
        return figure.value, figure.value
    return (figure.low, figure.high) if threshold.more_is_better else (figure.high, figure.low)


def _enough(figure: Figure, threshold: Threshold, rules: Thresholds) -> int | None:
    """How many examples would tell, from the spread seen; more than there are."""
    if not figure.n or figure.low is None or figure.high is None:
        return None
    if figure.good is not None:
        return enough_for_rate(figure.good, figure.n, threshold.limit, rules.confidence)
    half = (figure.high - figure.low) / 2
    spread = half / NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2) * math.sqrt(figure.n)
    seen = abs(figure.value - threshold.limit)
    for distance in filter(None, (figure.wanted, seen)):
        enough = enough_for_mean(spread, distance, power=rules.power)
        if enough is not None and enough > figure.n:
            return enough
    return None


def _missed(figure: Figure, better: float, threshold: Threshold) -> str:
    if better == figure.value:
        return ""
    return f"even the better end of the interval, {better:.3g}, misses {threshold.bound}"


def _open(figure: Figure, threshold: Threshold, enough: int | None) -> str:
    if enough is None:
        return f"{figure.n} examples; what was seen lies so near to {threshold.limit:g} that no number would tell"
    return f"{figure.n} examples, about {enough} would be enough"


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 6)
