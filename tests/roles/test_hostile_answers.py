"""No metric raises, whatever a model has answered or was asked, and whatever is not full has a fault."""

import random
from typing import Any

import pytest

from cpuft.roles import NAMES, Role, Score, find_role
from cpuft.roles.answer import MAX_CHARACTERS, write_answer

BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True))
HOSTILE = [
    "",
    "   \n\n",
    "I am sorry, but I cannot write this.",
    "<script>alert(1)</script>",
    "- a list\n- of things",
    "[" * 5000,
    "{" * 5000,
    "? " * 5000,
    "- " * 5000,
    "x" * MAX_CHARACTERS,
    "x" * (MAX_CHARACTERS + 1),
    BOMB,
    "<<: *x",
    "\x00\ud800\ufffe",
    "a: !!python/object/apply:os.system [ls]",
    "a: !!bool maybe",
    "? [a, b]\n: c",
    "1: 2\nnull: 3\n.inf: .nan",
    "```yaml\n",
]
# What may stand in the place of a value.
VALUES: list[object] = [
    *(None, True, 0, -1.5, float("nan"), 10**30, "", " ", "x", "FR001", "S1", "TC001", "TODO", "..", "a\0b", "\u202e"),
    *(
        [],
        {},
        [[]],
        [None],
        [{}],
        [[[{}]]],
        {"id": []},
        {"id": {"a": 1}},
        {1: 2},
        [3, "a", None],
        "(" * 500,
        "x" * 3000,
    ),
]
# What may stand in the place of a character.
MARKS = [
    "\n",
    ": ",
    "- ",
    "  ",
    "'",
    '"',
    "{",
    "[",
    "*a",
    "&a ",
    "!!int ",
    "|",
    ">",
    "%",
    "\t",
    "#",
    "`",
    "---\n",
    "\0",
]


@pytest.fixture(scope="module", params=NAMES)
def role(request: pytest.FixtureRequest) -> Role:
    return find_role(request.param)


def check(role: Role, text: str, inputs: dict[str, str]) -> Score:
    score = role.metric(text, inputs)
    assert 0 <= score.total <= 1
    for name, part in score.parts.items():
        assert 0 <= part.value <= 1, name
        assert part.weight >= 0, name
        assert bool(part.fault) == (part.value < 1), (name, part)
        assert len(part.fault) < 5000, name
    return score


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_texts_that_are_no_answers_are_worth_nearly_nothing(text: str, role: Role) -> None:
    assert check(role, text, dict(role.seeds[0].inputs)).total <= 0.1


def test_the_longest_answer(role: Role) -> None:
    """Everything that a schema wants, as often as it fits into an answer."""
    document = dict(role.seeds[0].answer)
    name = next(name for name, value in document.items() if isinstance(value, list))
    document[name] = document[name] * (40_000 // len(write_answer(document)) + 1)
    assert check(role, write_answer(document), dict(role.seeds[0].inputs)).total > 0.2


@pytest.mark.parametrize("said", HOSTILE, ids=range(len(HOSTILE)))
def test_inputs_that_cannot_be_read_cost_a_good_answer_nothing(said: str, role: Role) -> None:
    answer = write_answer(role.seeds[0].answer)
    assert check(role, answer, dict.fromkeys(role.sources, said)).total == pytest.approx(1.0)


@pytest.mark.parametrize("value", [None, 7, b"id: S1", ["id: S1"]], ids=str)
def test_inputs_that_are_no_texts_or_missing_cost_a_good_answer_nothing(value: Any, role: Role) -> None:
    answer = write_answer(role.seeds[0].answer)
    assert check(role, answer, dict.fromkeys(role.sources, value)).total == pytest.approx(1.0)
    assert check(role, answer, {}).total == pytest.approx(1.0)


def test_documents_with_wrong_values_anywhere(role: Role) -> None:
    rng = random.Random(1)
    for _ in range(25):
        seed = rng.choice(role.seeds)
        rate = rng.choice([0.02, 0.1, 0.5])
        document = {name: _with_wrong_values(value, rng, rate) for name, value in seed.answer.items()}
        check(role, write_answer(document), dict(seed.inputs))


def test_texts_with_characters_changed_anywhere(role: Role) -> None:
    rng = random.Random(2)
    for _ in range(20):
        seed = rng.choice(role.seeds)
        text, inputs = write_answer(seed.answer), dict(seed.inputs)
        text = _with_changed_characters(text, rng)
        name = rng.choice(list(inputs))
        inputs[name] = _with_changed_characters(inputs[name], rng)
        check(role, text, inputs)


def test_answers_that_are_cut_off_never_gain_from_it(role: Role) -> None:
    seed = role.seeds[0]
    text = write_answer(seed.answer)
    for share in (0.0, 0.25, 0.5, 0.75):
        assert check(role, text[: int(share * len(text))], dict(seed.inputs)).total < 0.95


def _with_wrong_values(value: object, rng: random.Random, rate: float) -> object:
    if rng.random() < rate:
        return rng.choice(VALUES)
    if isinstance(value, dict):
        return {key: _with_wrong_values(item, rng, rate) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_wrong_values(item, rng, rate) for item in value]
    return value


def _with_changed_characters(text: str, rng: random.Random) -> str:
    for _ in range(rng.choice([1, 3, 20])):
        place = rng.randrange(len(text) + 1)
        text = text[:place] + rng.choice(MARKS) + text[place + rng.choice([0, 1, 5, 50]) :]
    return text
