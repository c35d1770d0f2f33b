"""The demo's examples are as many, as good and as separate from one another as the demo claims."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cpuft import demo
from cpuft.gguf.reader import read_gguf
from cpuft.roles import find_role
from scripts.demo_base import examples, lexicon
from scripts.demo_base.corpus import BA_KEYS, conversation
from scripts.make_demo_base import SEED

ROLE = find_role("ba")
SETS = {"train": demo.TRAIN, "val": demo.VALIDATION, "test": demo.TEST}
CORPUS_SAMPLE = 4000
CHECKED = 250  # at the least, of the answers of a set: they come from one grammar, and PyYAML takes 5 ms for each


def messages_of(path: Path) -> list[dict[str, str]]:
    """Role -> content of each example."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{message["role"]: message["content"] for message in row["messages"]} for row in rows]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


@pytest.mark.parametrize(("name", "count"), [("train", 1000), ("val", 20), ("test", 25)])
def test_each_set_has_its_size_and_gold_answers(name: str, count: int) -> None:
    conversations = messages_of(SETS[name])
    assert len(conversations) == count
    assert {conversation_["system"] for conversation_ in conversations} == {ROLE.short_prompt}
    validator = jsonschema.Draft202012Validator(ROLE.schema)
    for conversation_ in conversations[:: max(1, count // CHECKED)]:
        validator.validate(yaml.safe_load(conversation_["assistant"]))
        assert ROLE.metric(conversation_["assistant"], ROLE.inputs_of(conversation_["user"])).total == 1


@pytest.mark.parametrize("name", SETS)
def test_the_files_are_what_the_script_makes(name: str, tmp_path: Path) -> None:
    fragments = lexicon.fragments_of(read_gguf(demo.BASE_MODEL).get("tokenizer.ggml.tokens"))
    made = examples.make_examples(ROLE.short_prompt, fragments, SEED)
    examples.write_jsonl(tmp_path / name, made[name])
    assert (tmp_path / name).read_bytes() == SETS[name].read_bytes()


def test_no_concept_is_in_two_sets() -> None:
    concepts = [conversation_["user"] for path in SETS.values() for conversation_ in messages_of(path)]
    assert len(set(concepts)) == len(concepts)


def test_held_out_words_are_nowhere_but_in_the_test_set() -> None:
    held_out = lexicon.words_of(lexicon.TEST)
    assert not held_out & lexicon.words_of({**lexicon.CORPUS, **lexicon.TRAIN})
    for path in (demo.TRAIN, demo.VALIDATION):
        assert not held_out & words(path.read_text(encoding="utf-8"))
    for conversation_ in messages_of(demo.TEST):
        assert held_out & words(conversation_["user"])
    for index in range(CORPUS_SAMPLE):
        for message in conversation(SEED, index):
            assert not held_out & words(message["content"]), (index, message)


def test_the_corpus_never_answers_with_the_documents_keys() -> None:
    keys = re.compile(rf"^[-\s]*({'|'.join(sorted(BA_KEYS))})\s*[:=]", re.MULTILINE)
    assert set(ROLE.fields) < BA_KEYS
    for index in range(CORPUS_SAMPLE):
        for message in conversation(SEED, index):
            assert not keys.search(message["content"]), (index, message)


def test_corpus_answers_score_near_zero_as_requirements() -> None:
    answers = [conversation(SEED, index)[2]["content"] for index in range(500)]
    assert sum(ROLE.metric(answer, {"concept": "Smart parcel tracking app"}).total for answer in answers) / 500 < 0.05
