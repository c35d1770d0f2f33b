"""What is kept is good and single, whatever the order; what is divided has no relatives on both sides."""

import random
from collections import Counter

import pytest

from cpuft.errors import DatasetError
from cpuft.roles import Role
from cpuft.synth.duplicates import clusters, diversity, likeness
from cpuft.synth.filter import Criteria, filter_records
from cpuft.synth.records import RoleRecord
from cpuft.synth.split import split_records
from tests.synth.conftest import record

WORDS = ("lamp", "river", "violin", "cactus", "harbour", "pepper", "glacier", "meadow", "anvil", "comet")


def distinct(count: int) -> list[str]:
    """Concepts of which no two are nearly alike."""
    rng = random.Random(3)
    return [" ".join(rng.sample(WORDS, 3)) + f" {i * 7919}" for i in range(count)]


def test_likeness() -> None:
    assert likeness("A shop for tools", "a SHOP, for tools!") == 1.0
    assert likeness("Smart parcel tracking app for couriers", "Smart parcel tracking app for courier firms") > 0.7
    assert likeness("Smart parcel tracking app for couriers", "Blood donor portal for hospitals") < 0.1
    assert diversity(["a shop for tools", "a shop for tools"]) == 0.0
    assert diversity(distinct(10)) > 0.5


def test_clusters_hang_together_through_others() -> None:
    chain = [
        "one two three four five",
        "one two three four five six",
        "one two three four five six seven",
        "other words",
    ]
    assert clusters(chain, 0.75) == [0, 0, 0, 3]


def test_each_reason_is_found(role: Role) -> None:
    good = [record(text) for text in distinct(5)]
    short = RoleRecord({"concept": "mountain hut bookings"}, "title: Mountain hut\n")
    cut = record("glass blower orders", finished=False)
    prose = RoleRecord({"concept": "opera tickets for all"}, "It sells tickets.")
    same, near = record(f"  {distinct(1)[0].upper()}!"), record(distinct(2)[1] + "1")
    leaked = record("night bus timetable portal")
    criteria = Criteria(0.7, held_out=("Night bus timetable portal",))
    found = filter_records([*good, short, cut, prose, same, near, leaked], role, criteria)
    assert sorted(one.asked for one in found.kept) == sorted(min(one.asked, *alike(one, same, near)) for one in good)
    assert found.reasons == Counter(
        {"score": 2, "schema": 1, "no YAML": 1, "unfinished": 1, "duplicate": 1, "near-duplicate": 1, "held out": 1}
    )
    sentences = {kind: sentence for dropped in found.dropped for kind, sentence in dropped.reasons}
    assert sentences["score"].startswith("scores 0.")
    assert "these fields are missing or empty" in sentences["score"]
    assert "is a required property" in sentences["schema"]


def alike(one: RoleRecord, *others: RoleRecord) -> list[str]:
    return [other.asked for other in others if likeness(one.asked, other.asked) >= 0.7] or [one.asked]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_records_does_not_matter(seed: int, role: Role) -> None:
    rng = random.Random(seed)
    texts = distinct(12)
    records = [record(text, domain=text[:3]) for text in texts] + [record(text + "x") for text in texts[:6]]
    kept, parts = [], []
    for _ in range(2):
        rng.shuffle(records)
        found = filter_records(records, role, Criteria())
        kept.append(sorted(one.asked for one in found.kept))
        assert len(found.kept) + len(found.dropped) == len(records)
        divided = split_records(records, 0.75, seed)
        parts.append(sorted(one.asked for one in divided.validation))
    assert kept[0] == kept[1]
    assert parts[0] == parts[1]


@pytest.mark.parametrize("seed", range(5))
def test_no_relatives_on_both_sides_and_nothing_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    records = []
    for text in distinct(30):
        group, domain = f"g{rng.randrange(12)}", rng.choice(["fintech", "hr"])
        records += [record(text, group=group, domain=domain), record(f"{text}{rng.randrange(9)}", domain=domain)]
    divided = split_records(records, 0.8, seed)
    assert Counter(r.asked for r in records) == Counter(r.asked for r in (*divided.train, *divided.validation))
    groups = [
        {one.facts["group"] for one in part if "group" in one.facts} for part in (divided.train, divided.validation)
    ]
    assert not groups[0] & groups[1]
    assert not any(likeness(a.asked, b.asked) >= 0.7 for a in divided.train for b in divided.validation)
    assert 0 < len(divided.validation) < len(records) / 2


def test_every_domain_gives_its_share() -> None:
    records = [record(text, domain="abc"[i % 3]) for i, text in enumerate(distinct(60))]
    divided = split_records(records, 0.8, 0)
    counts = Counter(one.facts["domain"] for one in divided.validation)
    assert counts == {"a": 4, "b": 4, "c": 4}
    assert [one.asked for one in split_records(records, 0.8, 1).validation] != [one.asked for one in divided.validation]


def test_what_cannot_be_divided_says_so() -> None:
    with pytest.raises(DatasetError, match="ask nearly the same"):
        split_records([record("one shop for tools"), record("one shop for tools!")], 0.8, 0)
    two = split_records([record("one shop for tools"), record("a blood donor app")], 0.8, 0)
    assert (len(two.train), len(two.validation)) == (1, 1)


def test_hostile_answers_are_dropped_and_nothing_falls_over(role: Role) -> None:
    answers = ["", "a: &a [*a]", "[" * 3000, "<script>alert(1)</script>", "title: " + "y" * 100_000, "\x00", "- x"]
    records = [RoleRecord({"concept": text}, answer) for text, answer in zip(distinct(7), answers, strict=True)]
    found = filter_records(records, role, Criteria())
    assert found.kept == []
