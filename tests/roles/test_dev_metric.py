"""The developer's metric gives the points that its definition gives by hand, and a sentence for each missing one."""

import pytest

from cpuft.roles import Score, find_role

ROLE = find_role("dev")

STORY = "id: S7\nacceptance_criteria:\n- The total of nothing is zero.\n- Negative amounts are refused.\n"

COMPLETE = '''\
files:
- path: shop/totals.py
  language: python
  content: |
    """Adds amounts up."""


    def total(amounts):
        if any(amount < 0 for amount in amounts):
            raise ValueError("a negative amount")
        return sum(amounts)
- path: tests/test_totals.py
  language: python
  content: |
    from shop.totals import total


    def test_total_of_nothing():
        assert total([]) == 0

notes: This is story S7. Run the tests with pytest.
'''


def score(text: str, story: str = STORY) -> Score:
    return ROLE.metric(text, {"architecture": "", "story": story})


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
        ("path: shop/totals.py", "path: /etc/totals.py", 0.5, "file 1 has a path that is not inside the project: /etc"),
        ("path: shop/totals.py", "path: ../totals.py", 0.5, "file 1 has a path that is not inside the project: .."),
        ("path: shop/totals.py", "path: 'C:\\totals.py'", 0.5, "file 1 has a path that is not inside the project: C:"),
        ("path: shop/totals.py", "path: tests//test_totals.py", 0.5, "file 2 has the path of an earlier one"),
        ("- path: shop/totals.py\n  language", "- language", 0.5 + 0.5, "file 1 has no path"),
        ("        return sum(amounts)", "        return sum(amounts", 1, "shop/totals.py cannot be parsed as python"),
        (
            "language: python\n  content: |\n    from",
            "language: cobol\n  content: |\n    from",
            0.5,
            "not known here: cobol",
        ),
        ("        return sum(amounts)", "        return sum(amounts)  # TODO: round", 1, "file 1 has a TODO"),
        (
            "        assert total([]) == 0",
            "        pass",
            1.5 + 1,
            "file 2 has a function that does nothing: test_total",
        ),
        ("path: tests/test_totals.py", "path: shop/checks.py", 1.5, "no file is a test"),
        ("        assert total([]) == 0", "        total([])", 1.5, "no file is a test that checks something"),
        ("story S7", "the story", 1, "neither the story's id nor one of its acceptance criteria"),
        ("story S7", "the story S70", 1, "neither the story's id nor one of its acceptance criteria"),
        ("notes: This is story S7. Run the tests with pytest.", "", 1 + 1, "missing or empty: notes"),
    ],
)
def test_what_a_fault_costs(before: str, after: str, lost: float, fault: str) -> None:
    assert before in COMPLETE
    text = COMPLETE.replace(before, after)
    assert points(text) == pytest.approx(10 - lost)
    assert any(fault in said for said in score(text).faults), score(text).faults


def test_an_acceptance_criterion_is_as_good_as_the_storys_id() -> None:
    assert points(COMPLETE.replace("This is story S7.", "the total of nothing is ZERO.")) == pytest.approx(10)


def test_a_file_that_lacks_everything_counts_as_wrong_wherever_files_are_looked_at() -> None:
    """A third of files, paths, code and finished files."""
    assert points(COMPLETE.replace("\nnotes:", "- nothing\n\nnotes:")) == pytest.approx(10 - (1 + 1 + 2 + 2) / 3)


def test_prose_counts_neither_way_but_is_no_code() -> None:
    manual = "- path: README.md\n  language: markdown\n  content: |\n    Run (it.\n"
    assert points(COMPLETE.replace("\nnotes:", f"{manual}\nnotes:")) == pytest.approx(10)
    result = score(f"files:\n{manual}\nnotes: S7\n")
    assert result.parts["code"].fault == "there is no code"


@pytest.mark.parametrize("story", ["", "S7", "- S7", "id: 7"])
def test_without_a_story_what_depends_on_it_is_left_out(story: str) -> None:
    assert score(COMPLETE, story).total == pytest.approx(1.0)
    assert score(COMPLETE.replace("assert total([]) == 0", "total([])"), story).total == pytest.approx(1 - 1.5 / 9)
    assert score("", story).total == 0
