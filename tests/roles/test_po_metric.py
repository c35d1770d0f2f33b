"""The product owner's metric gives the points that its definition gives by hand, and says why one is missing."""

import pytest

from cpuft.roles import Score, find_role

ROLE = find_role("po")

REQUIREMENTS = """\
functional_requirements:
- {id: FR001, description: Show parcels on a map, priority: High}
- {id: FR002, description: Export delivery reports, priority: Low}
non_functional_requirements:
- {id: NFR001, description: The map loads in 2 seconds, priority: High}
constraints:
- {id: C001, description: Ready in 3 months, priority: High}
"""
INPUTS = {"concept": "Parcel tracking for couriers", "requirements": REQUIREMENTS}

COMPLETE = """\
vision:
  statement: For couriers who lose parcels, the app shows where each one is at any moment.
  target_users:
  - Couriers
  value: Fewer parcels are lost and couriers get home on time in the evening.
  goals:
  - goal: Fewer parcels are lost
    measure: From 12 to 3 in 1000 by June
  - goal: Couriers use it
    measure: 80% of couriers open it on each shift

alignment:
- requirements: [FR001, NFR001]
  serves: A map that is there at once finds the parcel.
  priority: Must
- requirements: [FR002]
  serves: Reports show the depot where parcels get lost.
  priority: Could
"""


def score(text: str, requirements: str = REQUIREMENTS) -> Score:
    return ROLE.metric(text, INPUTS | {"requirements": requirements})


def points(text: str) -> float:
    """Of ten."""
    return 10 * score(text).total


def test_a_complete_answer_has_all_points() -> None:
    result = score(COMPLETE)
    assert result.total == pytest.approx(1.0)
    assert result.faults == []
    assert sum(part.weight for part in result.parts.values()) == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("before", "after", "lost", "fault"),
    [
        (
            "For couriers who lose parcels, the app shows where each one is at any moment.",
            "An app.",
            0.5,
            "7 characters",
        ),
        ("  - Couriers\n", "  - ''\n", 0.5, "target_users names nobody"),
        ("From 12 to 3 in 1000 by June", "Noticeably fewer", 0.75, "goal 1 has a measure without a figure"),
        ("    measure: 80% of couriers open it on each shift\n", "", 0.75, "goal 2 has no measure"),
        # Half of the alignment, and of one requirement id in three.
        ("requirements: [FR002]", "requirements: [the reports]", 1 + 1, "FR002 is covered by no item"),
        # One of four ids that were named.
        ("[FR002]", "[FR002, FR009]", 0.25, "FR009 is no requirement of the input"),
        ("[FR001, NFR001]", "[NFR001]", 1, "FR001 is covered by no item of alignment"),
        ("Reports show the depot where parcels get lost.", "Useful.", 1, "item 2 of alignment does not say how"),
        (
            "Reports show the depot where parcels get lost.",
            "a map that is there at ONCE finds the parcel.",
            1,
            "earlier",
        ),
        ("priority: Could", "priority: Must", 0.5, "the priorities tell nothing apart"),
        ("priority: Could", "priority: High", 1 + 0.5, "item 2 of alignment has no priority of Must, Should"),
        ("vision:\n", "wishes:\n", 1 + 1.5 + 1.5, "these fields are missing or empty: vision"),
    ],
)
def test_what_a_fault_costs(before: str, after: str, lost: float, fault: str) -> None:
    assert before in COMPLETE
    text = COMPLETE.replace(before, after)
    assert points(text) == pytest.approx(10 - lost)
    assert any(fault in said for said in score(text).faults), score(text).faults


def test_a_single_item_for_everything_is_half_an_alignment() -> None:
    head, _, _ = COMPLETE.partition("- requirements: [FR002]")
    text = head.replace("[FR001, NFR001]", "[FR001, FR002]")
    assert points(text) == pytest.approx(10 - 1 - 0.5)
    assert any("alignment has 1 items, expected at least 2" in said for said in score(text).faults)


@pytest.mark.parametrize("requirements", ["", "no document", "functional_requirements: none", "- FR001"])
def test_without_requirements_what_depends_on_them_is_left_out(requirements: str) -> None:
    assert score(COMPLETE, requirements).total == pytest.approx(1.0)
    without_measures = COMPLETE.replace("measure: ", "aim: ")
    assert score(without_measures, requirements).total == pytest.approx(1 - 1.5 / 7)
    assert score("", requirements).total == 0
    assert ROLE.metric(COMPLETE, {}).total == pytest.approx(1.0)
