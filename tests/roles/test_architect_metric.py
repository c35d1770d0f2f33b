"""The architect's metric gives the points that its definition gives by hand, and a sentence for each missing one."""

import pytest

from cpuft.roles import Score, find_role

ROLE = find_role("architect")

REQUIREMENTS = """\
functional_requirements:
- {id: FR001, description: Show parcels on a map, priority: High}
- {id: FR002, description: Export delivery reports, priority: Low}
constraints:
- {id: C001, description: Ready in 3 months, priority: High}
"""

COMPLETE = """\
epics:
- id: E1
  name: Tracking
  goal: Couriers find their parcels.
- id: E2
  name: Reports
  goal: The depot sees where parcels get lost.

stories:
- id: S1
  epic: E1
  story: As a courier I want to see my parcels on a map so that I find them.
  requirements: [FR001]
  acceptance_criteria:
  - A parcel that was scanned is on the map within 5 seconds.
  - A parcel without a position is listed below the map.
  priority: P1
  size: M
- id: S2
  epic: E2
  story: As an owner of a depot, I want a report of each week, so that I know where parcels get lost.
  requirements: [FR002, C001]
  acceptance_criteria:
  - The report lists each lost parcel with its last position.
  - A week without losses gives an empty list.
  priority: P2
  size: S

architecture:
  components:
  - {name: Server, responsibility: Holds positions, technology: Python}
  data_stores:
  - {name: Positions, holds: The last position of each parcel, technology: SQLite}
  interfaces:
  - {name: GET /parcels, provider: Server, description: The map asks for all parcels of a courier.}
  decisions:
  - {decision: One server, reason: It must be ready in 3 months (C001)}
"""


def score(text: str, requirements: str = REQUIREMENTS) -> Score:
    return ROLE.metric(text, {"requirements": requirements, "vision": ""})


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
        # An epic of two, and the story that belonged to it with the epic, of four links.
        ("- id: E2", "- id: Epic 2", 0.5 + 0.25, "epic 2 has no id such as E1"),
        ("- id: E2", "- id: E1", 0.5 + 0.125, "epic 2 has the id of an earlier one"),
        ("  goal: Couriers find their parcels.\n", "", 0.5, "epic 1 has no goal"),
        ("- id: S2", "- id: S02", 0.5, "story 2 has no id such as S1"),
        ("- id: S2", "- id: S1", 0.5, "story 2 has the id of an earlier one"),
        (
            "As a courier I want to see my parcels on a map so that",
            "Parcels on a map, because",
            0.5,
            "does not say 'As a",
        ),
        ("As a courier I want to see", "As a courier I want so that", 0.5, "story 1 does not say 'As a"),
        ("requirements: [FR002, C001]", "requirements: [reports]", 0.5 + 0.75, "FR002 is covered by no story"),
        ("[FR002, C001]", "[FR002, C002]", 0.5 / 3, "C002 is no requirement of the input"),
        ("epic: E2", "epic: E3", 0.25, "story 2 belongs to no epic; epic 2 has no story"),
        ("priority: P2", "priority: Must", 0.25, "story 2 has no priority of P1, P2, P3"),
        ("size: S\n", "size: 5\n", 0.25, "story 2 has no size of XS"),
        ("  - A week without losses gives an empty list.\n", "", 0.75, "story 2 has 1 acceptance criteria"),
        ("A week without losses gives an empty list.", "It works.", 0.75, "too short to be tested"),
        (
            "A week without losses gives an empty list.",
            "The report lists each lost parcel  with its last position.",
            0.75,
            "story 2 has an acceptance criterion twice",
        ),
        ("provider: Server", "provider: Nobody", 0.5, "item 1 of architecture.interfaces has a provider that is no"),
        (
            "  - {decision: One server, reason: It must be ready in 3 months (C001)}\n",
            "",
            0.5,
            "decisions has no items",
        ),
        (", technology: SQLite", "", 0.5, "item 1 of architecture.data_stores has no technology"),
        ("architecture:\n", "design:\n", 1 + 2, "these fields are missing or empty: architecture"),
    ],
)
def test_what_a_fault_costs(before: str, after: str, lost: float, fault: str) -> None:
    assert before in COMPLETE
    text = COMPLETE.replace(before, after)
    assert points(text) == pytest.approx(10 - lost)
    assert any(fault in said for said in score(text).faults), score(text).faults


def test_a_story_may_stand_on_several_lines() -> None:
    text = COMPLETE.replace("story: As a courier I want to", "story: |\n    As a courier\n    I want\n    to")
    assert points(text) == pytest.approx(10)


@pytest.mark.parametrize("requirements", ["", "no document"])
def test_without_requirements_what_depends_on_them_is_left_out(requirements: str) -> None:
    assert score(COMPLETE, requirements).total == pytest.approx(1.0)
    assert score(COMPLETE.replace("size: S\n", ""), requirements).total == pytest.approx(1 - 0.25 / 8)
    assert score("", requirements).total == 0
