"""A tuned model beside its base on the same examples: how much better it is, how sure that is, where it is worse."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from cpuft.errors import ConfigError
from cpuft.evaluate.answers import Asking, answer_all
from cpuft.evaluate.benchmark import Answer, Benchmark
from cpuft.evaluate.comparison import Difference, detectable_difference, difference, mcnemar
from cpuft.evaluate.contender import Contender
from cpuft.evaluate.held_out import HeldOut, held_out
from cpuft.machine.progress import Progress, silent
from cpuft.roles import Inputs

PASS = 0.8  # the score from which an answer counts as good: the specification's, for generalization


@dataclass(frozen=True)
class Change:
    """An example on which the two differ. before, after: mean score over the seeds. gone, new: faults, in sentences."""

    inputs: Inputs
    before: float
    after: float
    gone: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def flips(self) -> bool:
        """Whether one of the two answers is good and the other is not."""
        return (self.before >= PASS) != (self.after >= PASS)

    def facts(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "inputs": dict(self.inputs),
            "before": round(self.before, 4),
            "after": round(self.after, 4),
            "flips": self.flips,
            "gone": list(self.gone),
            "new": list(self.new),
        }


@dataclass(frozen=True)
class Pair:
    """Answers of two models to the same questions.

    base, tuned: a benchmark for each seed, all over the same cases in the same order.
    losses:      both on held-out data, where these were measured.
    """

    base: tuple[Benchmark, ...]
    tuned: tuple[Benchmark, ...]
    losses: tuple[HeldOut, HeldOut] | None = None

    @property
    def scores(self) -> tuple[list[float], list[float]]:
        """Of each example the mean over the seeds, of base and tuned.

        Answers to one question under several seeds are no independent examples. With as many seeds for each, resampling
        the questions' means is the bootstrap over clusters (Miller 2024, Adding Error Bars to Evals).
        """
        return means(self.base), means(self.tuned)

    @cached_property
    def difference(self) -> Difference:
        """Of the scores, paired by example."""
        return difference(*self.scores)

    @property
    def relative_gain(self) -> float | None:
        """The difference as a share of the base's score; None where that is 0."""
        base = mean(self.scores[0])
        return self.difference.mean.value / base if base > 0 else None

    @property
    def parts(self) -> dict[str, tuple[float, float, Difference]]:
        """Of each part of the metric: base's mean, tuned's, and the difference."""
        found = {}
        for name in self.base[0].answers[0].score.parts:
            before, after = _part(self.base, name), _part(self.tuned, name)
            found[name] = (mean(before), mean(after), difference(before, after))
        return found

    @property
    def changes(self) -> list[Change]:
        """The examples on which the two differ, the largest losses first, the largest gains last."""
        found = []
        for i, (before, after) in enumerate(zip(*self.scores, strict=True)):
            if before != after:
                was, has = _faults(self.base, i), _faults(self.tuned, i)
                inputs = self.base[0].answers[i].case.inputs
                gone, new = tuple(f for f in was if f not in has), tuple(f for f in has if f not in was)
                found.append(Change(inputs, before, after, gone, new))
        return sorted(found, key=lambda change: change.after - change.before)

    @property
    def mcnemar_p(self) -> float:
        """How likely so uneven flips between good and bad answers are if the two are equally often good."""
        before, after = self.scores
        flips = [
            (one >= PASS, two >= PASS) for one, two in zip(before, after, strict=True) if (one >= PASS) != (two >= PASS)
        ]
        return mcnemar(sum(two for _, two in flips), sum(one for one, _ in flips))

    def facts(self, base: str, tuned: str) -> dict[str, Any]:
        """The section "comparison" of a result; base, tuned: the models' names in it."""
        before, after = self.scores
        changes = self.changes
        gain = self.relative_gain
        saved = None
        if self.losses is not None:
            before_losses, after_losses = (one.means for one in self.losses)
            most = max(*before_losses, *after_losses)
            fewer = difference(after_losses, before_losses, (-most, most))  # what is saved, so that more is better
            saved = {"unit": "nats a token that tuning saves, mean over examples", **fewer.facts()}
        return {
            "base": base,
            "tuned": tuned,
            "difference": self.difference.facts(),
            "relative_gain": None if gain is None else round(gain, 4),
            "parts": {
                name: {"base": round(one, 4), "tuned": round(two, 4), "difference": gained.facts()}
                for name, (one, two, gained) in self.parts.items()
            },
            "better": [change.facts() for change in reversed(changes) if change.after > change.before],
            "worse": [change.facts() for change in changes if change.after < change.before],
            "pass_score": PASS,
            "mcnemar_p": round(self.mcnemar_p, 5),
            "detectable": detectable_difference(before, after),
            "n_examples": len(before),
            "n_seeds": len(self.base),
            "held_out": saved,
            "win_rate": None,
        }


def merged(benchmarks: Sequence[Benchmark]) -> Benchmark:
    """All answers of a model, whatever the seed."""
    return Benchmark(tuple(answer for one in benchmarks for answer in one.answers))


def means(benchmarks: Sequence[Benchmark]) -> list[float]:
    """Of each question the mean score over the seeds: several answers to one are no independent examples."""
    return [mean(scores) for scores in zip(*(one.scores for one in benchmarks), strict=True)]


def _part(benchmarks: Sequence[Benchmark], name: str) -> list[float]:
    return [mean(_value(one, name) for one in answers) for answers in _by_example(benchmarks)]


def _value(answer: Answer, name: str) -> float:
    part = answer.score.parts.get(name)
    return 0.0 if part is None else part.value


def _faults(benchmarks: Sequence[Benchmark], example: int) -> list[str]:
    found = [fault for answer in _by_example(benchmarks)[example] for fault in answer.score.faults]
    return list(dict.fromkeys(found))


def _by_example(benchmarks: Sequence[Benchmark]) -> list[tuple[Answer, ...]]:
    return list(zip(*(one.answers for one in benchmarks), strict=True))


def compare(
    base: Contender, tuned: Contender, asking: Asking, *, validation: Path | None = None, progress: Progress = silent
) -> Pair:
    """Lets both answer the same questions, one model after the other.

    validation: held-out conversations or texts, whose loss is computed too; both must be files that cpuft runs.
    Raises CpuftError where a model cannot be asked, ConfigError where its loss cannot be computed.
    """
    if validation is not None:
        for one in (base, tuned):
            if one.asked.path is None:
                raise ConfigError(f"{one.name}: losses are computed by cpuft itself, of a model file: leave --val out")
    before, after = answer_all(base, asking, progress), answer_all(tuned, asking, progress)
    losses = None
    if validation is not None:
        losses = _losses(base, validation, asking, progress), _losses(tuned, validation, asking, progress)
    return Pair(before, after, losses)


def _losses(contender: Contender, validation: Path, asking: Asking, progress: Progress) -> HeldOut:
    assert contender.asked.path is not None
    return held_out(contender.asked.path, contender.adapter, validation, threads=asking.threads, progress=progress)
