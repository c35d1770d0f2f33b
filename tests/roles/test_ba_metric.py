"""The BA metric gives the scores that its definition gives by hand, and none to text that is no document."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml

from cpuft.roles import ba
from cpuft.roles.ba.metric import NOTHING, WEIGHTS, score

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
    assert result.yaml_valid
    assert result.total == pytest.approx(1.0)
    jsonschema.validate(yaml.safe_load(COMPLETE), ba.schema())


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
    ],
)
def test_text_that_is_no_mapping_scores_nothing(text: str) -> None:
    assert score(text, CONCEPT) == NOTHING


def test_a_title_alone() -> None:
    # completeness: title 1, four fields 0 -> 1/5; relevance 5 of 5 words (smart parcel tracking app couriers).
    result = score(f"title: {CONCEPT}", CONCEPT)
    assert not result.yaml_valid
    assert (result.completeness, result.id_format, result.quantities, result.relevance) == (0.2, 0.0, 0.0, 1.0)
    assert result.total == pytest.approx(0.25 * 0.2 + 0.15 * 1.0)


def test_short_texts_count_half() -> None:
    document = yaml.safe_load(COMPLETE)
    document["title"] = "Parcels"
    document["description"] = "Too short."
    result = score(yaml.safe_dump(document), CONCEPT)
    # completeness (0.5 + 0.5 + 1 + 1 + 1) / 5; of the concept, "couriers" and "tracking" are left.
    assert result.yaml_valid
    assert result.completeness == pytest.approx(0.8)
    assert result.relevance == pytest.approx(2 / 5)


def test_wrong_and_repeated_ids() -> None:
    text = COMPLETE.replace("FR002", "FR001").replace("NFR001", "N1").replace("C001", "C01")
    result = score(text, CONCEPT)
    # Four items; the repeated FR001 counts once, N1 and C01 do not fit.
    assert result.yaml_valid
    assert result.completeness == pytest.approx(1.0)
    assert result.id_format == pytest.approx(1 / 4)
    assert result.total == pytest.approx(1.0 - 0.15 * 3 / 4)


def test_too_few_items() -> None:
    document = yaml.safe_load(COMPLETE)
    del document["functional_requirements"][1]
    document["constraints"] = []
    result = score(yaml.safe_dump(document), CONCEPT)
    assert result.quantities == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert result.completeness == pytest.approx(4 / 5)


def test_an_item_without_a_priority_is_incomplete() -> None:
    result = score(COMPLETE.replace("  priority: Low\n", ""), CONCEPT)
    assert not result.yaml_valid
    assert result.completeness == pytest.approx((1 + 1 + 1 / 2 + 1 + 1) / 5)


def test_wrong_types_are_no_valid_document() -> None:
    assert not score(COMPLETE.replace("id: C001", "id: 1"), CONCEPT).yaml_valid
    assert not score("title: 3\ndescription: 4", CONCEPT).yaml_valid
    result = score("title: 3\nfunctional_requirements: none\nconstraints: [3, x]", CONCEPT)
    assert (result.completeness, result.id_format, result.relevance) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("fence", ["```yaml\n{}\n```\n", "```\n{}```", "```yml\n{}"])
def test_a_code_fence_around_the_document_is_ignored(fence: str) -> None:
    assert score(fence.format(COMPLETE), CONCEPT).total == pytest.approx(1.0)


def test_a_concept_without_content_words_finds_no_relevance() -> None:
    assert score(COMPLETE, "for the").relevance == 0.0


def test_the_schema_is_a_schema_and_the_prompt_names_its_fields() -> None:
    jsonschema.Draft202012Validator.check_schema(ba.schema())
    assert all(field in ba.system_prompt() for field in ba.schema()["properties"])
    assert json.dumps(ba.schema())
    assert ba.user_message(CONCEPT) == "Concept: Smart parcel tracking app for couriers"
