"""The gate: exit codes on a good, a spoiled, an equal and a hardly tried model; a better figure never harms."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from click.testing import Result as Ended
from scipy import stats

from cpuft.cli.main import cli
from cpuft.errors import ConfigError
from cpuft.evaluate.comparison import difference, mean_of
from cpuft.evaluate.gate import Decision, Figure, Judged, Verdict, decide, enough_for_mean, judge
from cpuft.evaluate.proportion import enough_for_rate, proportion
from cpuft.evaluate.result import MADE_BY, UNMEASURED, Result
from cpuft.evaluate.thresholds import CRITERIA, SIGNS, Threshold, Thresholds, read_thresholds
from tests.conftest import ROOT

BOUNDS = ROOT / "configs" / "gate.yaml"
RULES = read_thresholds(BOUNDS)
SEVERITY = {Verdict.FAIL: 0, Verdict.UNDECIDED: 1, Verdict.PASS: 2}


def scores(n: int, center: float, seed: int = 0) -> list[float]:
    """Scores of n answers, in sevenths as a business analyst's metric gives them."""
    rng = random.Random(seed)
    return [min(1.0, max(0.0, round(rng.gauss(center, 0.12) * 14) / 14)) for _ in range(n)]


def entry(values: Sequence[float], digest: str, **more: Any) -> dict[str, Any]:
    """A model's part of a result."""
    return {
        "avg_score": sum(values) / len(values),
        "interval": mean_of(values).facts(),
        "n_examples": len(values),
        **UNMEASURED,
        "digest": digest,
        "adapter_digest": None,
        **more,
    }


class Results:
    """Writes results of a tuned model into a folder, as the commands do."""

    def __init__(self, folder: Path, tuned: str = "ffee00112233") -> None:
        self.folder, self.tuned = folder, tuned

    def write(self, name: str, models: dict[str, Any], section: dict[str, Any] | None) -> Path:
        """A result file."""
        made = {"data": {"digest": name}}
        sections = {MADE_BY: made} if section is None else {name: section, MADE_BY: made}
        Result(models, sections).write(self.folder / f"{name}.json")
        return self.folder / f"{name}.json"

    def comparison(self, before: Sequence[float], after: Sequence[float], valid: float = 1.0, **more: Any) -> Path:
        """Of `cpuft eval compare`."""
        gain = difference(before, after)
        section = {
            "base": "base",
            "tuned": "tuned",
            "difference": gain.facts(),
            "relative_gain": gain.mean.value / (sum(before) / len(before)) if sum(before) else None,
            "n_examples": len(before),
            **more,
        }
        models = {"base": entry(before, "base"), "tuned": entry(after, self.tuned, yaml_valid=valid)}
        return self.write("comparison", models, section)

    def original(self, values: Sequence[float], valid: float = 1.0) -> Path:
        """Of `cpuft eval original`."""
        section = {"score": mean_of(values).facts(), "n_examples": len(values)}
        return self.write("original", {"tuned": entry(values, self.tuned, yaml_valid=valid)}, section)

    def speed(self, tokens: float = 18.0, memory: float = 4000.0) -> Path:
        """Of `cpuft eval models`."""
        figures = {"tokens_per_sec": tokens, "ram_usage_mb": memory, "speed_measured": "one request at a time"}
        fast = entry([0.9], "other") | {**figures, "tokens_per_sec": 1.0}
        return self.write("models", {"another": fast, "tuned": entry([0.9], self.tuned) | figures}, None)

    def stress(self, passed: int = 57, total: int = 59) -> Path:
        """Of `cpuft eval stress`."""
        return self.write("stress", {"tuned": entry([0.9], self.tuned)}, {"passed": passed, "total": total})

    def forgetting(self, growth: float = 0.02, change: float = 0.0) -> Path:
        """Of `cpuft eval forgetting`."""
        section = {
            "base": "base",
            "tuned": "tuned",
            "text": {"perplexity_growth": _around(growth, 0.02), "n_passages": 33},
            "questions": {"difference": _around(change, 0.05), "n_questions": 50},
        }
        return self.write("forgetting", {"base": entry([0.9], "base"), "tuned": entry([0.9], self.tuned)}, section)

    def rest(self) -> list[Path]:
        """All but the comparison, of a model that is good."""
        return [self.original(scores(50, 0.93, 3)), self.speed(), self.stress(), self.forgetting()]


