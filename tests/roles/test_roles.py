"""A role is a folder: it is read whole, its faults are listed, and its words around a question come off again."""

import shutil
from pathlib import Path

import pytest

from cpuft.errors import ConfigError
from cpuft.roles import NAMES, Part, Score, find_role
from cpuft.roles.folder import read_role, source_role

BA = Path(__file__).resolve().parents[2] / "cpuft" / "roles" / "ba"

SOURCE = 'title: a\nquestion: "{{concept}}"\nsources: {{concept: {}}}\nanswer_keys: [c]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A role of one's own, made of the business analyst's."""
    shutil.copytree(BA, tmp_path / "clerk")
    return tmp_path / "clerk"


def test_a_total_is_the_weighted_mean() -> None:
    score = Score.of({"a": Part(1.0, 3.0), "b": Part(0.0, 1.0, "b is missing")})
    assert (score.total, score.faults) == (0.75, ["b is missing"])


@pytest.mark.parametrize("said", ["Concept: a shop", "  Concept:  a shop\n", "a shop", "Concept:a shop"])
def test_what_is_asked_is_found_in_the_users_turn(said: str) -> None:
    assert find_role("ba").inputs_of(said) == {"concept": "a shop"}


def test_several_inputs_are_told_apart(folder: Path) -> None:
    (folder / "role.yaml").write_text(
        'title: clerk\nquestion: "Concept: {concept}\\n\\nRequirements:\\n{requirements}"\n'
        "sources: {concept: user, requirements: ba}\nanswer_keys: [letter]\n"
    )
    role, inputs = read_role(folder), {"concept": "a (shop)", "requirements": "- id: FR001\n\n- id: FR002"}
    asked = role.messages(inputs)
    assert asked[1]["content"] == "Concept: a (shop)\n\nRequirements:\n- id: FR001\n\n- id: FR002"
    assert role.inputs_of(asked[1]["content"]) == inputs


@pytest.mark.parametrize("name", NAMES)
def test_the_prompts_name_what_the_schema_wants(name: str) -> None:
    role = find_role(name)
    assert all(field in role.prompt for field in role.fields)
    assert len(role.short_prompt) < len(role.prompt)
    asked = dict.fromkeys(role.sources, "x")
    assert role.messages(asked)[0]["content"] == role.short_prompt
    assert role.messages(asked, short=False)[0]["content"] == role.prompt


def test_a_role_of_ones_own_is_a_folder(folder: Path) -> None:
    assert find_role(str(folder)).name == "clerk"
    assert find_role(str(folder)).metric("title: a", {"concept": "x"}).total > 0


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("role.yaml", "title: clerk\n", r"2 faults|3 faults"),
        ("role.yaml", "title: [", "not valid YAML"),
        (
            "role.yaml",
            "title: a\nquestion: b\nsources: {concept: user}\nanswer_keys: [c]\n",
            r"\{concept\} is not in it",
        ),
        (
            "role.yaml",
            SOURCE.format("chef"),
            r"sources\.concept: 'chef' is no source, expected user, a role \(one of ba, po",
        ),
        ("role.yaml", SOURCE.format("user.name"), "'user.name' is no source"),
        ("role.yaml", SOURCE.format("po.visions"), r"po does not answer 'visions', expected one of vision, alignment"),
        ("role.yaml", SOURCE.format("po."), "po does not answer ''"),
        ("schema.json", "{", "no JSON Schema"),
        ("schema.json", '{"type": "array"}', "expected the schema of an object with properties"),
        ("metric.py", "def score(", "cannot be run .SyntaxError"),
        ("metric.py", "x = 1", "cannot be run .AttributeError"),
        ("seeds.yaml", "- inputs: 3", "seeds.yaml: 2 faults|seeds.yaml: "),
        ("lexicon.yaml", "product: app", "lexicon.yaml: product: 'app' is not of type 'array'"),
        ("lexicon.yaml", "- app", "lexicon.yaml: the file: "),
    ],
)
def test_a_broken_folder_says_what_is_wrong(file: str, text: str, sentence: str, folder: Path) -> None:
    (folder / file).write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        read_role(folder)


@pytest.mark.parametrize("file", ["role.yaml", "schema.json", "prompt.md", "short.md", "metric.py", "seeds.yaml"])
def test_a_folder_that_lacks_a_file_names_it(file: str, folder: Path) -> None:
    (folder / file).unlink()
    with pytest.raises(ConfigError, match=file):
        read_role(folder)


def test_an_unknown_role_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="chef: no such role, expected one of ba"):
        find_role("chef")


def test_the_team_works_in_a_chain() -> None:
    """Each role is asked what the user says or what an earlier one has answered."""
    for i, name in enumerate(NAMES):
        sources = find_role(name).sources.values()
        assert {role for source in sources if (role := source_role(source))} <= set(NAMES[:i])
    assert NAMES == ("ba", "po", "architect", "dev", "qa")


@pytest.mark.parametrize("source", ["user", "qa", "architect.stories"])
def test_a_role_of_ones_own_may_be_asked_what_any_role_answers(source: str, folder: Path) -> None:
    (folder / "role.yaml").write_text(SOURCE.format(source))
    assert read_role(folder).sources == {"concept": source}
