"""A metric that someone has already, in a module of their own."""

from pathlib import Path

import pytest

from cpuft.errors import ConfigError
from cpuft.roles import find_role
from cpuft.roles.dspy_metric import asked_of, read_metric

METRICS = '''
import yaml

def right(example, prediction, trace=None):
    """Whether the titles agree, and everything is where a metric looks for it."""
    assert example.inputs().concept == "a shop"
    assert yaml.safe_load(prediction.functional_requirements)[0]["id"] == "FR001"
    assert prediction.requirements["title"] == prediction.title
    assert prediction.requirements_yaml == prediction.answer
    return prediction.title == example.title

def without_reference(example, prediction, trace=None):
    return 0.25

def complete(example, prediction, trace=None):
    return sum(bool(prediction[name]) for name in ("title", "description", "constraints")) / 3

def too_much(example, prediction, trace=None):
    return 7

def broken(example, prediction, trace=None):
    return example.no_such_field

constant = 3
'''
ANSWER = "title: One\nfunctional_requirements:\n- id: FR001\n"
ASKED = {"concept": "a shop"}
BA = find_role("ba")


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_metrics.py").write_text(METRICS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_it_sees_example_and_prediction() -> None:
    metric = read_metric("own_metrics:right", BA, {asked_of(ASKED): "title: One\n"})
    assert metric(ANSWER, ASKED).total == 1.0
    assert read_metric("own_metrics:right", BA, {asked_of(ASKED): "title: Two\n"})(ANSWER, ASKED).total == 0.0


def test_an_answer_that_is_nothing_is_scored() -> None:
    metric = read_metric("own_metrics:complete", BA)
    assert metric("", ASKED).total == 0.0
    assert metric("title: [", ASKED).total == 0.0
    assert metric("title: x\ndescription: y\n", ASKED).total == pytest.approx(2 / 3)
    assert read_metric("own_metrics:without_reference", BA)("x", ASKED).total == 0.25


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("own_metrics", "no metric, expected module:function"),
        ("own_metrics:", "no metric, expected module:function"),
        ("no_module_of_this_name:f", "cannot be imported"),
        ("own_metrics:nothing", "cannot be imported \\(AttributeError"),
        ("own_metrics:constant", "found int, expected a function"),
    ],
)
def test_what_is_no_metric(reference: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_metric(reference, BA)


@pytest.mark.parametrize(("name", "sentence"), [("too_much", "said 7, expected"), ("broken", "the metric failed")])
def test_a_metric_that_fails_is_named(name: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_metric(f"own_metrics:{name}", BA)(ANSWER, ASKED)
