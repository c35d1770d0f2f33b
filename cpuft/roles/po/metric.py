"""How good a product owner's answer is, ten points in all.

0.5  the answer is one valid YAML document
1    both fields are there
1.5  the vision: 0.5 for a statement and 0.5 for a value of at least 40 characters, 0.5 for naming a target user
1.5  the share of its goals, of at least two, that have a measure with a figure in it
2    the share of the alignment's items, of at least two, that name a requirement's id, say in their own words how it
     serves the vision, and have a priority
0.5  not every item has the same priority
1    the share of the ids that were named which exist in the requirements
2    the share of the functional requirements that are named

Without requirements that can be read, the last two are left out of the total.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cpuft.roles.answer import read_fields
from cpuft.roles.checks import (
    covered_ids,
    filled_fields,
    ids_in,
    is_one_of,
    items_of,
    known_ids,
    mapping_of,
    missing_texts,
    point,
    read_input,
    repeated,
    requirement_ids,
    share,
    share_of,
    text_of,
    texts_of,
    valid_yaml,
)
from cpuft.roles.role import Inputs, Part, Score

FIELDS = ("vision", "alignment")
PRIORITIES = ("Must", "Should", "Could", "Won't")
TEXT_LENGTH, REASON_LENGTH = 40, 20  # in characters, at least
MIN_GOALS = MIN_ITEMS = 2


def score(answer: str, inputs: Inputs) -> Score:
    """The score of a product owner's answer."""
    fields = read_fields(answer)
    vision, alignment = mapping_of(fields.get("vision")), items_of(fields.get("alignment"))
    known, functional = requirement_ids(read_input(inputs, "requirements"))
    named = [identity for item in alignment for identity in ids_in(item.get("requirements"))]
    return Score.of(
        {
            "yaml_valid": valid_yaml(answer, 0.5),
            "fields": filled_fields(fields, FIELDS, 1.0),
            "vision": _vision(vision),
            "goals": share_of(items_of(vision.get("goals")), _goal_fault, 1.5, "goals", MIN_GOALS),
            "alignment": _alignment(alignment),
            "priorities": _priorities(alignment),
            "ids": known_ids(named, known, 1.0, "requirement"),
            "coverage": covered_ids(named, functional, 2.0, "item of alignment"),
        }
    )


def _vision(vision: Mapping[str, Any]) -> Part:
    faults = [
        f"vision.{name} has {length} characters, expected at least {TEXT_LENGTH}"
        for name in ("statement", "value")
        if (length := len(text_of(vision.get(name)))) < TEXT_LENGTH
    ]
    if not texts_of(vision.get("target_users")):
        faults.append("vision.target_users names nobody")
    return share(faults, 3, 1.5)


def _goal_fault(i: int, goal: Mapping[str, Any]) -> str:
    fault = missing_texts(goal, ("goal", "measure"))
    if not fault and not any(character.isdigit() for character in text_of(goal.get("measure"))):
        fault = "has a measure without a figure"
    return f"goal {i + 1} {fault}" if fault else ""


def _alignment(items: Sequence[Mapping[str, Any]]) -> Part:
    again = list(repeated(text_of(item.get("serves")) for item in items))

    def fault_of(i: int, item: Mapping[str, Any]) -> str:
        faults = []
        if not ids_in(item.get("requirements")):
            faults.append("names no requirement such as FR001")
        if len(text_of(item.get("serves"))) < REASON_LENGTH:
            faults.append("does not say how it serves the vision")
        elif again[i]:
            faults.append("says what an earlier item says")
        if not is_one_of(item.get("priority"), PRIORITIES):
            faults.append(f"has no priority of {', '.join(PRIORITIES)}")
        return f"item {i + 1} of alignment {' and '.join(faults)}" if faults else ""

    return share_of(items, fault_of, 2.0, "alignment", MIN_ITEMS)


def _priorities(items: Sequence[Mapping[str, Any]]) -> Part:
    found = {text_of(item.get("priority")) for item in items if is_one_of(item.get("priority"), PRIORITIES)}
    return point(len(found) > 1, 0.5, "the priorities tell nothing apart, expected at least two different ones")
