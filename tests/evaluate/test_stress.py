"""Hard questions: each expectation once met and once not, the bundled cases, and a real run of some."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cpuft import demo
from cpuft.backends.generator import GREEDY, Sampling
from cpuft.chat.message import Completion, Message
from cpuft.cli.main import cli
from cpuft.errors import BackendError, ConfigError, TooLongError
from cpuft.evaluate.answers import Asking
from cpuft.evaluate.expectations import _CHECKS, SCHEMA, Said, failures
from cpuft.evaluate.languages import language_of
from cpuft.evaluate.neutral_text import read_passages
from cpuft.evaluate.result import read_result
from cpuft.evaluate.stress import StressCase, judge_answer, read_stress_cases, run_stress
from cpuft.roles import find_role
from cpuft.roles.answer import write_answer
from tests.conftest import ROOT
from tests.synth.conftest import document

BA = find_role("ba")
BUNDLED = ROOT / "configs" / "stress_test_cases.yaml"
GOOD = write_answer(document("invoices"))
INPUTS = {"concept": "Invoices"}


def said(text: str = GOOD, *, tokens: int = 100, seconds: float = 2.0, finished: bool = True) -> Said:
    return Said.of(Completion(text, tokens, seconds, 10, finished), INPUTS, BA)


TWICE = write_answer(
    document("invoices")
    | {"functional_requirements": [{"id": f"FR00{n}", "description": "The same", "priority": "Low"} for n in (1, 2)]}
)


@pytest.mark.parametrize(
    ("expected", "good", "bad", "sentence"),
    [
        ({"finished": True}, said(), said(finished=False), "cut off after 100 tokens"),
        ({"valid_yaml": True}, said(), said("a: [1"), "not one YAML mapping"),
        ({"valid_yaml": True}, said("```yaml\na: 1\n```"), said("only words"), "not one YAML mapping"),
        ({"matches_schema": True}, said(), said("title: Short\n"), "role's schema"),
        ({"matches_schema": True}, said(), said("no mapping"), "cannot satisfy the role's schema"),
        (
            {"min_items": {"constraints": 2}},
            said(),
            said("constraints: [one]"),
            "constraints has 1 items, expected at ",
        ),
        ({"min_items": {"constraints": 2}}, said(), said("title: x"), "constraints is no list"),
        (
            {"max_items": {"constraints": 2}},
            said("title: x"),
            said("constraints: [1, 2, 3]"),
            "has 3 items, expected at",
        ),
        ({"distinct_items": ["functional_requirements"]}, said(), said(TWICE), "says 'the same low' more than once"),
        ({"mentions_any": ["bank", "INVOICE"]}, said(), said("title: none of it"), "none of bank, INVOICE"),
        ({"mentions_any": ["check-in"]}, said("a Check-in desk"), said("checking"), "none of check-in"),
        ({"mentions_any": ["voice"]}, said("his voice"), said("invoices"), "none of voice"),
        ({"mentions_any": ["疫苗"]}, said("提醒疫苗"), said("提醒"), "none of 疫苗"),
        ({"mentions_all": ["number", "invoice"]}, said(), said("number"), "does not mention invoice"),
        ({"excludes": ["PINEAPPLE-ANCHOR"]}, said("a pineapple"), said("Pineapple-anchor"), "expected none of it"),
        ({"language": ["en", "es"]}, said(), said("Die Rechnung ist für den Kunden und nicht für mich"), "in German"),
        ({"language": ["en"]}, said(), said("a: 1"), "in no language"),
        ({"min_score": 0.7}, said(), said("title: Short"), "expected at least 0.7"),
        ({"max_tokens": 100}, said(), said(tokens=101), "101 tokens, expected at most 100"),
        ({"max_seconds": 2}, said(), said(seconds=2.5), "took 2.5 s"),
    ],
)
def test_each_expectation_can_be_met_and_missed(expected: dict[str, Any], good: Said, bad: Said, sentence: str) -> None:
    assert failures(good, expected) == []
    (failure,) = failures(bad, expected)
    assert sentence in failure


def test_every_expectation_has_a_check_and_a_test() -> None:
    assert set(_CHECKS) == set(SCHEMA["properties"])
    tested = {name for mark in test_each_expectation_can_be_met_and_missed.pytestmark for row in mark.args[1]
              for name in row[0]}  # fmt: skip
    assert set(_CHECKS) - tested == {"may_refuse"}


def test_what_is_no_document_is_said_once() -> None:
    wanted = {"valid_yaml": True, "min_items": {"constraints": 1}, "min_score": 0.5, "matches_schema": True}
    assert failures(said("no mapping"), wanted) == ["the answer is not one YAML mapping"]
    assert len(failures(said("no mapping"), {**wanted, "valid_yaml": False})) == 3


@pytest.mark.parametrize(
    "text", ["", "\0", "a: &x [*x]", "[" * 5000, "functional_requirements: {1: 2}", "- 1", "🐝" * 99]
)
def test_no_answer_makes_a_check_fail_itself(text: str) -> None:
    everything = {
        **dict.fromkeys(("finished", "valid_yaml", "matches_schema"), True),
        "min_items": {"constraints": 1},
        "max_items": {"constraints": 0},
        "distinct_items": list(BA.fields),
        "mentions_any": ["x"],
        "mentions_all": ["x"],
        "excludes": ["x"],
        "language": ["en"],
        "min_score": 0.5,
        "max_tokens": 1,
        "max_seconds": 1,
    }
    assert failures(said(text), everything)
    assert all(isinstance(one, str) for one in failures(said(text), {**everything, "valid_yaml": False}))


def test_languages_are_told_apart() -> None:
    passages = read_passages()
    assert [language_of(passage) for passage in passages] == ["en"] * 28 + ["es"] * 5
    assert language_of(GOOD) == "en"
    assert language_of("Учёт платежей для собственников жилья") == "ru"
    assert language_of("为社区医院提供预约挂号") == "zh"
    assert language_of("La gestion des prêts entre les communes est simple pour tous") == "fr"
    assert language_of("") is None
    assert language_of("FR001 FR002 NFR003 High Low") is None


def case(**expect: Any) -> StressCase:
    return StressCase("one", "some", INPUTS, expect)


def test_a_refusal_passes_where_it_may() -> None:
    too_long = TooLongError("the question has 9000 tokens")
    assert judge_answer(case(may_refuse=True, valid_yaml=True), too_long, BA).passed
    for expect, error in ((case(valid_yaml=True), too_long), (case(may_refuse=True), BackendError("it died"))):
        outcome = judge_answer(expect, error, BA)
        assert outcome.failures == (f"no answer came: {error}",)
    done = Completion("no yaml", 3, 0.1, 9, True)
    assert not judge_answer(case(may_refuse=True, valid_yaml=True), done, BA).passed


class Hard:
    """A generator that answers well but for a question about clouds, and breaks at one about storms."""

    def generate(self, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Completion:
        """The answer that every question gets."""
        asked = messages[-1]["content"]
        if "storm" in asked:
            raise BackendError("the server fell over")
        return Completion("nothing" if "cloud" in asked else GOOD, 100, 1.0, 10, True)


def test_rates_by_class_and_one_failure_stops_nothing() -> None:
    kinds = [("sun", "a"), ("cloud", "a"), ("storm", "b"), ("rain", "a"), ("wind", "b")]
    cases = [StressCase(name, kind, {"concept": name}, {"valid_yaml": True}) for name, kind in kinds]
    asking = Asking(BA, [one.question(BA) for one in cases], n_parallel=3)
    report = run_stress(Hard(), cases, asking)
    assert [outcome.case.id for outcome in report.outcomes if not outcome.passed] == ["cloud", "storm"]
    facts = report.facts()
    assert (facts["passed"], facts["total"]) == (3, 5)
    assert {name: (one["passed"], one["total"]) for name, one in facts["classes"].items()} == {"a": (2, 3), "b": (1, 2)}
    assert facts["rate"]["low"] < 0.6 < facts["rate"]["high"]
    assert facts["cases"][2]["failures"] == ["no answer came: the server fell over"]


def test_the_prompt_of_an_untuned_model() -> None:
    assert case().question(BA, short=False).messages[0]["content"] == BA.prompt
    assert case().question(BA).messages[0]["content"] == BA.short_prompt


def test_the_bundled_cases() -> None:
    cases = read_stress_cases(BUNDLED, BA)
    assert len(cases) >= 40
    kinds = {one.kind for one in cases}
    assert {"multi-domain", "dependencies", "vague", "enterprise"} < kinds
    assert {"very-long", "empty", "other-languages", "prompt-injection", "contradictions"} < kinds
    for one in cases:
        assert one.expect["finished"] is True
        for text in one.expect.get("excludes", ()):  # or an analyst who quotes the concept would fail
            assert text.casefold() not in one.inputs["concept"].casefold()
    injected = [one for one in cases if one.kind == "prompt-injection"]
    assert all(one.expect.get("excludes") for one in injected)
    assert max(len(one.inputs["concept"]) for one in cases) > 100_000
    assert min(len(one.inputs["concept"]) for one in cases) == 0


def test_expectations_of_a_case_stand_beside_the_shared_ones(tmp_path: Path) -> None:
    file = tmp_path / "cases.yaml"
    file.write_text(
        "expect: {finished: true, min_items: {constraints: 1, functional_requirements: 2}, max_tokens: 9}\n"
        "cases:\n- {id: a, class: x, input: so, repeat: 3, expect: {finished: false, min_items: {constraints: 4}}}\n"
        "- {id: b, class: x, input: {concept: it}}\n"
    )
    first, second = read_stress_cases(file, BA)
    assert first.inputs == {"concept": "so so so"}
    assert first.expect["min_items"] == {"constraints": 4, "functional_requirements": 2}
    assert (first.expect["finished"], first.expect["max_tokens"]) == (False, 9)
    assert second.expect["finished"] is True
    cut = Completion(GOOD, 9, 1.0, 10, False)
    assert [bool(judge_answer(one, cut, BA).failures) for one in (first, second)] == [True, True]
    assert not any("cut off" in fault for fault in judge_answer(first, cut, BA).failures)


def test_another_role_has_its_own_inputs(tmp_path: Path) -> None:
    qa = find_role("qa")
    name = next(iter(qa.sources))
    file = tmp_path / "cases.yaml"
    file.write_text(f"cases:\n- {{id: a, class: x, input: {{{name}: text}}, expect: {{valid_yaml: true}}}}\n")
    (one,) = read_stress_cases(file, qa)
    assert one.inputs[name] == "text"
    assert set(one.inputs) == set(qa.sources)


def test_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "cases.yaml"
    file.write_text(
        "cases:\n- {id: a, class: x, input: 3, expect: {tastes: good, language: [xx]}}\n"
        "- {id: a, input: x, repeat: 0}\n"
    )
    with pytest.raises(ConfigError) as error:
        read_stress_cases(file, BA)
    said = str(error.value)
    for sentence in ("cases[0].input: found '3'", "cases[0].expect.tastes: no such key", "cases[1].class: missing",
                     "cases[0].expect.language[0]: found 'xx'", "cases[1].repeat: found '0'"):  # fmt: skip
        assert sentence in said
    file.write_text(
        "cases:\n- {id: a, class: x, input: {conzept: x}}\n"
        "- {id: a, class: x, input: x, expect: {min_items: {req: 1}}}\n"
    )
    with pytest.raises(ConfigError) as error:
        read_stress_cases(file, BA)
    for sentence in ("conzept: no input of ba", "'a' stands twice", "req is no field of ba"):
        assert sentence in str(error.value)


@pytest.mark.usefixtures("one_cpu", "own_answers")
def test_the_command_with_the_bundled_base(tmp_path: Path) -> None:
    """The base cannot do the task: it fails all, but for what may be refused because it is too long."""
    file, output = tmp_path / "cases.yaml", tmp_path / "stress.json"
    file.write_text(
        "expect: {valid_yaml: true, min_score: 0.9}\ncases:\n- {id: short, class: plain, input: A shop for bees}\n"
        "- {id: long, class: long, input: many more bees, repeat: 2000, expect: {may_refuse: true}}\n"
    )
    options = ["--model", demo.BASE_MODEL, "--test-cases", file, "--threads", 1, "--max-tokens", 24]
    done = CliRunner().invoke(cli, ["eval", "stress", *map(str, options), "--output", str(output)])
    assert done.exit_code == 0, done.output
    assert "short (plain):" in done.output
    result = read_result(output)
    stress = result.sections["stress"]
    assert [one["passed"] for one in stress["cases"]] == [False, True]
    assert (stress["passed"], stress["total"]) == (1, 2)
    assert 0 < stress["cases"][0]["tokens"] <= 24
    (entry,) = result.models.values()
    assert (entry["adapter_digest"], entry["n_examples"]) == (None, 1)
    assert result.sections["made_by"]["metric"] == "expectations"
    only = CliRunner().invoke(cli, ["eval", "stress", *map(str, options), "--class", "long", "--json"])
    assert json.loads(only.stdout)["stress"]["total"] == 1
    wrong = CliRunner().invoke(cli, ["eval", "stress", *map(str, options), "--class", "wide"])
    assert (wrong.exit_code, "--class wide: no case has this class" in wrong.stderr) == (2, True)
