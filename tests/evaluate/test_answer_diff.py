"""Two answers are compared field by field, nothing of them is lost, and no answer makes it take long."""

import random
import time

import pytest

from cpuft.evaluate.answer_diff import Field, Segment, compare_answers
from tests.evaluate.side_by_side import HOSTILE

BASE = "title: A shop\n\nitems:\n- id: R1\n  text: sells red bread\nnotes: none\n"
TUNED = "title: A shop\n\nitems:\n- id: FR001\n  text: sells red wine\n\nconstraints:\n- id: C001\n"


def text_of(segments: tuple[Segment, ...] | None) -> str:
    """What a side says."""
    return "".join(text for _, text in segments or ())


def marks(segments: tuple[Segment, ...] | None) -> list[str]:
    """The words that are marked."""
    return [text.strip() for mark, text in segments or () if mark]


def test_fields_stand_beside_each_other_and_differing_words_are_marked() -> None:
    title, items, constraints, notes = compare_answers(BASE, TUNED)
    assert [field.name for field in (title, items, constraints, notes)] == ["title", "items", "constraints", "notes"]
    assert not title.differs
    assert marks(items.base) == ["R1", "bread"]
    assert marks(items.tuned) == ["FR001", "wine"]
    assert (constraints.base, text_of(constraints.tuned)) == (None, "constraints:\n- id: C001\n")
    assert notes.tuned is None
    assert notes.differs


def test_space_alone_is_no_difference() -> None:
    (field,) = compare_answers("title:  A\n   shop\n", "title: A\n  shop")
    assert not field.differs
    assert text_of(field.base) == "title:  A\n   shop\n"


def test_one_common_word_between_two_differences_is_marked_with_them() -> None:
    (field,) = compare_answers("title: one two three four end of it", "title: uno two tres four end of it")
    assert marks(field.base) == ["one two three"]
    assert marks(field.tuned) == ["uno two tres"]


def test_what_is_written_anew_is_not_marked_word_by_word() -> None:
    (field,) = compare_answers("title: a b c d e f g h", "title: i j k l m n o p")
    assert field.rewritten
    assert field.differs


def test_fields_that_come_again_are_numbered() -> None:
    found = compare_answers("a: 1\na: 2\n", "intro\na: 1\n")
    assert [field.name for field in found] == ["", "a", "a (2)"]


@pytest.mark.parametrize("seed", range(200))
def test_nothing_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    words = [
        *("a:", "b:", "\n", "\n\n", " x", "y ", "\t", "- ", "``` ", "\x00", "\x1c", "\x85", "\ud800"),
        *HOSTILE[:2],
    ]
    base, tuned = ("".join(rng.choices(words, k=rng.randrange(40))) for _ in range(2))
    fields = compare_answers(base, tuned)
    for side, text in (("base", base), ("tuned", tuned)):
        pieces = [text_of(getattr(field, side)) for field in fields]
        assert sorted("".join(pieces).strip()) == sorted(text.strip())
        assert all(piece in text for piece in pieces)


LONG = {
    "few words": ("x y " * 20_000, "y x " * 20_000),
    "one word": ("x" * 100_000, "y" * 100_000),
    "lines": ("a\n" * 30_000, "b\na\n" * 20_000),
    "signs": (": " * 40_000, "- : " * 20_000),
    "fields": ("k: 1\n" * 15_000, "k: 2\n" * 15_000),
    "space": (" " * 100_000, "\n" * 100_000),
    "noise": (" ".join(random.Random(1).choices("xy", k=1500)), " ".join(random.Random(2).choices("xy", k=1500))),
}


@pytest.mark.parametrize(("base", "tuned"), LONG.values(), ids=LONG)
def test_no_answer_takes_long(base: str, tuned: str) -> None:
    began = time.process_time()
    found = compare_answers(base, tuned)
    assert all(isinstance(field, Field) for field in found)
    assert time.process_time() - began < 5
