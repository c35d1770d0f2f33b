"""Which of several base models is worth tuning: the one with the best score among those within all bounds."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from cpuft.config.document import read_document
from cpuft.errors import ConfigError
from cpuft.evaluate.comparison import Difference, difference
from cpuft.roles.checks import items_of

Entry = Mapping[str, Any]  # one model's part of a result file

_SHARE = {"type": ["number", "null"], "minimum": 0, "maximum": 1, "description": "a number from 0 to 1, or null"}
_ABOVE_0 = {"type": ["number", "null"], "exclusiveMinimum": 0, "description": "a number above 0, or null"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"score": _SHARE, "yaml_valid": _SHARE, "tokens_per_sec": _ABOVE_0, "ram_gb": _ABOVE_0},
    "description": "keys and values",
}


@dataclass(frozen=True)
class Thresholds:
    """The bounds, as configs/selection.yaml explains them; None: there is none."""

    score: float | None = 0.65
    yaml_valid: float | None = 0.8
    tokens_per_sec: float | None = 10.0
    ram_gb: float | None = 8.0


@dataclass(frozen=True)
class Criterion:
    """A threshold: under which keys its figure stands in a model's entry, and how both are written."""

    key: str
    figures: tuple[str, ...]
    title: str
    form: str
    at_most: bool = False
    unit: float = 1.0  # of the threshold, in that of the figure

    def show(self, value: float) -> str:
        """A bound or a value, in the threshold's unit."""
        return self.form.format(value)


CRITERIA = (
    Criterion("score", ("avg_score",), "average score", "{:.3f}"),
    Criterion("yaml_valid", ("yaml_valid", "yaml_valid_rate"), "YAML validity", "{:.0%}"),
    Criterion("tokens_per_sec", ("tokens_per_sec",), "generation", "{:.1f} tokens/s"),
    Criterion("ram_gb", ("ram_usage_mb",), "memory", "{:.2f} GB", at_most=True, unit=1000.0),
)


@dataclass(frozen=True)
class Verdict:
    """Whether a model keeps one bound. value: in the bound's unit; None where it was not measured."""

    criterion: Criterion
    value: float | None
    bound: float

    @property
    def passed(self) -> bool:
        """What is not known does not pass."""
        if self.value is None:
            return False
        return self.value < self.bound if self.criterion.at_most else self.value > self.bound

    def __str__(self) -> str:
        show, side = self.criterion.show, "less" if self.criterion.at_most else "more"
        found = "was not measured" if self.value is None else f"is {show(self.value)}"
        return f"{self.criterion.title} {found}, expected {side} than {show(self.bound)}"

    def facts(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"value": self.value, "bound": self.bound, "passed": self.passed}


@dataclass(frozen=True)
class Selection:
    """What was decided.

    verdicts: of each model, in the order of the result file.
    winner:   the model's name; None where none keeps all bounds.
    rivals:   the others that keep them all, the best first, each with how much better the winner is on the same
              examples; None where the file does not hold each answer's score.
    """

    thresholds: Thresholds
    verdicts: Mapping[str, Sequence[Verdict]]
    winner: str | None
    rivals: Mapping[str, Difference | None]

    def __str__(self) -> str:
        if self.winner is None:
            reasons = (f"  {name}: {'; '.join(self.faults(name))}" for name in self.verdicts)
            return "\n".join(["No model keeps all bounds:", *reasons])
        also = f" These examples do not tell its score from that of {', '.join(self.undecided)}."
        return f"The best that keeps all bounds: {self.winner}.{also if self.undecided else ''}"

    def faults(self, name: str) -> list[str]:
        """What keeps a model from being chosen, a sentence each."""
        return [str(verdict) for verdict in self.verdicts[name] if not verdict.passed]

    @property
    def undecided(self) -> list[str]:
        """The rivals that these examples do not tell from the winner."""
        return [name for name, gain in self.rivals.items() if gain is None or gain.mean.low <= 0]

    def facts(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "winner": self.winner,
            "models": {
                name: {
                    "qualifies": not self.faults(name),
                    "reasons": self.faults(name),
                    **{verdict.criterion.key: verdict.facts() for verdict in verdicts},
                }
                for name, verdicts in self.verdicts.items()
            },
            "not_told_apart": self.undecided,
        }


def read_thresholds(path: Path) -> Thresholds:
    """The bounds of a YAML file. Raises ConfigError, which lists all faults with their keys."""
    return Thresholds(**read_document(path, SCHEMA))


def select(entries: Mapping[str, Entry], thresholds: Thresholds) -> Selection:
    """Judges the models of a result file. Of equal scores the faster model is taken.

    Raises ConfigError where there are none.
    """
    if not entries:
        raise ConfigError("the result holds no models: make one with `cpuft eval models … --output FILE`")
    verdicts = {name: _verdicts(entry, thresholds) for name, entry in entries.items()}
    good = [name for name, of_one in verdicts.items() if all(verdict.passed for verdict in of_one)]
    ranked = sorted(good, key=lambda name: _rank(entries[name]), reverse=True)
    winner = ranked[0] if ranked else None
    rivals = {name: gain_over(entries[ranked[0]], entries[name]) for name in ranked[1:]}
    return Selection(thresholds, verdicts, winner, rivals)


def reference_of(entries: Mapping[str, Entry], name: str) -> str:
    """What finds a model again, as `--model` takes it; where the file does not say, its name."""
    reference = entries[name].get("reference")
    return reference if isinstance(reference, str) and reference else name


def gain_over(better: Entry, other: Entry) -> Difference | None:
    """How much better the first of two models is; None where their answers are not to the same questions, or left out.

    A difference between pairs says more than whether two intervals overlap: what is hard is hard for both.
    """
    one, two = question_scores(better), question_scores(other)
    if not one or one.keys() != two.keys():
        return None
    return difference([two[question] for question in one], list(one.values()))


def question_scores(entry: Entry) -> dict[str, float]:
    """Of each question that a model answered the mean score, since several answers to one are no independent examples.

    By the question's inputs, as JSON. Empty where a score is missing.
    """
    scores: dict[str, list[float]] = {}
    for answer in items_of(entry.get("answers")):
        score = number_of(answer.get("score"))
        if score is None:
            return {}
        scores.setdefault(json.dumps(answer.get("inputs"), sort_keys=True), []).append(score)
    return {question: fmean(of_one) for question, of_one in scores.items()}


def _verdicts(entry: Entry, thresholds: Thresholds) -> list[Verdict]:
    bounds = {field.name: getattr(thresholds, field.name) for field in fields(thresholds)}
    return [
        Verdict(one, value / one.unit if (value := _figure(entry, one)) is not None else None, bound)
        for one in CRITERIA
        if (bound := bounds[one.key]) is not None
    ]


def _figure(entry: Entry, criterion: Criterion) -> float | None:
    return next((value for key in criterion.figures if (value := number_of(entry.get(key))) is not None), None)


def _rank(entry: Entry) -> tuple[float, float]:
    return number_of(entry.get("avg_score")) or 0.0, number_of(entry.get("tokens_per_sec")) or 0.0


def number_of(value: Any) -> float | None:
    """A figure of a result file; None where it holds none."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None