def _around(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def gate(*arguments: str | Path) -> Ended:
    """Runs the command."""
    return CliRunner().invoke(cli, ["eval", "gate", *map(str, arguments)])


def facts_of(*arguments: str | Path) -> tuple[int, dict[str, Any], dict[str, dict[str, Any]]]:
    """(exit code, all facts, the criteria by name)."""
    done = gate(*arguments, "--json")
    facts = json.loads(done.stdout)
    return done.exit_code, facts, {one["name"]: one for one in facts["criteria"]}


def test_a_good_model_goes(tmp_path: Path) -> None:
    results = Results(tmp_path)
    compared = results.comparison(scores(25, 0.7), scores(25, 0.9, 1))
    done = gate(compared, *results.rest())
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "tuned: go. Every critical criterion that was measured is met."
    code, facts, found = facts_of(compared, *results.rest())
    assert (code, facts["decision"]) == (0, "go")
    assert {one["verdict"] for name, one in found.items() if name not in ("win_rate", "satisfaction")} == {"pass"}
    assert found["yaml_valid"]["n_examples"] == 75  # of both data sets
    assert found["speed"]["value"] == 18.0  # not the other model's


def test_a_spoiled_model_does_not(tmp_path: Path) -> None:
    """8 % worse: what a gate on point estimates let pass elsewhere."""
    results = Results(tmp_path)
    before = scores(25, 0.85)
    compared = results.comparison(before, [score * 0.92 for score in before])
    code, facts, found = facts_of(compared, *results.rest())
    assert (code, facts["decision"]) == (3, "no-go")
    assert found["gain"]["verdict"] == found["relative_gain"]["verdict"] == "fail"
    assert "no-go. Failed: gain, relative_gain." in gate(compared, *results.rest()).stdout


def test_an_equal_model_does_not(tmp_path: Path) -> None:
    results = Results(tmp_path)
    compared = results.comparison(scores(25, 0.8), scores(25, 0.8))
    code, facts, found = facts_of(compared, *results.rest())
    assert (code, facts["decision"]) == (3, "no-go")
    assert (found["gain"]["value"], found["relative_gain"]["verdict"]) == (0.0, "fail")


def test_five_examples_tell_nothing(tmp_path: Path) -> None:
    results = Results(tmp_path)
    compared = results.comparison(scores(5, 0.6), scores(5, 0.95, 1))
    code, facts, found = facts_of(compared, *results.rest())
    assert (code, facts["decision"]) == (3, "not enough examples to tell")
    assert found["gain"]["verdict"] == "not enough examples to tell"
    assert facts["enough_examples"] >= found["gain"]["enough_examples"] >= RULES.min_examples
    assert "not enough examples to tell; about" in gate(compared, *results.rest()).stdout


def test_luck_is_not_enough(tmp_path: Path) -> None:
    """A gain of more than 10 % whose interval holds 0 does not pass."""
    results = Results(tmp_path)
    before = [0.2, 0.9] * 12
    after = [0.9, 0.4] * 12
    code, _, found = facts_of(results.comparison(before, after), *results.rest())
    assert found["relative_gain"]["verdict"] == "pass"
    assert found["gain"]["low"] < 0 < found["gain"]["value"]
    assert (code, found["gain"]["verdict"]) == (3, "not enough examples to tell")
    assert found["gain"]["enough_examples"] > 24


def test_what_is_missing_fails_unless_it_may(tmp_path: Path) -> None:
    results = Results(tmp_path)
    compared = results.comparison(scores(40, 0.7), scores(40, 0.9, 1))
    code, facts, found = facts_of(compared)
    assert (code, facts["decision"], found["stress"]["value"]) == (3, "no-go", None)
    assert found["stress"]["verdict"] == "not measured"
    assert "no-go. Not measured: generalization, speed, ram_mb" in gate(compared).stdout
    document = yaml.safe_load(BOUNDS.read_text())
    for name in set(CRITERIA) - {"gain", "relative_gain", "yaml_valid"}:
        document["criteria"][name]["optional"] = True
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(document))
    assert gate(compared, "--thresholds", own).exit_code == 0
    document["criteria"] = {"satisfaction": document["criteria"]["satisfaction"]}
    own.write_text(yaml.safe_dump(document))
    assert "no-go. Nothing was measured." in gate(compared, "--thresholds", own).stdout


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        ({"valid": 0.5}, "yaml_valid"),
        ({"tokens": 4.0}, "speed"),
        ({"memory": 9000.0}, "ram_mb"),
        ({"passed": 20}, "stress"),
        ({"growth": 0.5}, "perplexity_growth"),
        ({"change": -0.4}, "general_questions"),
        ({"values": 0.5}, "generalization"),
    ],
)
def test_each_criterion_can_fail(broken: dict[str, float], name: str, tmp_path: Path) -> None:
    results = Results(tmp_path)
    given = {
        "valid": 1.0,
        "tokens": 18.0,
        "memory": 4000.0,
        "passed": 57,
        "growth": 0.02,
        "change": 0.0,
        "values": 0.93,
    }
    given |= broken
    files = [
        results.comparison(scores(25, 0.7), scores(25, 0.9, 1), valid=given["valid"]),
        results.original(scores(50, given["values"], 3), valid=given["valid"]),
        results.speed(given["tokens"], given["memory"]),
        results.stress(int(given["passed"])),
        results.forgetting(given["growth"], given["change"]),
    ]
    code, facts, found = facts_of(*files)
    assert (code, facts["decision"], found[name]["verdict"]) == (3, "no-go", "fail")
    assert [one for one in found if found[one]["verdict"] == "fail"] == [name]


