"""Proves that a test set is asked and scored as it stands: reference answers score high, a random model's nothing."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from cpuft import demo
from cpuft.backends.generator import GREEDY, Sampling
from cpuft.chat.message import Completion, Message
from cpuft.cli.main import cli
from cpuft.errors import DatasetError
from cpuft.evaluate.benchmark import Case, read_cases, run_benchmark
from cpuft.roles import find_role
from tests.gguf.tiny import write_tiny_model
from tests.progress import Heard

ROLE = find_role("ba")


class ReferenceAnswers:
    """A generator that knows the test set by heart, except for every fifth question, to which it says nothing."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.answers = [(case.messages, case.reference if i % 5 else "") for i, case in enumerate(cases)]

    def generate(self, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Completion:
        """The reference answer, as if 100 tokens had taken half a second."""
        assert sampling.temperature == 0
        text = next(text for known, text in self.answers if list(known) == list(messages))
        return Completion(text, tokens=100, seconds=0.5, prompt_tokens=10, finished=bool(text))


def test_references_are_scored_and_averaged() -> None:
    cases = read_cases(demo.TEST, ROLE)
    heard = Heard()
    result = run_benchmark(ReferenceAnswers(cases), cases, ROLE.metric, progress=heard)
    assert heard.steps == [("answers", n, 25) for n in range(1, len(cases) + 1)]
    known = [answer for i, answer in enumerate(result.answers) if i % 5]
    assert all(answer.score.parts["yaml_valid"].value == 1 and answer.score.total > 0.9 for answer in known)
    assert result.average_parts["yaml_valid"] == pytest.approx(0.8)
    assert result.average_score == pytest.approx(sum(answer.score.total for answer in known) / 25)
    assert result.summary()["tokens_per_sec"] == 200.0
    assert result.summary()["unfinished"] == 5


def test_cases_hold_the_question_without_the_answer() -> None:
    case = read_cases(demo.TEST, ROLE)[0]
    assert [message["role"] for message in case.messages] == ["system", "user"]
    assert case.messages[1]["content"] == f"Concept: {case.inputs['concept']}"
    assert case.reference.startswith("title:")


def test_faults_of_a_test_set_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    good = demo.TEST.read_text().splitlines()[0]
    unasked = json.dumps({"messages": [{"role": r, "content": "a"} for r in ("system", "assistant")]})
    path.write_text(f'{good}\n{{"text": "no conversation"}}\n{{"messages": 3}}\n{unasked}\n')
    faults = r"test\.jsonl:2: expected a conversation.*; .*test\.jsonl:3: messages.*; .*test\.jsonl:4: expected .*asks$"
    with pytest.raises(DatasetError, match=faults):
        read_cases(path, ROLE)


def test_a_case_with_a_call_keeps_it(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "find", "arguments": {"term": "care"}}, "id": "1"}
    calling = {"role": "assistant", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "1", "content": "none"}
    chat = [{"role": "user", "content": "Concept: care"}, calling, result, {"role": "assistant", "content": "title: x"}]
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"messages": chat}) + "\n" + json.dumps({"messages": chat[:2]}))
    whole, called = read_cases(path, ROLE)
    assert list(whole.messages) == [chat[0], {**calling, "content": ""}, result]
    assert (whole.inputs["concept"], whole.reference, called.reference) == ("care", "title: x", "")
    path.write_text(json.dumps({"messages": chat, "tools": [{"type": "function", "function": {"name": "find"}}]}))
    with pytest.raises(DatasetError, match=r"test\.jsonl:1: tools: found descriptions of tools, .*: take them out"):
        read_cases(path, ROLE)


def test_eval_command_with_a_random_model(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.gguf", n_ctx=1024)
    report = tmp_path / "report.json"
    arguments = ["--model", model, "--data", demo.TEST, "--limit", 2, "--max-tokens", 40, "--threads", 1, "--json"]
    result = CliRunner().invoke(cli, ["eval", "run", *map(str, arguments), "--output", str(report)])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.output)
    assert (printed["n_examples"], printed["avg_score"], printed["unfinished"]) == (2, 0.0, 2)
    assert printed["tokens_per_sec"] > 0
    written = json.loads(report.read_text())
    assert [answer["tokens"] for answer in written["answers"]] == [40, 40]


def test_eval_finds_that_it_cannot_write_before_it_asks(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.gguf")
    data = tmp_path / "test.jsonl"
    data.write_bytes(demo.TEST.read_bytes())
    for output, sentence in ((tmp_path / "none" / "r.json", "none: no such folder"), (data, "is also an input")):
        command = ["eval", "run", "--model", model, "--data", data, "--output", output]
        result = CliRunner().invoke(cli, list(map(str, command)))
        assert result.exit_code == 2
        assert sentence in result.output
    assert data.read_bytes() == demo.TEST.read_bytes()


def test_generate_command(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.gguf")
    arguments = [
        "--model",
        str(model),
        "--prompt",
        "hello",
        "--system",
        "be brief",
        "--max-tokens",
        "5",
        "--threads",
        "1",
    ]
    result = CliRunner().invoke(cli, ["generate", *arguments])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()
    assert "5 tokens" in result.stderr
