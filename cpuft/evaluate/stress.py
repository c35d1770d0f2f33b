"""Asks a model what is hard to answer well, and says for each case which of its expectations were not met."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from cpuft.backends.generator import Generator, Request, generate_all
from cpuft.chat.message import Completion
from cpuft.config.document import read_document
from cpuft.errors import ConfigError, CpuftError, TooLongError, list_all_faults
from cpuft.evaluate.answers import Asking
from cpuft.evaluate.benchmark import Case
from cpuft.evaluate.comparison import mean_of
from cpuft.evaluate.contender import Contender
from cpuft.evaluate.expectations import SCHEMA as EXPECTATIONS
from cpuft.evaluate.expectations import Expectations, Said, failures
from cpuft.evaluate.proportion import Proportion, proportion
from cpuft.evaluate.result import MADE_BY, UNMEASURED, Result
from cpuft.machine.progress import Progress, silent
from cpuft.roles import Inputs, Role

MOST_REPEATS = 2000
_TEXT = {"type": "string", "minLength": 1, "description": "a text"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["cases"],
    "properties": {
        "expect": EXPECTATIONS,
        "cases": {
            "type": "array",
            "minItems": 1,
            "description": "a list of cases",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["id", "class", "input"],
                "properties": {
                    "id": _TEXT,
                    "class": _TEXT,
                    "input": {
                        "type": ["string", "object"],
                        "additionalProperties": {"type": "string", "description": "a text"},
                        "description": "a text, or the role's inputs, each with a text",
                    },
                    "repeat": {
                        "type": "integer",
                        "minimum": 1,
                        "maximum": MOST_REPEATS,
                        "description": f"a whole number from 1 to {MOST_REPEATS}",
                    },
                    "expect": EXPECTATIONS,
                },
                "description": "keys and values",
            },
        },
    },
    "description": "the key cases",
}


@dataclass(frozen=True)
class StressCase:
    """A hard question. kind: the class that it belongs to."""

    id: str
    kind: str
    inputs: Inputs
    expect: Expectations

    def question(self, role: Role, *, short: bool = True) -> Case:
        """How it is asked. short: with the role's prompt for a tuned model."""
        return Case(self.inputs, role.messages(self.inputs, short=short), "")


@dataclass(frozen=True)
class Outcome:
    """What became of a case. completion: None where no answer came. failures: sentences; none where it passed."""

    case: StressCase
    completion: Completion | None
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all that was expected held."""
        return not self.failures

    def facts(self) -> dict[str, Any]:
        """Ready for JSON."""
        done = self.completion
        return {
            "id": self.case.id,
            "class": self.case.kind,
            "inputs": dict(self.case.inputs),
            "passed": self.passed,
            "failures": list(self.failures),
            "tokens": None if done is None else done.tokens,
            "seconds": None if done is None else round(done.seconds, 3),
            "finished": None if done is None else done.finished,
            "answer": None if done is None else done.text,
        }


@dataclass(frozen=True)
class StressReport:
    """The outcomes of all cases, in their order."""

    outcomes: tuple[Outcome, ...]

    @property
    def rate(self) -> Proportion:
        """The share that passed."""
        return _rate(self.outcomes)

    @property
    def classes(self) -> dict[str, Proportion]:
        """The same for each class, in the order of their first cases."""
        kinds = dict.fromkeys(outcome.case.kind for outcome in self.outcomes)
        return {kind: _rate([one for one in self.outcomes if one.case.kind == kind]) for kind in kinds}

    def facts(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            **_counts(self.rate),
            "classes": {kind: _counts(rate) for kind, rate in self.classes.items()},
            "cases": [outcome.facts() for outcome in self.outcomes],
        }


def read_stress_cases(path: Path, role: Role) -> list[StressCase]:
    """The cases of a YAML file, whose inputs are the role's. Raises ConfigError, which lists all faults at once."""
    document = read_document(path, SCHEMA)
    if faults := list(_faults_of_cases(document["cases"], role)):
        raise ConfigError(f"{path}: {list_all_faults(faults)}")
    shared = document.get("expect", {})
    return [_case(entry, shared, role) for entry in document["cases"]]