def test_reviewers_count_where_there_are_some(tmp_path: Path) -> None:
    results = Results(tmp_path)
    won = {**_around(0.2, 0.1), "n_samples": 10, "ratings": {"base": None, "tuned": _around(2.0, 0.5)}}
    compared = results.comparison(scores(25, 0.7), scores(25, 0.9, 1), win_rate=won)
    code, _, found = facts_of(compared, *results.rest())
    assert (code, found["win_rate"]["verdict"]) == (3, "fail")
    won = {**_around(0.8, 0.15), "n_samples": 10, "ratings": {"base": None, "tuned": _around(2.0, 0.5)}}
    compared = results.comparison(scores(25, 0.7), scores(25, 0.9, 1), win_rate=won)
    code, _, found = facts_of(compared, *results.rest())
    assert (code, found["win_rate"]["verdict"]) == (0, "pass")
    assert found["satisfaction"]["verdict"] != "pass"  # and it is not critical


def test_a_base_that_scored_nothing_can_be_beaten(tmp_path: Path) -> None:
    results = Results(tmp_path)
    code, _, found = facts_of(results.comparison([0.0] * 25, scores(25, 0.9)), *results.rest())
    assert (code, found["relative_gain"]["verdict"], found["relative_gain"]["value"]) == (0, "pass", None)


def test_results_must_be_of_one_model(tmp_path: Path) -> None:
    results, others = Results(tmp_path), Results(tmp_path / "others", "000000000000")
    compared = results.comparison(scores(25, 0.7), scores(25, 0.9, 1))
    done = gate(compared, others.stress())
    assert done.exit_code == 2
    assert "stress.json: it is of another model or adapter than" in done.stderr
    done = gate(compared, others.comparison(scores(25, 0.7), scores(25, 0.9, 1)))
    assert done.exit_code == 2
    assert "both hold a 'comparison', expected one" in done.stderr
    done = gate(results.speed())
    assert done.exit_code == 2
    assert "nothing says which of its models is the tuned one" in done.stderr


def test_what_is_no_result_is_named(tmp_path: Path) -> None:
    for text, sentence in (("{}", "no 'made_by'"), ("[1]", "no object"), ("{", "cannot be read as JSON")):
        (tmp_path / "r.json").write_text(text)
        done = gate(tmp_path / "r.json")
        assert (done.exit_code, sentence in done.stderr) == (2, True), done.output
    done = gate(tmp_path / "none.json")
    assert (done.exit_code, "no such file" in done.stderr) == (2, True)
    results = Results(tmp_path)
    path = results.comparison(scores(25, 0.7), scores(25, 0.9, 1))
    good = json.loads(path.read_text())
    changes: list[dict[str, Any]] = [
        {"comparison": {}},
        {"comparison": {**good["comparison"], "difference": {"value": "much", "low": 0, "high": 1}}},
        {"comparison": {**good["comparison"], "difference": {"value": 0.5, "low": 1, "high": 0}}},
        {"comparison": {**good["comparison"], "tuned": "nobody"}},
        {"tuned": {**good["tuned"], "yaml_valid": 1.5}},
        {"tuned": {"avg_score": 1}},
    ]
    for change in changes:
        path.write_text(json.dumps({**good, **change}))
        done = gate(path)
        assert (done.exit_code, "comparison.json" in done.stderr) == (2, True), done.output


def test_thresholds_are_checked_all_at_once(tmp_path: Path) -> None:
    file = tmp_path / "gate.yaml"
    file.write_text("confidence: 2\ncriteria:\n  gain: {above: much}\n  speed: {below: 3}\n  taste: {above: 1}\n")
    with pytest.raises(ConfigError) as error:
        read_thresholds(file)
    said = str(error.value)
    assert "confidence: found '2'" in said
    assert "criteria.gain.above: found 'much', expected a number" in said
    assert "criteria.speed.below: no such key" in said
    assert "criteria.taste: no such key" in said
    file.write_text("criteria:\n  gain: {above: 0, at_least: 1}\n  ram_mb: {critical: true}\n")
    with pytest.raises(ConfigError, match=r"(?s)criteria\.gain: .*one of above and at_least.*criteria\.ram_mb: "):
        read_thresholds(file)
    assert CliRunner().invoke(cli, ["eval", "gate", "r.json", "--thresholds", str(file)]).exit_code == 2


