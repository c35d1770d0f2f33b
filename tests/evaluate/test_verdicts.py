"""The win rate counts blind verdicts, by sample, with an interval that covers what it should."""

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from cpuft.backends.asked import DIGITS
from cpuft.cli.main import cli
from cpuft.errors import ConfigError
from cpuft.evaluate.verdicts import read_win_rate, wilson, win_rate
from cpuft.feedback.verdicts import PICKS, Judged, Pick, Rivals, Verdict, VerdictStore
from cpuft.machine.files import file_digest
from tests.gguf.tiny import write_tiny_model

AT = "2026-11-30T12:00:00Z"
BASE, TUNED = Judged("base", "aa"), Judged("tuned", "bb")


def verdict(
    sample: int, picked: Pick | None, reviewer: str = "", *, blind: bool = True, stars: int | None = None
) -> Verdict:
    """A verdict on a sample."""
    return Verdict(f"{sample:016x}", picked, None, stars, "", blind, reviewer, AT)


def test_wins_and_half_of_the_ties_are_counted() -> None:
    picks: list[Pick] = ["tuned", "tuned", "tuned", "tuned", "tuned", "tuned", "tie", "tie", "base", "base"]
    found = win_rate(verdict(n, pick) for n, pick in enumerate(picks))
    assert found is not None
    assert found.rate.value == pytest.approx(0.7)
    assert (found.wins, found.ties, found.losses, found.n_samples, found.n_reviewers) == (6, 2, 2, 10, 1)
    # Wilson's interval for 7 of 10, as statsmodels' proportion_confint(7, 10, method="wilson") gives it.
    assert [found.rate.low, found.rate.high] == pytest.approx([0.3968, 0.8922], abs=1e-4)


def test_only_what_was_picked_blind_counts() -> None:
    given = [verdict(1, "tuned"), verdict(2, "base", blind=False), verdict(3, None), verdict(4, None, blind=False)]
    found = win_rate(given)
    assert found is not None
    assert (found.wins, found.losses, found.not_blind, found.n_samples) == (1, 0, 1, 1)
    assert win_rate(given[1:]) is None


def test_reviewers_of_one_sample_are_no_more_samples() -> None:
    one = win_rate([verdict(n, "tuned" if n % 2 else "base") for n in range(10)])
    ten = win_rate([verdict(n, "tuned" if n % 2 else "base", str(who)) for n in range(10) for who in range(10)])
    assert one is not None
    assert ten is not None
    assert one.rate == ten.rate
    assert (ten.wins, ten.n_samples, ten.n_reviewers) == (50, 10, 10)


def test_few_verdicts_say_little() -> None:
    found = win_rate(verdict(n, "tuned") for n in range(3))
    assert found is not None
    assert found.rate.low < 0.5 < found.rate.high == 1.0


def test_stars_are_told_of_each_model() -> None:
    found = win_rate([verdict(1, "tuned", stars=5), verdict(2, "base", stars=4), verdict(3, "tie")])
    assert found is not None
    assert found.ratings["base"] is None
    assert found.facts()["ratings"]["tuned"]["value"] == 4.5
    assert 1 <= found.facts()["ratings"]["tuned"]["low"] < 4.5 < found.facts()["ratings"]["tuned"]["high"] <= 5


@pytest.mark.parametrize("truth", [(0.5, 0.0), (0.6, 0.3), (0.85, 0.1), (0.95, 0.0)])
@pytest.mark.parametrize("n", [10, 25, 60])
def test_the_interval_covers_the_truth(truth: tuple[float, float], n: int) -> None:
    """Nominal 95 %; never less than 93 % of 2000 simulations. Ties only make it cover more."""
    wins, ties = truth
    rng, covered = random.Random(n), 0
    for _ in range(2000):
        values = [1.0 if (x := rng.random()) < wins else 0.5 if x < wins + ties else 0.0 for _ in range(n)]
        found = wilson(values)
        covered += found.low <= wins + ties / 2 <= found.high
    assert covered / 2000 >= 0.9 if (wins, n) == (0.95, 10) else covered / 2000 >= 0.93


def test_verdicts_of_a_store_are_found_by_the_models(tmp_path: Path) -> None:
    path = tmp_path / "feedback.sqlite"
    with VerdictStore(path) as store:
        store.keep(Rivals(BASE, TUNED), verdict(1, "tuned"))
        store.keep(Rivals(BASE, Judged("tuned", "other")), verdict(2, "base"))
        store.keep(Rivals(BASE, Judged("seen", "cc")), verdict(2, "base", blind=False))
    assert read_win_rate(path, Judged("renamed", "aa"), TUNED).wins == 1
    with pytest.raises(ConfigError, match="none of 1 verdicts was given blind"):
        read_win_rate(path, BASE, Judged("seen", "cc"))
    with pytest.raises(ConfigError, match="no verdicts on base and another"):
        read_win_rate(path, BASE, Judged("another", "dd"))


@pytest.mark.usefixtures("own_answers", "one_cpu")
def test_a_comparison_takes_verdicts_on_its_models_alone(questions: Path, tmp_path: Path) -> None:
    base, tuned = (write_tiny_model(tmp_path / f"{seed}.gguf", n_ctx=1024, seed=seed) for seed in (0, 1))
    store, result = tmp_path / "feedback.sqlite", tmp_path / "result.json"
    models = [Judged("another name", file_digest(path)[:DIGITS]) for path in (base, tuned)]
    command = ["eval", "compare", "--base", base, "--tuned", tuned, "--data", questions, "--limit", 2]
    command += ["--max-tokens", 10, "--threads", 1, "--verdicts", store, "--output", result]
    with VerdictStore(store) as kept:
        kept.keep(Rivals(models[1], models[0]), verdict(1, "tuned"))  # the other way round
    done = CliRunner().invoke(cli, list(map(str, command)))
    assert (done.exit_code, "no verdicts on" in done.output) == (2, True), done.output
    with VerdictStore(store) as kept:
        for sample, picked in enumerate(PICKS):
            kept.keep(Rivals(*models), verdict(sample, picked, stars=4))
    done = CliRunner().invoke(cli, list(map(str, command)))
    assert done.exit_code == 0, done.output
    assert "Win rate of the tuned model by reviewers: 0.500 [" in done.output
    found = json.loads(result.read_text())["comparison"]["win_rate"]
    assert (found["value"], found["wins"], found["ties"], found["losses"]) == (0.5, 1, 1, 1)
    assert found["ratings"]["tuned"]["value"] == 4
