"""The BA metric gives the scores that its definition gives by hand, and none to text that is no document."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml

from cpuft.errors import ConfigError
from cpuft.roles import find_role
from cpuft.roles.ba.document import schema
from cpuft.roles.ba.metric import NOTHING, WEIGHTS, score

ROLE = find_role("ba")
CONCEPT = "Smart parcel tracking app for couriers"

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

constraints:
- id: C001
  description: Ready in 3 months
"""


def test_a_complete_document_scores_one() -> None:
    result = score(COMPLETE, CONCEPT)
    assert result.parts["yaml_valid"]
    assert result.total == pytest.approx(1.0)
    jsonschema.validate(yaml.safe_load(COMPLETE), schema())


def test_the_weights_sum_to_one() -> None:
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A smart app that helps couriers follow parcels. It can export reports.",
        "- a list\n- of things",
        "title: [unclosed",
        "when: 2024-99-99",
        "[" * 5000,
        "? " * 5000,
        "title: x\n" * 20_000,
        "&a [*a]",
        f"about: &a {CONCEPT}\ntitle: *a",  # aliases can stand for gigabytes
    ],
)
def test_text_that_is_no_mapping_scores_nothing(text: str) -> None:
    assert score(text, CONCEPT) == NOTHING


def test_a_title_alone() -> None:
    # completeness: title 1, four fields 0 -> 1/5; relevance 5 of 5 words (smart parcel tracking app couriers).
    result = score(f"title: {CONCEPT}", CONCEPT)
    assert not result.parts["yaml_valid"]
    assert [result.parts[name] for name in WEIGHTS] == [0.0, 0.2, 0.0, 0.0, 1.0]
    assert result.total == pytest.approx(0.25 * 0.2 + 0.15 * 1.0)


def test_short_texts_count_half() -> None:
    document = yaml.safe_load(COMPLETE)
    document["title"] = "Parcels"
    document["description"] = "Too short."
    result = score(yaml.safe_dump(document), CONCEPT)
    # completeness (0.5 + 0.5 + 1 + 1 + 1) / 5; of the concept, "couriers" and "tracking" are left.
    assert result.parts["yaml_valid"]
    assert result.parts["completeness"] == pytest.approx(0.8)
    assert result.parts["relevance"] == pytest.approx(2 / 5)


def test_wrong_and_repeated_ids() -> None:
    text = COMPLETE.replace("FR002", "FR001").replace("NFR001", "N1").replace("C001", "C01")
    result = score(text, CONCEPT)
    # Four items; the repeated FR001 counts once, N1 and C01 do not fit.
    assert result.parts["yaml_valid"]
    assert result.parts["completeness"] == pytest.approx(1.0)
    assert result.parts["id_format"] == pytest.approx(1 / 4)
    assert result.total == pytest.approx(1.0 - 0.15 * 3 / 4)


def test_too_few_items() -> None:
    document = yaml.safe_load(COMPLETE)
    del document["functional_requirements"][1]
    document["constraints"] = []
    result = score(yaml.safe_dump(document), CONCEPT)
    assert result.parts["quantities"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert result.parts["completeness"] == pytest.approx(4 / 5)


def test_an_item_without_a_priority_is_incomplete() -> None:
    result = score(COMPLETE.replace("  priority: Low\n", ""), CONCEPT)
    assert not result.parts["yaml_valid"]
    assert result.parts["completeness"] == pytest.approx((1 + 1 + 1 / 2 + 1 + 1) / 5)


def test_wrong_types_are_no_valid_document() -> None:
    assert not score(COMPLETE.replace("id: C001", "id: 1"), CONCEPT).parts["yaml_valid"]
    assert not score("title: 3\ndescription: 4", CONCEPT).parts["yaml_valid"]
    result = score("title: 3\nfunctional_requirements: none\nconstraints: [3, x]", CONCEPT)
    assert [result.parts[name] for name in ("completeness", "id_format", "relevance")] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("fence", ["```yaml\n{}\n```\n", "```\n{}```", "```yml\n{}"])
def test_a_code_fence_around_the_document_is_ignored(fence: str) -> None:
    assert score(fence.format(COMPLETE), CONCEPT).total == pytest.approx(1.0)


def test_a_concept_without_content_words_finds_no_relevance() -> None:
    assert score(COMPLETE, "for the").parts["relevance"] == 0.0


def test_the_schema_is_a_schema_and_the_prompt_names_its_fields() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert all(field in ROLE.system_prompt for field in ROLE.fields)
    assert json.dumps(schema())
    assert ROLE.messages(CONCEPT)[1]["content"] == "Concept: Smart parcel tracking app for couriers"


@pytest.mark.parametrize("said", ["Concept: a shop", "  Concept:  a shop\n", "a shop"])
def test_what_is_asked_is_found_in_the_users_turn(said: str) -> None:
    assert ROLE.asked(said) == "a shop"


def test_an_unknown_role_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="chef: no such role, expected one of ba"):
        find_role("chef")
