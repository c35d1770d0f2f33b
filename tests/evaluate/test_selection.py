"""Proves which model is chosen, on results made by hand: the best within all bounds, or why none is."""

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from cpuft.config.document import read_document
from cpuft.errors import ConfigError
from cpuft.evaluate.selection import SCHEMA, Thresholds, gain_over, read_thresholds, select
from tests.conftest import ROOT

CONFIG = ROOT / "configs" / "selection.yaml"
BOUNDS = Thresholds()


def entry(score: float, scores: list[float] | None = None, **figures: Any) -> dict[str, Any]:
    """A model's part of a result, within all other bounds."""
    good = {"avg_score": score, "yaml_valid": 0.9, "tokens_per_sec": 15.0, "ram_usage_mb": 4200.0}
    answers = [{"inputs": {"concept": str(i)}, "score": value} for i, value in enumerate(scores or [])]
    return {**good, "answers": answers, **figures}


def test_the_specifications_example_has_a_winner() -> None:
    """8.1.2 as it stands: its keys are the only ones."""
    result = select(
        {
            "qwen2.5:3b-instruct": {
                "avg_score": 0.72,
                "tokens_per_sec": 18.5,
                "ram_usage_mb": 4200,
                "yaml_valid_rate": 0.88,
            },
            "phi3:3.8b": {"avg_score": 0.68, "tokens_per_sec": 15.2, "ram_usage_mb": 4800, "yaml_valid_rate": 0.82},
        },
        BOUNDS,
    )
    assert result.winner == "qwen2.5:3b-instruct"
    assert not any(map(result.faults, result.verdicts))
    assert result.undecided == ["phi3:3.8b"], "without its answers nobody can tell"


def test_the_best_within_all_bounds_wins_and_not_the_best() -> None:
    result = select({"slow": entry(0.9, tokens_per_sec=8.0), "b": entry(0.7), "c": entry(0.8)}, BOUNDS)
    assert (result.winner, list(result.rivals)) == ("c", ["b"])
    assert result.faults("slow") == ["generation is 8.0 tokens/s, expected more than 10.0 tokens/s"]
    assert result.facts()["models"]["slow"]["qualifies"] is False
    assert result.facts()["models"]["slow"]["tokens_per_sec"] == {"value": 8.0, "bound": 10.0, "passed": False}


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({"avg_score": 0.65}, "average score is 0.650, expected more than 0.650"),
        ({"yaml_valid": 0.8}, "YAML validity is 80%, expected more than 80%"),
        ({"tokens_per_sec": 10}, "generation is 10.0 tokens/s, expected more than 10.0 tokens/s"),
        ({"ram_usage_mb": 8000}, "memory is 8.00 GB, expected less than 8.00 GB"),
        ({"avg_score": None}, "average score was not measured, expected more than 0.650"),
        ({"yaml_valid": None}, "YAML validity was not measured, expected more than 80%"),
        ({"tokens_per_sec": None}, "generation was not measured, expected more than 10.0 tokens/s"),
        ({"ram_usage_mb": None}, "memory was not measured, expected less than 8.00 GB"),
        ({"ram_usage_mb": "4200"}, "memory was not measured, expected less than 8.00 GB"),
        ({"tokens_per_sec": True}, "generation was not measured, expected more than 10.0 tokens/s"),
        ({"avg_score": float("nan")}, "average score was not measured, expected more than 0.650"),
    ],
)
def test_none_qualifies_for_each_reason(figures: dict[str, Any], reason: str) -> None:
    result = select({"only": {**entry(0.9), **figures}}, BOUNDS)
    assert result.winner is None
    assert result.faults("only") == [reason]
    assert result.rivals == {}


def test_just_within_the_bounds_is_enough() -> None:
    near = entry(0.6501, yaml_valid=0.801, tokens_per_sec=10.1, ram_usage_mb=7999.0)
    assert select({"only": near}, BOUNDS).winner == "only"


def test_a_bound_that_is_taken_away_asks_for_nothing() -> None:
    result = select({"only": entry(0.9, tokens_per_sec=None)}, replace(BOUNDS, tokens_per_sec=None))
    assert result.winner == "only"


def test_of_equal_scores_the_faster_is_taken() -> None:
    models = {"a": entry(0.8), "b": entry(0.8, tokens_per_sec=30.0), "c": entry(0.8, tokens_per_sec=20.0)}
    assert list(select(models, BOUNDS).rivals) == ["c", "a"]


def test_rivals_are_told_apart_by_pairs() -> None:
    """Of scores that vary much from question to question, a small gain on each of them is a sure one."""
    hard = [0.1, 0.9, 0.3, 0.7, 0.5, 0.2, 0.8, 0.6]
    surely_worse, close = [value - 0.05 - 0.01 * (i % 2) for i, value in enumerate(hard)], [0.5] * 8
    models = {"close": entry(0.7, close), "best": entry(0.8, hard), "worse": entry(0.75, surely_worse)}
    result = select(models, BOUNDS)
    assert (result.winner, list(result.rivals), result.undecided) == ("best", ["worse", "close"], ["close"])
    gain = result.rivals["worse"]
    assert gain is not None
    assert (gain.wins, gain.losses) == (8, 0)
    assert gain.mean.value == pytest.approx(0.055)


def test_answers_to_other_questions_are_not_compared() -> None:
    one, other = entry(0.7, [0.1, 0.2]), entry(0.7, [0.1, 0.2])
    assert gain_over(one, other) is not None
    other["answers"][0]["inputs"] = {"concept": "another"}
    assert gain_over(one, other) is None
    assert gain_over(one, entry(0.7, [0.1])) is None
    one["answers"][0]["score"] = None
    assert gain_over(one, one) is None


def test_several_answers_to_one_question_are_one_example() -> None:
    one, other = entry(0.7, [0.2, 0.9]), entry(0.7, [0.1, 0.5])
    for model in (one, other):
        model["answers"] += [{**answer, "score": answer["score"] + 0.1} for answer in model["answers"]]
    gain = gain_over(one, other)
    assert gain is not None
    assert gain.wins == 2
    assert gain.mean.value == pytest.approx(0.25)


def test_the_file_holds_the_defaults_and_explains_every_key() -> None:
    assert read_thresholds(CONFIG) == BOUNDS
    explained = re.findall(r"^(\w+): .* # \w", CONFIG.read_text(), re.MULTILINE)
    assert explained == list(asdict(BOUNDS)) == list(SCHEMA["properties"])


def test_faults_of_a_file_are_named_together(tmp_path: Path) -> None:
    path = tmp_path / "selection.yaml"
    path.write_text("score: 65\nyaml_valid: yes\ntokens_per_sec: 0\nram_gb: .inf\nspeed: 3\n")
    with pytest.raises(ConfigError) as failure:
        read_thresholds(path)
    headline, *faults = str(failure.value).split("\n  ")
    assert headline == f"{path}: 5 faults:"
    assert set(faults) == {
        "speed: no such key, expected some of score, yaml_valid, tokens_per_sec, ram_gb",
        "score: found '65', expected a number from 0 to 1, or null",
        "yaml_valid: found 'True', expected a number from 0 to 1, or null",
        "tokens_per_sec: found '0', expected a number above 0, or null",
        "ram_gb: found 'inf', expected a number above 0, or null",
    }
    path.write_text("ram_gb: null\nscore: 0.5\n")
    assert read_thresholds(path) == replace(BOUNDS, ram_gb=None, score=0.5)
    assert read_document(path, SCHEMA) == {"ram_gb": None, "score": 0.5}