def test_the_bundled_thresholds_hold_every_criterion_each_with_a_comment() -> None:
    assert [one.name for one in RULES.criteria] == list(CRITERIA)
    lines = BOUNDS.read_text().splitlines()
    keys = [i for i, line in enumerate(lines) if line[:1].isalpha() or (line.startswith("  ") and line[2].isalpha())]
    assert len(keys) == 4 + len(CRITERIA)
    bare = [lines[i] for i in keys if not lines[i - 1].strip().startswith("#") and lines[i] != "criteria:"]
    assert bare == []


def test_a_better_figure_never_gets_a_worse_verdict() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        sign, n = rng.choice(list(SIGNS.values())), rng.choice([None, 5, 20, 400])
        limit = Threshold("gain", sign, rng.choice([0.0, 0.1, 0.5]), rng.choice(["interval", "value"]))
        value, below, above = rng.uniform(-1, 1), rng.random(), rng.random()
        if rng.random() < 0.3:
            value = limit.limit
        figure = Figure(value, value - below, value + above, n, few_will_do=rng.random() < 0.5)
        up = 1 if limit.more_is_better else -1
        by = rng.random() * up
        better = replace(figure, value=value + by, low=value - below + by, high=value + above + by)
        harder = replace(limit, limit=limit.limit + abs(by) * up)
        verdict = SEVERITY[judge(figure, limit, RULES).verdict]
        assert SEVERITY[judge(better, limit, RULES).verdict] >= verdict
        assert SEVERITY[judge(figure, harder, RULES).verdict] <= verdict


def test_no_criterion_can_make_up_for_another() -> None:
    """Turning any one verdict into a worse one never makes the decision better."""
    order = {Decision.NO_GO: 0, Decision.UNDECIDED: 1, Decision.GO: 2}
    rng, limit = random.Random(1), Threshold("gain", ">", 0.0)
    kinds = list(SEVERITY)
    for _ in range(500):
        judged = [
            Judged(replace(limit, critical=rng.random() < 0.8), Figure(0.0), rng.choice(kinds))
            for _ in range(rng.randint(1, 6))
        ]
        place = rng.randrange(len(judged))
        worse = [kind for kind in kinds if SEVERITY[kind] < SEVERITY[judged[place].verdict]]
        for kind in worse:
            changed = [*judged[:place], replace(judged[place], verdict=kind), *judged[place + 1 :]]
            assert order[decide(changed)] <= order[decide(judged)]


def test_bounds_of_a_share_are_exact() -> None:
    for good, n in ((0, 5), (3, 7), (24, 25), (25, 25), (40, 59)):
        low, high = stats.binomtest(good, n).proportion_ci(confidence_level=0.90, method="exact")
        found = proportion(good, n)
        assert [found.low, found.high] == pytest.approx([low, high])
    assert (proportion(0, 0).low, proportion(0, 0).high) == (0.0, 1.0)
    for rate in (0.5, 0.8, 0.9):  # a model of exactly this rate is taken for a better one in 5 % of cases at most
        lucky = sum(stats.binom.pmf(k, 25, rate) for k in range(26) if proportion(k, 25).low > rate)
        assert lucky <= 0.05


def test_as_many_as_are_said_to_be_enough_are() -> None:
    for good, n, limit in ((25, 25, 0.9), (24, 25, 0.9), (10, 12, 0.5), (1, 12, 0.5)):
        enough = enough_for_rate(good, n, limit)
        assert enough is not None
        hits = math.floor(enough * good / n + 1e-9)
        found = proportion(hits, enough)
        assert found.low > limit or found.high < limit
        assert enough > n
    assert enough_for_rate(9, 10, 0.9) is None
    needed = enough_for_mean(0.2, 0.07, power=0.8)
    assert needed is not None
    rng = random.Random(0)
    shown = sum(
        sum(rng.gauss(0.07, 0.2) for _ in range(needed)) / needed > 1.959964 * 0.2 / math.sqrt(needed)
        for _ in range(2000)
    )
    assert 0.77 < shown / 2000 < 0.83
    assert enough_for_mean(0.2, 0.0, power=0.8) is None


def test_thresholds_without_a_file_are_strict() -> None:
    assert Thresholds(()).min_examples == RULES.min_examples
    assert (Thresholds(()).confidence, Thresholds(()).power) == (RULES.confidence, RULES.power)
