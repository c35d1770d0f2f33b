"""Two models side by side: what differs is listed, seeds are no examples, and the commands say what they found."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cpuft import demo
from cpuft.backends.asked import GgufFile
from cpuft.backends.generator import Sampling
from cpuft.chat.message import Completion
from cpuft.cli.main import cli
from cpuft.errors import ConfigError
from cpuft.evaluate.answers import Asking
from cpuft.evaluate.benchmark import Answer, Benchmark, Case
from cpuft.evaluate.cases import cases_of
from cpuft.evaluate.comparison import mean_of
from cpuft.evaluate.contender import Contender
from cpuft.evaluate.generalization import GO, NO_GO, UNSURE, generalization
from cpuft.evaluate.pair import Pair
from cpuft.evaluate.result import read_result
from cpuft.roles import Part, Score, find_role
from cpuft.synth.records import seed_records, write_records

BA = find_role("ba")
HOW = ("--max-tokens", "480", "--context", "1024", "--parallel", "2")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


def benchmark(scores: Sequence[float], faults: Sequence[str] | None = None) -> Benchmark:
    """Answers that are worth this, each to a question of its own."""
    said = faults or [""] * len(scores)
    return Benchmark(
        tuple(
            Answer(
                Case({"concept": str(i)}, (), ""),
                Completion("title: x", tokens=10, seconds=1.0, prompt_tokens=5, finished=True),
                Score.of({"whole": Part(score, fault=fault)}),
            )
            for i, (score, fault) in enumerate(zip(scores, said, strict=True))
        )
    )


def test_what_differs_is_listed_from_worst_to_best() -> None:
    pair = Pair(
        (benchmark([0.9, 0.5, 0.5, 1.0], ["a", "b", "c", ""]),), (benchmark([0.2, 0.5, 0.9, 1.0], ["d", "b", "", ""]),)
    )
    worst, best = pair.changes
    assert (worst.inputs, worst.before, worst.after, worst.gone, worst.new) == (
        {"concept": "0"},
        0.9,
        0.2,
        ("a",),
        ("d",),
    )
    assert (best.inputs, best.gone, best.new, best.flips) == ({"concept": "2"}, ("c",), (), True)
    assert (pair.difference.wins, pair.difference.ties, pair.difference.losses) == (1, 2, 1)
    assert pair.relative_gain == pytest.approx(-0.3 / 2.9)
    facts = pair.facts("b", "t")
    assert [one["inputs"]["concept"] for one in facts["worse"] + facts["better"]] == ["0", "2"]
    assert facts["mcnemar_p"] == 1.0


def test_seeds_are_no_examples() -> None:
    """Ten answers to each of four questions tell no more of other questions than their means do."""
    before, after = [0.1, 0.2, 0.3, 0.4], [0.3, 0.2, 0.5, 0.6]
    once, often = (Pair((benchmark(before),) * n, (benchmark(after),) * n) for n in (1, 10))
    assert often.difference == once.difference
    assert (once.facts("b", "t")["n_examples"], often.facts("b", "t")["n_seeds"]) == (4, 10)


def test_a_verdict_is_not_reached_by_asking_again() -> None:
    """Each original's own answers are averaged, under all seeds, and it counts once."""
    found = generalization([benchmark([1.0] * 7 + [0.4]), benchmark([0.9] * 7 + [0.3])] * 5)
    assert (found.verdict, found.n_examples) == (UNSURE, 8)
    assert found.score == mean_of([0.95] * 7 + [0.35])


def test_a_base_worth_nothing_has_no_relative_gain() -> None:
    assert Pair((benchmark([0.0, 0.0]),), (benchmark([1.0, 0.5]),)).relative_gain is None


@pytest.mark.parametrize(("scores", "verdict"), [([1.0] * 30, GO), ([0.5, 0.6] * 15, NO_GO), ([0.7, 1.0] * 4, UNSURE)])
def test_the_verdict_on_originals_is_by_the_interval(scores: list[float], verdict: str) -> None:
    assert generalization([benchmark(scores)]).verdict == verdict


