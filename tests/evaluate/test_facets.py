"""Proves that facets say of answers what the role's schema says of them, whatever a model has written."""

import copy
import json
import random
import string
from typing import Any

import jsonschema
import pytest

from cpuft.evaluate.facets import Facets, facets_of, mean_facets
from cpuft.roles import NAMES, Role, find_role
from cpuft.roles.answer import write_answer
from cpuft.roles.check import HOSTILE

BA = find_role("ba")
LISTS = ("functional_requirements", "non_functional_requirements", "constraints")
SEED = BA.seeds[0].answer
ROLES = [find_role(name) for name in NAMES]


def of(document: Any, role: Role = BA) -> Facets:
    return facets_of(write_answer(document), role.schema)


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_good_answers_have_all(role: Role) -> None:
    for seed in role.seeds:
        facets = of(seed.answer, role)
        assert (facets.yaml_valid, facets.schema_valid, facets.completeness) == (1, 1, 1)
        assert facets.id_compliance == 1
        assert all(count > 0 for count in facets.quantities.values())


def test_lists_within_mappings_are_counted() -> None:
    document = {"vision": {"goals": [1, 2, 3], "target_users": "all"}, "alignment": [{"requirements": ["FR001"] * 9}]}
    assert of(document, find_role("po")).quantities == {"vision.target_users": 0, "vision.goals": 3, "alignment": 1}


def test_empty_fields_are_not_complete() -> None:
    assert of({**SEED, "title": "", "constraints": []}).completeness == pytest.approx(3 / 5)
    assert of({**SEED, "title": None, "more": "x"}).completeness == pytest.approx(4 / 5)


def test_ids() -> None:
    items = [{"id": "FR001"}, {"id": "FR1"}, {"id": 1}, {"description": "without one"}]
    assert of({"functional_requirements": items}).id_compliance == pytest.approx(1 / 4)
    assert of({"title": "without requirements"}).id_compliance is None
    assert of({"functional_requirements": ["FR001", None]}).id_compliance is None, "no place for one"


def test_what_can_be_read_of_a_broken_answer_counts() -> None:
    broken = f"{write_answer({name: SEED[name] for name in LISTS})}\ntitle: a: b: c\n"
    facets = facets_of(broken, BA.schema)
    assert (facets.yaml_valid, facets.schema_valid, facets.id_compliance) == (0, 0, 1)
    assert facets.completeness == pytest.approx(3 / 5)
    assert facets.quantities == {name: len(SEED[name]) for name in LISTS}


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
@pytest.mark.parametrize("answer", [*HOSTILE, "1: 2", "title: .inf", "? [a]\n: b", "a: 2024-99-99", "constraints: 7"])
def test_hostile_answers(answer: str, role: Role) -> None:
    facets = facets_of(answer, role.schema)
    assert facets.schema_valid == 0
    assert all(0 <= value <= 1 for value in (facets.yaml_valid, facets.completeness, facets.id_compliance or 0))
    json.dumps(facets.facts())


def test_schemas_that_refer_and_keys_that_are_no_texts() -> None:
    schema = {
        "type": "object",
        "required": ["points"],
        "patternProperties": {"^x": {}},
        "additionalProperties": False,
        "properties": {"points": {"$ref": "#/$defs/points"}, "elsewhere": {"$ref": "http://127.0.0.1:9/x.json"}},
        "$defs": {
            "points": {"type": "array", "items": {"$ref": "#/$defs/point"}},
            "point": {"type": "string", "pattern": "^P"},
            "loop": {"$ref": "#/$defs/loop"},
        },
    }
    facets = facets_of("points: [P1, 2]\n1: x", schema)
    assert (facets.yaml_valid, facets.schema_valid, facets.id_compliance) == (1, 0, 0.5)
    assert facets.quantities == {"points": 2}
    loop = {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}}
    assert facets_of("b: 1", loop).quantities == {}


def mutated(document: Any, chance: random.Random) -> Any:
    """A document of which a few things were removed, replaced or repeated."""
    document = copy.deepcopy(document)
    for _ in range(chance.randint(0, 6)):
        place = document
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(place[key], dict | list) and chance.random() < 0.7:
                place = place[key]
                continue
            what = chance.randrange(3)
            if what == 0:
                del place[key]
            elif what == 1:
                place[key] = chance.choice([None, "", 7, True, [], {}, "FR001", "FR1", "x" * 300, [{"id": "NFR001"}]])
            elif isinstance(place, list):
                place.append(copy.deepcopy(place[key]))
            break
    return document


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_any_document(role: Role) -> None:
    """Against the schema's own validator: where it finds a pattern unmatched, not all ids comply."""
    validator, chance = jsonschema.Draft202012Validator(dict(role.schema)), random.Random(role.name)
    seen = set()
    for _ in range(150):
        document = mutated(chance.choice(role.seeds).answer, chance)
        facets = of(document, role)
        errors = list(validator.iter_errors(document))
        bad = {tuple(error.absolute_path) for error in errors if error.validator == "pattern"}
        assert (facets.yaml_valid, facets.schema_valid) == (float(bool(document)), float(not errors and bool(document)))
        assert 0 <= facets.completeness <= 1
        if facets.id_compliance is not None:
            assert (facets.id_compliance < 1) >= bool(bad), document
        if not errors:
            assert (facets.completeness, facets.id_compliance) == (1, 1)
        seen.add((facets.schema_valid, facets.id_compliance is None, facets.id_compliance == 1))
    assert len(seen) > 1, "the mutations reach both"


def test_any_text() -> None:
    chance = random.Random(0)
    whole = write_answer(SEED)
    for _ in range(300):
        text = list(whole[: chance.randrange(len(whole))])
        for _ in range(chance.randrange(8)):
            text.insert(chance.randint(0, len(text)), chance.choice(string.printable + "\x00\u2028é"))
        facets = facets_of("".join(text), BA.schema)
        assert facets.schema_valid <= facets.yaml_valid
        assert 0 <= facets.completeness <= 1
        assert all(0 <= count <= 10 for count in facets.quantities.values())


def test_means() -> None:
    answers = [of(SEED), facets_of("prose", BA.schema), of({"constraints": [{"id": "C1"}]})]
    facets = mean_facets(answers)
    assert facets.yaml_valid == pytest.approx(2 / 3)
    assert facets.schema_valid == pytest.approx(1 / 3)
    assert facets.completeness == pytest.approx((1 + 0 + 1 / 5) / 3)
    assert facets.id_compliance == pytest.approx(1 / 2), "over those that have a place for one"
    assert facets.quantities["constraints"] == pytest.approx((len(SEED["constraints"]) + 1) / 3)
    assert facets.facts()["yaml_valid_rate"] == facets.facts()["yaml_valid"] == 0.6667
    assert mean_facets(answers[1:2]).facts()["id_compliance"] is None, "unknown, not 0"
