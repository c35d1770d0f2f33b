"""Forgetting: the bundled text and questions, losses against llama.cpp's own, and a real base with its tuned model."""

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from cpuft import demo
from cpuft.cli.main import cli
from cpuft.errors import ConfigError, DatasetError, ModelError
from cpuft.evaluate.general_questions import Question, QuestionChange, Reply, read_questions
from cpuft.evaluate.neutral_text import TextChange, TextLoss, compare_text, read_passages, text_loss
from cpuft.evaluate.result import read_result
from tests.gguf.tiny import write_tiny_model

RIGHT = {
    "add": ("42", "The answer is 42.", "142"),
    "freezing": ("0", "Water freezes at 0 °C.", "10 degrees"),
    "formula": ("H2O", "The formula is H₂O", "HO"),
    "rhyme": ("hat", "Bat.", "category"),
    "socrates": ("Yes", "yes, it does", "No, yes"),
    "larger": ("1230", "1,230", "1203"),
    "json": ('{"city": "Oslo"}', '```json\n{ "city" : "Oslo" }\n```', '{"city": Oslo}'),
    "upper": ("HELLO", "HELLO!", "hello"),
    "one-word": ("banana", "Banana.", "A banana"),
    "list-colors": ("- red\n- blue", "- Red\n\n- Green", "red, blue"),
    "repeat": ("tree tree tree", "Tree, tree, tree", "tree tree"),
    "days-es": ("martes", "Después del lunes viene el martes.", "jueves"),
}


def test_the_bundled_questions() -> None:
    questions = {one.id: one for one in read_questions()}
    assert len(questions) >= 40
    assert len({one.kind for one in questions.values()}) == 6
    for name, (short, long, wrong) in RIGHT.items():
        assert questions[name].is_right(short), name
        assert questions[name].is_right(long), name
        assert not questions[name].is_right(wrong), name
    document = "title: Software for a shop\nfunctional_requirements:\n- id: FR001\n  description: It sells bread\n"
    assert [one.id for one in questions.values() if one.is_right(document) or one.is_right("")] == []


def test_the_bundled_text_is_long_enough() -> None:
    passages = read_passages()
    assert sum(len(passage.split()) for passage in passages) > 3000
    assert len(passages) > 20


def test_files_of_ones_own_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "q.yaml"
    file.write_text(
        "questions:\n- {id: a, kind: x, question: q, accept: ['(']}\n- {id: a, kind: x, question: q, accept: [b]}"
    )
    with pytest.raises(ConfigError, match=r"(?s)accept: '\(' is no regular expression.*'a' stands twice"):
        read_questions(file)
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n\n ")
    with pytest.raises(DatasetError, match="holds no text"):
        read_passages(empty)
    with pytest.raises(DatasetError, match="no such file"):
        read_passages(tmp_path / "none.txt")


def test_growth_is_that_of_the_perplexity_over_all_tokens() -> None:
    base = TextLoss((10.0, 40.0, 9.0), (tuple(range(6)), tuple(range(21)), tuple(range(4))))
    tuned = TextLoss((11.0, 44.0, 9.5), base.tokens)
    change = TextChange(base, tuned)
    facts = change.facts()
    assert facts["n_tokens"] == 28
    assert facts["perplexity_growth"]["value"] == pytest.approx(tuned.perplexity / base.perplexity - 1, abs=1e-4)
    assert facts["perplexity_growth"]["low"] < facts["perplexity_growth"]["value"] < facts["perplexity_growth"]["high"]
    same = TextChange(base, base).facts()["perplexity_growth"]
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0}
    with pytest.raises(ModelError, match=r"other\.gguf: it reads other tokens"):
        compare_text(base, TextLoss(base.losses, (*base.tokens[:2], (1, 2, 3, 9))), "other.gguf")


def test_questions_are_compared_pair_by_pair() -> None:
    one, two, three = (Question(f"q{i}", "x" if i else "y", "?", read_questions()[0].accept) for i in range(3))
    base = (Reply(one, "42", 1), Reply(two, "42", 1), Reply(three, "no", 1))
    tuned = (Reply(one, "42", 1), Reply(two, "title: x", 1), Reply(three, "42", 1))
    facts = QuestionChange(base, tuned).facts()
    assert (facts["lost"], facts["gained"], facts["difference"]["value"]) == (["q1"], ["q2"], 0.0)
    assert facts["kinds"] == {"y": {"base": 1.0, "tuned": 1.0, "n": 1}, "x": {"base": 0.5, "tuned": 0.5, "n": 2}}


def test_a_random_model_predicts_as_badly_as_chance(tmp_path: Path) -> None:
    """Its logits are near 0, so its perplexity is near its vocabulary's size; a long passage is read in pieces."""
    model = write_tiny_model(tmp_path / "tiny.gguf", n_ctx=16)
    found = text_loss(model, None, ["a b c d e f g h i j k l m n o p q r s t", "x y"], threads=1)
    assert max(map(len, found.tokens)) <= 16
    assert len(found.losses) > 2
    assert all(loss > 0 for loss in found.losses)
    assert math.log(found.perplexity) < 12


@pytest.mark.usefixtures("one_cpu", "own_answers")
def test_a_tuned_model_beside_its_base(tuned_adapter: Path, tmp_path: Path) -> None:
    text, questions, output = tmp_path / "text.txt", tmp_path / "q.yaml", tmp_path / "forgetting.json"
    text.write_text("\n\n".join(read_passages()[:4]))
    questions.write_text(
        "questions:\n- {id: any, kind: x, question: Say something, accept: ['.']}\n"
        "- {id: none, kind: x, question: Say nothing, accept: ['\\A\\Z']}\n"
    )
    options = ["--base", demo.BASE_MODEL, "--adapter", tuned_adapter, "--text", text, "--questions", questions]
    options += ["--threads", 1, "--parallel", 2, "--output", output]
    done = CliRunner().invoke(cli, ["eval", "forgetting", *map(str, options)])
    assert done.exit_code == 0, done.output
    assert "perplexity" in done.output
    result = read_result(output)
    part = result.sections["forgetting"]
    base, tuned = (result.models[part[name]] for name in ("base", "tuned"))
    assert (base["adapter_digest"], len(tuned["adapter_digest"])) == (None, 12)
    assert part["text"]["base"] == base["perplexity"] != tuned["perplexity"]
    assert part["text"]["n_passages"] == 4
    assert part["questions"]["base"]["value"] == base["avg_score"]
    assert [len(one["answers"]) for one in (base, tuned)] == [2, 2]
    assert result.sections["made_by"]["data"]["n"] == 4
    same = ["--base", demo.BASE_MODEL, "--tuned", demo.BASE_MODEL, *options[4:-2], "--json"]
    facts = json.loads(CliRunner().invoke(cli, ["eval", "forgetting", *map(str, same)]).stdout)
    assert facts["text"]["perplexity_growth"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert facts["questions"]["lost"] == facts["questions"]["gained"] == []


def test_a_tuned_model_must_be_named() -> None:
    done = CliRunner().invoke(cli, ["eval", "forgetting", "--base", str(demo.BASE_MODEL)])
    assert (done.exit_code, "--tuned or --adapter is missing" in done.stderr) == (2, True)
