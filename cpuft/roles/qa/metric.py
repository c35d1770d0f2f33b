"""How good a tester's answer is, ten points in all.

0.5  the answer is one valid YAML document
1    both fields are there
1    the share of cases that are numbered as they stand: TC001, TC002, …
2    the share of cases, of at least two, that have a title, a type (happy, unhappy, edge), preconditions, steps and an
     expected result, and do not repeat an earlier case
1.5  0.75 for a happy path, 0.75 for an unhappy one
1.5  the share of the cases named in the coverage that exist; an entry which names none counts as one that does not
2.5  the share of the story's acceptance criteria for which the coverage names a case that exists: a criterion is found
     by its words, whatever their case and punctuation

Without a story whose acceptance criteria can be read, the last is left out of the total.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cpuft.roles.answer import read_fields
from cpuft.roles.checks import (
    LEFT_OUT,
    filled_fields,
    is_one_of,
    items_of,
    missing_texts,
    normalized,
    read_input,
    repeated,
    share,
    share_of,
    text_of,
    texts_of,
    valid_yaml,
)
from cpuft.roles.role import Inputs, Part, Score

FIELDS = ("cases", "coverage")
TYPES = ("happy", "unhappy", "edge")
NEEDED_TYPES = ("happy", "unhappy")
MIN_CASES = 2


def score(answer: str, inputs: Inputs) -> Score:
    """The score of a tester's answer."""
    fields = read_fields(answer)
    cases, coverage = items_of(fields.get("cases")), items_of(fields.get("coverage"))
    criteria = texts_of(read_input(inputs, "story").get("acceptance_criteria"))
    ids = {text_of(case.get("id")) for case in cases} - {""}
    return Score.of(
        {
            "yaml_valid": valid_yaml(answer, 0.5),
            "fields": filled_fields(fields, FIELDS, 1.0),
            "numbering": share_of(cases, _number_fault, 1.0, "cases", 1),
            "cases": _cases(cases),
            "types": _types(cases),
            "coverage_ids": _coverage_ids(coverage, ids),
            "coverage": _coverage(coverage, ids, criteria),
        }
    )


def _number_fault(i: int, case: Mapping[str, Any]) -> str:
    number = f"TC{i + 1:03d}"
    return "" if text_of(case.get("id")) == number else f"case {i + 1} has not the id {number}"


def _cases(cases: Sequence[Mapping[str, Any]]) -> Part:
    again = list(repeated(_course(case) for case in cases))

    def fault_of(i: int, case: Mapping[str, Any]) -> str:
        faults = [missing_texts(case, ("title", "expected"))]
        if not is_one_of(case.get("type"), TYPES):
            faults.append(f"has no type of {', '.join(TYPES)}")
        faults += [f"has no {name}" for name in ("preconditions", "steps") if not texts_of(case.get(name))]
        if again[i]:
            faults.append("repeats an earlier case")
        said = [fault for fault in faults if fault]
        return f"case {i + 1} {' and '.join(said)}" if said else ""

    return share_of(cases, fault_of, 2.0, "cases", MIN_CASES)


def _course(case: Mapping[str, Any]) -> str:
    """What makes a case another one: what is done, from where, and what comes of it."""
    return "\n".join(
        [*texts_of(case.get("preconditions")), *texts_of(case.get("steps")), text_of(case.get("expected"))]
    )


def _types(cases: Sequence[Mapping[str, Any]]) -> Part:
    found = {text_of(case.get("type")) for case in cases}
    faults = [f"no case is of the type {kind}" for kind in NEEDED_TYPES if kind not in found]
    return share(faults, len(NEEDED_TYPES), 1.5)


def _coverage_ids(coverage: Sequence[Mapping[str, Any]], ids: set[str]) -> Part:
    if not coverage:
        return Part(0.0, 1.5, "coverage has no items")
    named = [texts_of(entry.get("cases")) for entry in coverage]
    faults = [f"item {i + 1} of coverage names no case" for i, names in enumerate(named) if not names]
    faults += [f"{name} is no case" for names in named for name in names if name not in ids]
    return share(faults, sum(max(1, len(names)) for names in named), 1.5)


def _coverage(coverage: Sequence[Mapping[str, Any]], ids: set[str], criteria: Sequence[str]) -> Part:
    if not criteria:
        return LEFT_OUT
    covered = {
        normalized(text_of(entry.get("criterion")))
        for entry in coverage
        if any(name in ids for name in texts_of(entry.get("cases")))
    }
    faults = [f"no case covers: {criterion}" for criterion in criteria if normalized(criterion) not in covered]
    return share(faults, len(criteria), 2.5)
