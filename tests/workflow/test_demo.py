"""Proves that the demo trains, merges, asks and compares, and that it says so where training was not worth it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from cpuft import demo as data
from cpuft.backends.generator import Sampling
from cpuft.cli.main import cli
from cpuft.workflow.demo import DemoResult
from tests.conftest import ROOT


@pytest.fixture
def _short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two questions with short answers, and a configuration of two steps."""
    questions = data.TEST.read_text(encoding="utf-8").splitlines(keepends=True)[:2]
    (tmp_path / "test.jsonl").write_text("".join(questions), encoding="utf-8")
    monkeypatch.setattr(data, "TEST", tmp_path / "test.jsonl")
    monkeypatch.setattr("cpuft.workflow.demo.SAMPLING", Sampling(max_tokens=8))
    config = (ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8")
    (tmp_path / "short.yaml").write_text(config.replace("training:\n", "training:\n  max_steps: 2\n"), encoding="utf-8")


@pytest.mark.usefixtures("_short")
def test_a_demo_that_learned_nothing_fails(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    result = CliRunner().invoke(cli, ["demo", "--output", str(output), "--config", str(tmp_path / "short.yaml")])
    assert result.exit_code == 3, result.output
    assert "Failed: wanted a gain of 0.3 in score and 90% valid YAML." in result.stderr
    figures = json.loads((output / "result.json").read_text(encoding="utf-8"))
    assert (figures["base_score"], figures["tuned_score"], figures["n_examples"]) == (0, 0, 2)
    assert 20 < figures["peak_rss_mb"] < 2000
    assert 0 < figures["train_seconds"] < figures["total_seconds"]
    answers = json.loads((output / "answers.json").read_text(encoding="utf-8"))
    assert [[answer["tokens"] for answer in answers[model]] for model in ("base", "tuned")] == [[8, 8], [8, 8]]
    assert (output / "tuned-q8_0.gguf").stat().st_size == pytest.approx(data.BASE_MODEL.stat().st_size, rel=0.01)


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize(
    ("config", "sentence", "asked"),
    [
        ("lora:\n  r: no\n", "lora.r: found False, expected a whole number", False),
        (
            "training:\n  max_seq_length: 8\n",
            "the training of the demo ended with exit code 2, for the reason above",
            True,
        ),
    ],
)
def test_a_configuration_of_no_use_ends_the_demo(config: str, sentence: str, asked: bool, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(config, encoding="utf-8")
    result = CliRunner().invoke(
        cli, ["demo", "--output", str(tmp_path / "demo"), "--config", str(tmp_path / "bad.yaml")]
    )
    assert result.exit_code == 2
    assert sentence in result.output
    assert (tmp_path / "demo").exists() == asked


def test_when_training_was_worth_it() -> None:
    result = DemoResult(0.1, 0.4, 0.0, 0.9, 1, 2, 3, 4, 5, 6)
    assert result.passed
    assert not replace(result, tuned_score=0.39).passed
    assert not replace(result, tuned_yaml_valid=0.89).passed