def run_stress(
    generator: Generator, cases: Sequence[StressCase], asking: Asking, progress: Progress = silent
) -> StressReport:
    """Asks all cases; an answer that does not come fails its own case alone.

    asking: of the same cases. Seconds are those of a single user only where its n_parallel is 1.
    """
    outcomes: dict[int, Outcome] = {}
    requests = [Request(case.messages, asking.sampling) for case in asking.cases]
    for number, completion in generate_all(generator, requests, asking.n_parallel):
        outcomes[number] = judge_answer(cases[number], completion, asking.role)
        passed = sum(outcome.passed for outcome in outcomes.values())
        progress("stress cases", len(outcomes), len(cases), "answer", passed=f"{passed}")
    return StressReport(tuple(outcomes[number] for number in range(len(cases))))


def judge_answer(case: StressCase, completion: Completion | CpuftError, role: Role) -> Outcome:
    """What became of a case, by what a model answered or why it did not."""
    if isinstance(completion, Completion):
        said = Said.of(completion, case.inputs, role)
        return Outcome(case, completion, tuple(failures(said, case.expect)))
    if isinstance(completion, TooLongError) and case.expect.get("may_refuse"):
        return Outcome(case, None, ())
    return Outcome(case, None, (f"no answer came: {completion}",))


def stress_result(contender: Contender, report: StressReport, role: Role, made: Mapping[str, Any]) -> Result:
    """What a result file holds. made: its `made_by`."""
    done = [(one.case, one.completion) for one in report.outcomes if one.completion is not None]
    scores = [role.metric(completion.text, case.inputs).total for case, completion in done]
    entry = {
        "avg_score": round(mean(scores), 4) if scores else None,
        "interval": mean_of(scores).facts() if scores else None,
        "n_examples": len(scores),
        "unfinished": sum(not completion.finished for _, completion in done),
        "tokens": sum(completion.tokens for _, completion in done),
        **UNMEASURED,
        "digest": contender.asked.digest,
        "adapter_digest": contender.adapter_digest,
    }
    return Result({contender.name: entry}, {"stress": report.facts(), MADE_BY: dict(made)})


def _rate(outcomes: Sequence[Outcome]) -> Proportion:
    return proportion(sum(outcome.passed for outcome in outcomes), len(outcomes))


def _counts(rate: Proportion) -> dict[str, Any]:
    return {"passed": rate.good, "total": rate.n, "rate": rate.facts()}


def _case(entry: Mapping[str, Any], shared: Expectations, role: Role) -> StressCase:
    """Expectations of its own stand beside those that all cases share, or in their place; lists one by one."""
    given = entry["input"]
    inputs = {next(iter(role.sources)): given} if isinstance(given, str) else dict(given)
    times = entry.get("repeat", 1)
    inputs = {name: " ".join([text] * times) for name, text in inputs.items()}
    own = entry.get("expect", {})
    expect = {**shared, **own}
    for name in shared.keys() & own.keys():
        if isinstance(shared[name], dict) and isinstance(own[name], dict):
            expect[name] = {**shared[name], **own[name]}
    return StressCase(entry["id"], entry["class"], dict.fromkeys(role.sources, "") | inputs, expect)


def _faults_of_cases(cases: Sequence[Mapping[str, Any]], role: Role) -> Iterator[str]:
    """Faults that only the role or the other cases tell."""
    seen: set[str] = set()
    for i, case in enumerate(cases):
        if case["id"] in seen:
            yield f"cases[{i}].id: {case['id']!r} stands twice"
        seen.add(case["id"])
        for name in case["input"] if isinstance(case["input"], dict) else ():
            if name not in role.sources:
                yield f"cases[{i}].input.{name}: no input of {role.name}, expected some of {', '.join(role.sources)}"
        expect = case.get("expect", {})
        named = [name for key in ("min_items", "max_items", "distinct_items") for name in expect.get(key) or ()]
        for name in named:
            if name not in role.fields:
                yield f"cases[{i}].expect: {name} is no field of {role.name}, expected some of {', '.join(role.fields)}"