def test_records_and_conversations_are_asked_alike(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    write_records(records, seed_records(BA)[:2], BA)
    chats = tmp_path / "chats.jsonl"
    chats.write_text(
        "".join(json.dumps({"messages": [*c.messages, {"role": "assistant", "content": c.reference}]}) + "\n"
                for c in cases_of(records, BA))
    )  # fmt: skip
    assert cases_of(records, BA) == cases_of(chats, BA)


def test_answers_of_one_temperature_are_asked_once() -> None:
    with pytest.raises(ConfigError, match="temperature 0 all of them are the same"):
        Asking(BA, [], n_seeds=2).require()
    Asking(BA, [], Sampling(temperature=0.5), n_seeds=2).require()


def test_another_adapter_or_number_of_slots_is_another_model(tmp_path: Path) -> None:
    model = GgufFile(name="base", path=demo.BASE_MODEL)
    files = [tmp_path / name for name in ("a.gguf", "b.gguf")]
    for file in files:
        file.write_text(file.name)
    contenders = [Contender(name="x", asked=model, adapter=adapter) for adapter in (None, *files)]
    keys = [one.key(n) for one in contenders for n in (1, 2)]
    assert len(set(keys)) == 6
    assert Contender(name="another name", asked=model).key(1) == keys[0]


@pytest.mark.usefixtures("one_cpu")
def test_a_tuned_model_beside_its_base(tuned_adapter: Path, questions: Path, own_answers: Path, tmp_path: Path) -> None:
    """The real thing, twice: the second time nothing is asked."""
    output = tmp_path / "result.json"
    options = ("--base", demo.BASE_MODEL, "--adapter", tuned_adapter, "--data", questions, *HOW)
    done = run("eval", "compare", *options, "--val", demo.VALIDATION, "--output", output)
    assert done.exit_code == 0, done.output
    assert "The tuned model is better: 0 is below the interval." in done.output
    result = read_result(output)
    comparison = result.sections["comparison"]
    base, tuned = (result.models[comparison[name]] for name in ("base", "tuned"))
    assert tuned["avg_score"] > base["avg_score"] + 0.5
    assert comparison["difference"]["value"] == pytest.approx(tuned["avg_score"] - base["avg_score"], abs=1e-3)
    assert (base["adapter_digest"], len(tuned["adapter_digest"])) == (None, 12)
    assert tuned["perplexity"] < base["perplexity"]
    assert comparison["held_out"]["low"] > 0
    assert len(tuned["answers"]) == comparison["n_examples"] == 6
    assert result.sections["made_by"]["data"]["n"] == 6
    with sqlite3.connect(own_answers) as file:
        (asked,) = file.execute("SELECT count(*) FROM answers").fetchone()
        file.execute("UPDATE answers SET completion = json_set(completion, '$.text', 'remembered')")
    assert asked == 12
    again = run("eval", "compare", *options, "--output", output)
    assert again.exit_code == 0, again.output
    answers = [one["answer"] for model in read_result(output).models.values() for one in model["answers"]]
    assert answers == ["remembered"] * 12


@pytest.mark.usefixtures("one_cpu", "own_answers")
def test_originals_that_were_trained_on_do_not_count(tuned_adapter: Path, questions: Path, tmp_path: Path) -> None:
    learned = tmp_path / "learned.jsonl"
    learned.write_text("".join(questions.read_text().splitlines(keepends=True)[:2]))
    options = ("--model", demo.BASE_MODEL, "--adapter", tuned_adapter, "--data", questions, *HOW)
    done = run("eval", "original", *options, "--trained-on", learned, "--json")
    found = json.loads(done.stdout)
    assert (found["n_examples"], len(found["seen"])) == (4, 2)
    assert done.exit_code == (0 if found["verdict"] == GO else 3)
    none_left = run("eval", "original", *options, "--trained-on", questions)
    assert (none_left.exit_code, "all 6 examples are in the training data" in none_left.output) == (2, True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "--tuned or --adapter is missing"),
        (("--adapter", "none.gguf"), "none.gguf"),
        (("--tuned", demo.BASE_MODEL, "--seeds", "2"), "--seeds is for answers that are drawn"),
        (("--tuned", demo.BASE_MODEL, "--base-program", "p.pkl"), "a pickle can run any code"),
    ],
)
def test_mistakes(options: Sequence[str], sentence: str, questions: Path) -> None:
    done = run("eval", "compare", "--base", demo.BASE_MODEL, "--data", questions, *options)
    assert done.exit_code == 2
    assert sentence in done.output


@pytest.mark.parametrize("adapted", [False, True])
def test_one_file_asked_in_two_ways_is_two_models(
    adapted: bool, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result has its models by name: neither may take the other's place."""
    answered, adapter = Pair((benchmark([0.2]),), (benchmark([0.9]),)), tmp_path / "adapter.gguf"
    adapter.write_text("an adapter")
    monkeypatch.setattr("cpuft.cli.evaluation.compare.compare", lambda *_, **__: answered)
    monkeypatch.setattr("cpuft.cli.evaluation.compare.gguf_adapter", lambda path, *_: nullcontext(path))
    output = tmp_path / "result.json"
    how = ("--adapter", adapter) if adapted else ("--base-prompt", "long")
    options = ("--base", demo.BASE_MODEL, "--tuned", demo.BASE_MODEL, *how, "--data", questions, "--output", output)
    done = run("eval", "compare", *options, "--speed-questions", "0")
    assert done.exit_code == 0, done.output
    result = read_result(output)
    comparison = result.sections["comparison"]
    assert [result.models[comparison[name]]["avg_score"] for name in ("base", "tuned")] == [0.2, 0.9]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"made_by": 3}', '{"a": 1, "made_by": {}}'])
def test_what_is_no_result_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"expected a result|as JSON"):
        read_result(path)
