"""A program is asked in the same words by cpuft and by DSPy, and files of either are read."""

import json
from pathlib import Path

import dspy
import pytest

from cpuft.backends.remembered import Remembered
from cpuft.errors import ConfigError
from cpuft.roles import Role
from cpuft.roles.answer import read_answer
from cpuft.roles.yaml_grammar import yaml_grammar
from cpuft.synth.concepts import Concept
from cpuft.synth.generation import generate_records
from cpuft.synth.language_model import RoleProgram, write_program
from cpuft.synth.program import Program, read_program
from cpuft.synth.records import read_records
from cpuft.workflow.prompt import score
from tests.synth.answering import Scripted
from tests.synth.conftest import document, record

PROGRAM = Program("You are one.", (record("an app for bakers"), record("an app for bees")))


def test_demos_stand_before_the_question(role: Role) -> None:
    turns = PROGRAM.messages(role, {"concept": "a thing"})
    assert [turn["role"] for turn in turns] == ["system", *["user", "assistant"] * 2, "user"]
    assert turns[0]["content"] == "You are one."
    assert turns[1]["content"] == "Concept: an app for bakers"
    assert turns[-1]["content"] == "Concept: a thing"
    assert read_answer(turns[2]["content"]) == document("an app for bakers")
    shown = PROGRAM.messages(role, {"concept": "a thing"}, as_json=True)
    assert json.loads(shown[2]["content"]) == document("an app for bakers")


@pytest.mark.parametrize("grammar", [True, False])
def test_who_is_held_to_json_is_shown_json(role: Role, tmp_path: Path, grammar: bool) -> None:
    """A generator that takes a grammar is held to YAML, and shown it, through what remembers its answers, too."""
    model = Scripted(lambda messages, _: messages[2]["content"])
    model.takes_grammar = grammar
    with Remembered(model, tmp_path / "answers.sqlite", "m") as asked:
        found = score(role, asked, PROGRAM, [record("a thing")], constrained=True, max_tokens=9, n_parallel=1)
        generate_records(
            role, asked, [Concept("a shop", "shops", "g")], tmp_path / "r.jsonl", model="m", program=PROGRAM
        )
    assert found.average_score == role.metric(PROGRAM.demos[0].answer, {"concept": "a thing"}).total
    assert len(model.heard) == 2
    for messages, sampling in model.heard:
        assert (sampling.grammar, sampling.schema) == (
            (yaml_grammar(role.schema), None) if grammar else (None, role.schema)
        )
        assert messages[2]["content"].startswith("{") != grammar
    assert read_records(tmp_path / "r.jsonl", role)[0].answer == PROGRAM.demos[0].answer


def test_a_digest_tells_programs_apart() -> None:
    others = [
        Program("You are two.", PROGRAM.demos),
        Program("You are one."),
        Program("You are one.", PROGRAM.demos[:1]),
    ]
    assert len({one.digest for one in [PROGRAM, *others]}) == 4
    assert Program("You are one.", PROGRAM.demos).digest == PROGRAM.digest


def test_a_written_program_is_read_back_by_both(role: Role, tmp_path: Path) -> None:
    path = tmp_path / "program.json"
    write_program(path, role, PROGRAM)
    read = read_program(path, role)
    assert read.prompt == PROGRAM.prompt
    assert [(one.inputs, one.answer) for one in read.demos] == [(one.inputs, one.answer) for one in PROGRAM.demos]
    assert read.digest == PROGRAM.digest
    loaded = RoleProgram(role, Program(""))
    loaded.load(path)
    assert loaded.program.digest == PROGRAM.digest


def test_a_program_of_ones_own_is_read(role: Role, tmp_path: Path) -> None:
    """It may name the answer as the role's data do."""
    own = dspy.Predict(dspy.Signature("concept -> requirements_yaml", "Write requirements."))
    demo = record("an app for bakers")
    own.demos = [dspy.Example(concept="an app for bakers", requirements_yaml=demo.answer)]
    module = _Wrapped(own)
    module.save(tmp_path / "own.json")
    read = read_program(tmp_path / "own.json", role)
    assert read.prompt == "Write requirements."
    assert [one.answer for one in read.demos] == [demo.answer]


class _Wrapped(dspy.Module):  # type: ignore[misc]
    def __init__(self, predictor: dspy.Predict) -> None:
        super().__init__()
        self.write = predictor


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.json", None, "no such file"),
        ("program.pkl", "x", "a pickle can run any code"),
        ("broken.json", "{", "no program of DSPy"),
        ("list.json", "[]", "found 0 predictors"),
        ("deep.json", "[" * 100_000, "no program of DSPy"),
        (
            "two.json",
            json.dumps({n: {"signature": {"instructions": "x"}, "demos": []} for n in "ab"}),
            "found 2 predictors",
        ),
        (
            "demo.json",
            json.dumps({"ask": {"signature": {"instructions": "x"}, "demos": [{"concept": "a"}]}}),
            "a demo does not fit the role analyst: no answer",
        ),
    ],
)
def test_what_is_no_program(name: str, content: str | None, sentence: str, role: Role, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        read_program(tmp_path / name, role)


def test_what_dspy_asks_is_what_cpuft_asks(role: Role) -> None:
    """The conversation that DSPy's program sends, word for word."""
    from cpuft.synth.language_model import LanguageModel
    from tests.synth.answering import Scripted

    model = Scripted(lambda messages, sampling: "title: x")
    with dspy.context(lm=LanguageModel(model, "m", seed=0)):
        said = RoleProgram(role, PROGRAM)(concept="a thing")
    assert said.answer == "title: x\n"
    assert model.heard[0][0] == PROGRAM.messages(role, {"concept": "a thing"})
