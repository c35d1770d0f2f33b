"""The seeds are good answers: they fit the schema, the metric finds no fault, and a chain of roles would give them."""

import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import jsonschema
import pytest

from cpuft.roles import NAMES, Example, find_role
from cpuft.roles.answer import read_answer, write_answer

DOMAINS = "fintech,healthcare,e-commerce,education,logistics,HR,marketing,agriculture,energy,public sector".split(",")
LEAST_SEEDS = {"ba": 25}
LISTS = {"functional_requirements": (3, 6), "non_functional_requirements": (2, 4), "constraints": (2, 3)}


@pytest.mark.parametrize("name", NAMES)
def test_each_fits_the_schema_and_has_all_points(name: str) -> None:
    role = find_role(name)
    assert len(role.seeds) >= LEAST_SEEDS.get(name, 10)
    for seed in role.seeds:
        jsonschema.validate(seed.answer, role.schema)
        result = role.metric(write_answer(seed.answer), seed.inputs)
        assert result.faults == []
        assert result.total == pytest.approx(1.0)


@pytest.mark.parametrize("name", NAMES)
def test_what_they_are_asked_is_found_again_in_the_users_turn(name: str) -> None:
    role = find_role(name)
    for seed in role.seeds:
        assert list(seed.inputs) == list(role.sources)
        assert role.inputs_of(role.messages(seed.inputs)[1]["content"]) == seed.inputs


@pytest.mark.parametrize("name", NAMES)
def test_no_two_say_the_same(name: str) -> None:
    """Boilerplate would be learned as such."""
    said = [{text for text in _texts(seed.answer) if len(text) > 45} for seed in find_role(name).seeds]
    assert not [both for one, other in combinations(said, 2) if (both := one & other)]


def test_the_business_analysts_are_as_long_as_such_documents_are() -> None:
    for seed in find_role("ba").seeds:
        for name, (least, most) in LISTS.items():
            assert least <= len(seed.answer[name]) <= most, (seed.inputs, name)
        for item in seed.answer["non_functional_requirements"]:
            assert any(character.isdigit() for character in item["description"]), item


def test_each_roles_inputs_are_seeds_of_the_roles_before_it() -> None:
    seeds = {name: find_role(name).seeds for name in NAMES}
    for i, po in enumerate(seeds["po"]):
        ba, architect, dev, qa = (seeds[name][i] for name in ("ba", "architect", "dev", "qa"))
        assert po.inputs == {**ba.inputs, "requirements": _said(ba)}
        assert architect.inputs == {"requirements": _said(ba), "vision": _said(po)}
        assert read_answer(dev.inputs["architecture"]) == architect.answer["architecture"]
        assert read_answer(dev.inputs["story"]) in architect.answer["stories"]
        assert qa.inputs == {"story": dev.inputs["story"], "files": _said(dev)}


def test_the_python_tests_that_developers_wrote_pass(tmp_path: Path) -> None:
    folders = []
    for i, seed in enumerate(find_role("dev").seeds):
        if not any(file["language"] == "python" for file in seed.answer["files"]):
            continue
        folders.append(tmp_path / f"project{i}")
        for file in seed.answer["files"]:
            (folders[-1] / file["path"]).parent.mkdir(parents=True, exist_ok=True)
            (folders[-1] / file["path"]).write_text(file["content"], encoding="utf-8")
    assert len(folders) >= 8
    # One process for all, which takes a second instead of ten: no two of them have a package of the same name.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "."]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_the_lexicon_has_words_for_every_domain() -> None:
    lexicon = find_role("ba").lexicon
    assert set(lexicon) == {"product", "audience", "complexity", *(f"domain {domain}" for domain in DOMAINS)}
    for kind, words in lexicon.items():
        assert len(words) >= (12 if kind.startswith("domain") else 10), kind
        assert len(set(words)) == len(words), kind


def _said(seed: Example) -> str:
    return write_answer(seed.answer).strip()


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []
