"""The figures of a tuned model that a gate looks at, out of the results of several evaluations."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpuft.errors import ConfigError, excerpt
from cpuft.evaluate.gate import Figure
from cpuft.evaluate.proportion import proportion
from cpuft.evaluate.result import MADE_BY, Result
from cpuft.evaluate.thresholds import Thresholds

# Sections of a result that say which of its models is the tuned one.
PAIRED = ("comparison", "forgetting")
# Of these only one result may be given: which of two would count?
SINGLE = (*PAIRED, "original", "stress")

Entry = Mapping[str, Any]
Given = tuple[Path, Result]
Identity = tuple[str, str | None]  # digests of the model and of its adapter


@dataclass(frozen=True)
class Tuned:
    """The tuned model: its name, and its part of each result that has one, with the file."""

    name: str
    entries: tuple[tuple[Path, Result, Entry], ...]


def find_tuned(results: Sequence[Given]) -> Tuned:
    """The tuned model of several results, which must be of one and the same.

    Raises ConfigError where two results have the same section, or are of different models, or none says which model.
    """
    for section in SINGLE:
        holders = [path for path, result in results if section in result.sections]
        if len(holders) > 1:
            raise ConfigError(f"{holders[0]} and {holders[1]}: both hold a {section!r}, expected one: leave one out")
    named: list[tuple[Path, str, Identity]] = []
    for path, result in results:
        with _damage(path):
            if (name := _named(result)) is not None:
                named.append((path, name, _identity(result.models[name])))
    if not named:
        raise ConfigError(
            f"{results[0][0]}: nothing says which of its models is the tuned one: give a result of "
            "`cpuft eval compare`, too"
        )
    first, name, wanted = named[0]
    others = {path for path, _, identity in named if identity != wanted}
    entries = []
    for path, result in results:
        with _damage(path):
            found = [entry for entry in result.models.values() if _identity(entry) == wanted]
        if not found or path in others:
            raise ConfigError(
                f"{path}: it is of another model or adapter than {first}, whose tuned model is {name}: evaluate the "
                "same file in the same way for all of them"
            )
        entries.append((path, result, found[0]))
    return Tuned(name, tuple(entries))


def figures_of(results: Sequence[Given], thresholds: Thresholds) -> dict[str, Figure]:
    """The figures that the results hold, by the criterion's name.

    Raises ConfigError as `find_tuned` does, and where a result is damaged.
    """
    tuned = find_tuned(results)
    found: dict[str, Figure | None] = {}
    for path, result, _ in tuned.entries:
        with _damage(path):
            for section, read in _READERS.items():
                if section in result.sections:
                    found |= read(result.sections[section], result, thresholds)
    found |= {"yaml_valid": _yaml_valid(tuned, thresholds), **_speed(tuned)}
    return {name: figure for name, figure in found.items() if figure is not None}


def _comparison(part: Entry, result: Result, thresholds: Thresholds) -> dict[str, Figure | None]:
    """Gain, relative gain, and what reviewers said."""
    n, base = int(part["n_examples"]), _number(result.models[part["base"]]["avg_score"])
    value, low, high = _interval(part["difference"])
    relative = thresholds.named("relative_gain")
    wanted = relative.limit * base if relative is not None and relative.limit > 0 else 0.0
    found: dict[str, Figure | None] = {"gain": Figure(value, low, high, n, wanted=wanted or None)}
    if base > 0:
        gained = part.get("relative_gain")
        gained = value / base if gained is None else _number(gained)
        found["relative_gain"] = Figure(gained, low / base, high / base, n)
    else:  # of nothing there is no share
        gained, least, most = (math.inf if end > 0 else 0.0 for end in (value, low, high))
        note = "the base scored 0, of which any gain is more than a share"
        found["relative_gain"] = Figure(gained, least, most, n, note=note)
    won = part.get("win_rate")
    if won is not None:
        samples = int(won["n_samples"])
        found["win_rate"] = Figure(*_interval(won), n=samples, few_will_do=True)
        stars = (won.get("ratings") or {}).get("tuned")
        found["satisfaction"] = None if stars is None else Figure(*_interval(stars), n=samples)
    return found


def _original(part: Entry, result: Result, thresholds: Thresholds) -> dict[str, Figure | None]:  # noqa: ARG001
    return {"generalization": Figure(*_interval(part["score"]), n=int(part["n_examples"]))}


def _stress(part: Entry, result: Result, thresholds: Thresholds) -> dict[str, Figure | None]:  # noqa: ARG001
    return {"stress": _share(int(part["passed"]), int(part["total"]), thresholds)}


def _forgetting(part: Entry, result: Result, thresholds: Thresholds) -> dict[str, Figure | None]:  # noqa: ARG001
    text, questions = part.get("text"), part.get("questions")
    found: dict[str, Figure | None] = {}
    if text is not None:
        found["perplexity_growth"] = Figure(*_interval(text["perplexity_growth"]), n=int(text["n_passages"]))
    if questions is not None:
        found["general_questions"] = Figure(*_interval(questions["difference"]), n=int(questions["n_questions"]))
    return found


_READERS: Mapping[str, Callable[[Entry, Result, Thresholds], dict[str, Figure | None]]] = {
    "comparison": _comparison,
    "original": _original,
    "stress": _stress,
    "forgetting": _forgetting,
}


def _yaml_valid(tuned: Tuned, thresholds: Thresholds) -> Figure | None:
    """Over all data sets that the model answered, each counted once: under several seeds a question is still one."""
    counts: dict[str, tuple[int, int]] = {}
    for path, result, entry in tuned.entries:
        rate = entry.get("yaml_valid")
        if rate is None:
            continue
        with _damage(path):
            n = int(result.sections.get("comparison", entry)["n_examples"])
            good = int(_number(rate) * n + 0.01)
            _share(good, n, thresholds)
            counts.setdefault(str(result.sections[MADE_BY]["data"]["digest"]), (good, n))
    if not counts:
        return None
    good, n = (sum(numbers) for numbers in zip(*counts.values(), strict=True))
    return _share(good, n, thresholds)


def _speed(tuned: Tuned) -> dict[str, Figure | None]:
    """The worst that was measured, one request at a time."""
    speeds, sizes = [], []
    for path, _, entry in tuned.entries:
        with _damage(path):
            if entry.get("speed_measured") and entry.get("tokens_per_sec") is not None:
                speeds.append(_number(entry["tokens_per_sec"]))
            if entry.get("ram_usage_mb") is not None:
                sizes.append(_number(entry["ram_usage_mb"]))
    return {"speed": Figure(min(speeds)) if speeds else None, "ram_mb": Figure(max(sizes)) if sizes else None}


def _share(good: int, n: int, thresholds: Thresholds) -> Figure:
    if not 0 <= good <= n or n == 0:
        raise ValueError(f"{good} of {n}")
    rate = proportion(good, n, thresholds.confidence)
    return Figure(rate.value, rate.low, rate.high, n, good=good, few_will_do=True)


def _interval(facts: Entry) -> tuple[float, float, float]:
    value, low, high = (_number(facts[name]) for name in ("value", "low", "high"))
    if low > high:
        raise ValueError(f"an interval from {low} to {high}")
    return value, low, high


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:40]!r} is no number")
    return float(value)


def _named(result: Result) -> str | None:
    """The name of the tuned model in a result; None where it may be any of them."""
    for section in PAIRED:
        if section in result.sections:
            return str(result.sections[section]["tuned"])
    return next(iter(result.models)) if len(result.models) == 1 else None


def _identity(entry: Entry) -> Identity:
    return str(entry["digest"]), entry["adapter_digest"]


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Says of which file it is that something is missing or wrong."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"{type(error).__name__}: {excerpt(str(error))}"
        raise ConfigError(f"{path}: the result is not as `cpuft eval` writes it ({what}): make it again") from error
