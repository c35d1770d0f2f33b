"""The BA metric gives the points that its definition gives by hand, and a sentence for each that it does not."""

import jsonschema
import pytest
import yaml

from cpuft.roles import Score, find_role
from cpuft.roles.answer import write_answer

ROLE = find_role("ba")
INPUTS = {"concept": "Smart parcel tracking app for couriers"}

COMPLETE = """\
title: Smart parcel tracking app for couriers

description: A smart app that helps couriers record, follow and review every parcel in one place, so that none is lost.

functional_requirements:
- id: FR001
  description: Show couriers their parcels
  priority: High
- id: FR002
  description: Export tracking reports
  priority: Low

non_functional_requirements:
- id: NFR001
  description: Pages load in 2 seconds
  priority: High
- id: NFR002
  description: All data is encrypted at rest
  priority: Medium

constraints:
- id: C001
  description: Ready in 3 months
  priority: High
- id: C002
  description: The budget is 20000 euros
  priority: Low
"""
PROSE = "A smart app that helps couriers follow parcels. It can export reports."


def score(text: str) -> Score:
    return ROLE.metric(text, INPUTS)


def points(text: str) -> float:
    """Of seven."""
    return 7 * score(text).total


def test_a_complete_document_has_all_points() -> None:
    result = score(COMPLETE)
    assert result.total == pytest.approx(1.0)
    assert result.faults == []
    assert sum(part.weight for part in result.parts.values()) == pytest.approx(7.0)
    jsonschema.validate(yaml.safe_load(COMPLETE), ROLE.schema)


@pytest.mark.parametrize(
    "text",
    [
        "",
        PROSE,
        "- a list\n- of things",
        "when: 2024-99-99",
        "[" * 5000,
        "? " * 5000,
        "title: x\n" * 20_000,
        "&a [*a]",
        "\x00\ud800",
        "<script>alert(1)</script>",
    ],
)
def test_text_that_is_no_document_has_none(text: str) -> None:
    assert points(text) <= 0.5  # of a mapping of something else: it is YAML
    assert "these fields are missing or empty: title, description, functional_requirements" in score(text).faults[0]


@pytest.mark.parametrize(
    ("change", "lost", "fault"),
    [
        (
            ("title: Smart parcel tracking app for couriers", "title: Parcels"),
            0.5,
            "title has 7 characters, expected 10 to",
        ),
        (("title: Smart", "title: " + "very " * 20 + "smart"), 0.5, "title has 13"),
        ((", so that none is lost", ""), 0.5, "description has 8"),
        ((" FR002", " F2"), 0.5, "1 items of functional_requirements have an id such as FR001"),
        (("NFR001", "FR001"), 0.5, "1 items of non_functional_requirements have an id such as NFR001"),
        (("20000 euros\n  priority: Low", "20000 euros"), 0.5, "1 items of constraints have"),
        (
            ("- id: C002\n  description: The budget is 20000 euros\n  priority: Low\n", ""),
            1.0,
            "constraints has 1 items",
        ),
    ],
)
def test_what_a_fault_costs(change: tuple[str, str], lost: float, fault: str) -> None:
    before, after = change
    assert before in COMPLETE
    text = COMPLETE.replace(before, after)
    assert points(text) == pytest.approx(7 - lost)
    assert any(fault in said for said in score(text).faults), score(text).faults


def test_a_list_that_is_none_costs_all_of_it_and_the_fields() -> None:
    head, _, _ = COMPLETE.partition("constraints:")
    assert points(head) == pytest.approx(7 - 1.5 - 1)
    assert points(head + "constraints: none\n") == pytest.approx(7 - 1.5)


def test_an_answer_that_was_cut_off_keeps_what_can_be_read() -> None:
    """As a whole it is no YAML; four fields are."""
    cut = COMPLETE[: COMPLETE.index("20000 euros")].replace("The budget is ", 'The "budget: [')
    assert yaml.safe_load(COMPLETE)
    result = score(cut)
    assert result.parts["yaml_valid"].value == 0
    assert result.parts["functional_requirements"].value == 1
    assert 7 * result.total == pytest.approx(7 - 0.5 - 1.5 - 1)


def test_items_that_are_no_mappings_or_hold_no_text() -> None:
    text = COMPLETE.replace("- id: FR001\n  description: Show couriers their parcels\n  priority: High\n", "- FR001\n")
    assert points(text) == pytest.approx(6.5)
    assert points(COMPLETE.replace("description: Ready in 3 months", "description: 3")) == pytest.approx(6.5)


@pytest.mark.parametrize("fence", ["```yaml\n{}\n```\n", "```\n{}```", "```yml\n{}"])
def test_a_code_fence_around_the_document_is_ignored(fence: str) -> None:
    assert points(fence.format(COMPLETE)) == pytest.approx(7.0)


def test_what_is_written_is_what_is_read() -> None:
    document = yaml.safe_load(COMPLETE)
    assert write_answer(document) == COMPLETE
