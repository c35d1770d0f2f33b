"""The tester's metric gives the points that its definition gives by hand, and a sentence for each missing one."""

import pytest

from cpuft.roles import Score, find_role

ROLE = find_role("qa")

STORY = """\
id: S1
story: As a courier I want to see my parcels on a map so that I find them.
acceptance_criteria:
- A parcel that was scanned is on the map within 5 seconds.
- "A parcel without a position is listed below: the map."
"""

COMPLETE = """\
cases:
- id: TC001
  title: Scanned parcel
  type: happy
  preconditions:
  - Parcel 4711 is in the depot.
  steps:
  - Scan parcel 4711
  - Open the map and wait for 5 seconds
  expected: Parcel 4711 is on the map at the depot.
- id: TC002
  title: Parcel without a position
  type: unhappy
  preconditions:
  - Parcel 4712 was never scanned.
  steps:
  - Open the map
  expected: Parcel 4712 is listed below the map.

coverage:
- criterion: A parcel that was scanned is on the map within 5 seconds.
  cases: [TC001]
- criterion: a parcel without a position is listed below the map
  cases: [TC002]
"""


def score(text: str, story: str = STORY) -> Score:
    return ROLE.metric(text, {"story": story, "files": ""})


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
        # The second case is numbered wrongly, and what is covered by it names a case that is none.
        ("- id: TC002", "- id: TC003", 0.5 + 0.75 + 1.25, "case 2 has not the id TC002"),
        ("- id: TC002", "- id: TC001", 0.5 + 0.75 + 1.25, "TC002 is no case"),
        ("  title: Scanned parcel\n", "", 1, "case 1 has no title"),
        ("type: happy", "type: positive", 1 + 0.75, "no case is of the type happy"),
        ("type: unhappy", "type: edge", 0.75, "no case is of the type unhappy"),
        ("  expected: Parcel 4712 is listed below the map.\n", "  expected: ''\n", 1, "case 2 has no expected"),
        ("  steps:\n  - Open the map\n", "  steps: []\n", 1, "case 2 has no steps"),
        ("  - Parcel 4712 was never scanned.\n", "  - {}\n", 1, "case 2 has no preconditions"),
        ("cases: [TC002]", "cases: [TC001, TC009]", 0.5 + 0, "TC009 is no case"),
        ("cases: [TC002]", "cases: []", 0.75 + 1.25, "item 2 of coverage names no case"),
        ("a parcel without a position is", "parcels without a position are", 1.25, "no case covers: A parcel without"),
        ("coverage:\n", "matrix:\n", 1 + 1.5 + 2.5, "these fields are missing or empty: coverage"),
    ],
)
def test_what_a_fault_costs(before: str, after: str, lost: float, fault: str) -> None:
    assert before in COMPLETE
    text = COMPLETE.replace(before, after)
    assert points(text) == pytest.approx(10 - lost)
    assert any(fault in said for said in score(text).faults), score(text).faults


def test_a_case_that_repeats_another_does_not_count() -> None:
    case = COMPLETE[COMPLETE.index("- id: TC002") : COMPLETE.index("\ncoverage")]
    again = case.replace("TC002", "TC003").replace("Parcel without", "The same parcel without")
    text = COMPLETE.replace(case, case + again)
    assert points(text) == pytest.approx(10 - 2 / 3)
    assert score(text).faults == ["case 3 repeats an earlier case"]


def test_other_values_make_another_case() -> None:
    """A sign is a different value, though it is no letter and no digit."""
    case = COMPLETE[COMPLETE.index("- id: TC002") : COMPLETE.index("\ncoverage")]
    negative = case.replace("TC002", "TC003").replace("Parcel 4712 was", "Parcel -4712 was")
    assert points(COMPLETE.replace(case, case + negative)) == pytest.approx(10)


@pytest.mark.parametrize("story", ["", "S1", "acceptance_criteria: many", "- S1"])
def test_without_a_story_what_depends_on_it_is_left_out(story: str) -> None:
    assert score(COMPLETE, story).total == pytest.approx(1.0)
    assert score(COMPLETE.replace("type: unhappy", "type: edge"), story).total == pytest.approx(1 - 0.75 / 7.5)
    assert score("", story).total == 0
