"""MIPROv2 and GEPA, for real: over a scripted model whose weakness is known, and over the real llama-server."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from cpuft import demo
from cpuft.backends.generator import Sampling
from cpuft.backends.remembered import Remembered
from cpuft.chat.message import Completion, Message
from cpuft.cli.main import cli
from cpuft.errors import BackendError, ConfigError, DatasetError, OllamaError, ServerError, TooLongError
from cpuft.roles import Inputs, Role, Score
from cpuft.roles.folder import read_role
from cpuft.synth.language_model import write_program
from cpuft.synth.optimizer import optimize
from cpuft.synth.program import Program, read_program
from cpuft.synth.records import read_records, write_records
from cpuft.synth.search import Search
from cpuft.workflow.prompt import Parts, divide, optimize_prompt
from tests.synth.answering import Scripted
from tests.synth.conftest import document, record

SUBJECTS = (
    "bakers",
    "beekeepers",
    "barbers",
    "butchers",
    "bankers",
    "builders",
    "brewers",
    "botanists",
    "bikers",
    "boxers",
)
RECORDS = [record(f"An app for {name}") for name in SUBJECTS]
SMALL = Search(candidates=4, trials=4, demos=2, max_tokens=200, n_parallel=2)
MAGIC = "Be complete."


def proposal(sampling: Sampling) -> str:
    """What the model says of the data, or as a new prompt: all fields that it is asked for."""
    assert sampling.schema is not None
    return json.dumps(dict.fromkeys(sampling.schema["properties"], MAGIC))


def weak_without(needed: str) -> Scripted:
    """A model that answers well only where it is shown an example ("demos"), or told to be complete ("prompt")."""

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        if sampling.schema is not None:
            return proposal(sampling)
        helped = {"demos": len(messages) > 2, "prompt": MAGIC in messages[0]["content"], "more": False}[needed]
        return str(document("a shop")) if helped else "title: Nothing else"

    return Scripted(answer)


def search(role: Role, model: Scripted, tmp_path: Path, how: Search = SMALL) -> tuple[Program, list[float]]:
    found = optimize(role, model, "m", RECORDS[:5], RECORDS[5:], how, tmp_path / "dspy.log")
    return found.program, [trial.score for trial in found.trials]


def test_mipro_finds_that_examples_help(role: Role, tmp_path: Path) -> None:
    program, scores = search(role, weak_without("demos"), tmp_path)
    assert len(program.demos) in (1, 2)
    assert len(scores) == 1 + SMALL.trials
    assert scores[0] < 0.3
    assert max(scores) == 1.0


@pytest.mark.parametrize("optimizer", ["mipro", "gepa"])
def test_a_better_prompt_is_found(optimizer: str, role: Role, tmp_path: Path) -> None:
    how = Search(optimizer=optimizer, candidates=4, trials=4, demos=0, n_parallel=2)  # type: ignore[arg-type]
    program, scores = search(role, weak_without("prompt"), tmp_path, how)
    assert program.prompt == MAGIC
    assert scores[0] < 0.3
    assert max(scores) == 1.0


def test_gepa_is_told_what_is_wrong(role: Role, tmp_path: Path) -> None:
    model = weak_without("prompt")
    search(role, model, tmp_path, Search(optimizer="gepa", candidates=4, trials=2, n_parallel=2))
    asked = [messages[-1]["content"] for messages, _ in model.heard]
    assert any("functional_requirements is no list" in text and "examples_with_feedback" in text for text in asked)


def test_the_same_seed_asks_the_same(role: Role, tmp_path: Path) -> None:
    heard = []
    for _ in range(2):
        model = weak_without("demos")
        search(role, model, tmp_path)
        heard.append(sorted(repr(one) for one in model.heard))
    assert heard[0] == heard[1]
    model = weak_without("demos")
    search(role, model, tmp_path, Search(candidates=4, trials=4, demos=2, max_tokens=200, n_parallel=2, seed=1))
    assert sorted(repr(one) for one in model.heard) != heard[0]


def test_proposals_differ(role: Role, tmp_path: Path) -> None:
    """A new rollout is a new seed: else all proposals would be the same."""
    model = weak_without("demos")
    search(role, model, tmp_path)
    asked = [(messages[-1]["content"], sampling.seed) for messages, sampling in model.heard if sampling.schema]
    assert len({seed for _, seed in asked}) >= SMALL.candidates


def test_a_model_that_is_gone_is_no_bad_score(role: Role, tmp_path: Path) -> None:
    def answer(_: Sequence[Message], sampling: Sampling) -> str:
        if len(model.heard) > 8:
            raise BackendError("m: the server did not answer")
        return "title: x" if sampling.schema is None else proposal(sampling)

    model = Scripted(answer)
    with pytest.raises(BackendError, match="the search ended early: m: the server did not answer; run it again"):
        search(role, model, tmp_path)
    assert len(model.heard) < 12  # and no more was asked


@pytest.mark.parametrize(
    ("error", "raised"),
    [(OllamaError("m: not there"), OllamaError), (ServerError("m: gone"), ServerError), (OSError("disk"), OSError)],
)
def test_whatever_else_fails_is_no_bad_score_either(
    error: Exception, raised: type[Exception], role: Role, tmp_path: Path
) -> None:
    def answer(_: Sequence[Message], __: Sampling) -> str:
        raise error

    model = Scripted(answer)
    with pytest.raises(raised):
        search(role, model, tmp_path)
    assert len(model.heard) <= 2


def test_a_server_without_schemas_answers_in_words(role: Role, tmp_path: Path) -> None:
    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        return MAGIC if sampling.schema is not None else weak._answer(messages, sampling)

    weak = weak_without("prompt")
    program, _ = search(role, Scripted(answer), tmp_path)
    assert program.prompt == MAGIC


def test_what_is_held_out_is_nowhere_else(role: Role, tmp_path: Path) -> None:
    """Not among the examples of a search, nor in a program that an earlier one left."""
    tested = [record("An app for bakers!"), RECORDS[2]]
    parts = divide(RECORDS, tested, 0)
    assert {one.asked for one in [*parts.train, *parts.validation]} == {one.asked for one in [RECORDS[1], *RECORDS[3:]]}
    write_program(tmp_path / "program.json", role, Program("Shown what it is asked.", (RECORDS[2], RECORDS[3])))
    how = Search(candidates=4, trials=2, demos=0, n_parallel=2)
    report = optimize_prompt(role, weak_without("demos"), "m", parts, how, tmp_path)
    assert report.chosen == "role"


def test_a_metric_that_fails_is_no_bad_score(role: Role, tmp_path: Path) -> None:
    def metric(answer: str, inputs: Inputs) -> Score:
        raise ConfigError(f"own:metric: the metric failed on {inputs['concept']}: {answer[:5]}")

    with pytest.raises(ConfigError, match="the metric failed on An app for"):
        search(replace(role, metric=metric), weak_without("demos"), tmp_path)


def test_a_question_that_is_too_long_is_shortened(role: Role, tmp_path: Path) -> None:
    """Of the model about the data; one of the role's counts as unanswered."""

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        if sum(len(message["content"]) for message in messages) > 4000:
            raise TooLongError("m: the conversation is too long")
        return weak._answer(messages, sampling)

    weak = weak_without("prompt")
    program, scores = search(role, Scripted(answer), tmp_path)
    assert program.prompt == MAGIC
    assert max(scores) == 1.0


class Failing:
    """Fails after so many answers."""

    def __init__(self, model: Scripted, answers: int) -> None:
        self._model, self._left = model, answers

    def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """See `Generator`."""
        self._left -= 1
        if self._left < 0:
            raise BackendError("m: gone")
        return self._model.generate(messages, sampling)


def test_a_search_goes_on_where_it_stopped(role: Role, tmp_path: Path) -> None:
    parts = Parts(RECORDS[:4], RECORDS[4:7], RECORDS[7:])
    whole = weak_without("demos")
    expected = optimize_prompt(role, whole, "m", parts, SMALL, tmp_path / "whole")
    model = weak_without("demos")
    with pytest.raises(BackendError):
        optimize_prompt(role, Failing(model, 12), "m", parts, SMALL, tmp_path / "halves")  # type: ignore[arg-type]
    report = optimize_prompt(role, model, "m", parts, SMALL, tmp_path / "halves")
    assert report.facts() == expected.facts()
    assert len(model.heard) == len(whole.heard)  # nothing was asked twice
    assert (tmp_path / "halves" / "program.json").read_bytes() == (tmp_path / "whole" / "program.json").read_bytes()


def test_the_better_prompt_is_kept_whenever_it_was_found(role: Role, tmp_path: Path) -> None:
    parts = Parts(RECORDS[:4], RECORDS[4:7], RECORDS[7:])
    first = optimize_prompt(role, weak_without("demos"), "m", parts, SMALL, tmp_path)
    assert first.chosen == "examples"  # no new prompt is needed for it
    assert read_program(tmp_path / "program.json", role).prompt == role.prompt
    assert first.gain.mean.value > 0.5
    assert first.gain.wins == 3
    kept = read_program(tmp_path / "program.json", role)
    # A search that may show no examples finds nothing.
    worse = Search(candidates=4, trials=2, demos=0, n_parallel=2)
    second = optimize_prompt(role, weak_without("demos"), "m", parts, worse, tmp_path)
    assert second.chosen == "before"
    assert read_program(tmp_path / "program.json", role).digest == kept.digest
    words = optimize_prompt(role, weak_without("prompt"), "m", parts, worse, tmp_path / "words")
    assert words.chosen == "found"
    assert read_program(tmp_path / "words" / "program.json", role).prompt == MAGIC
    nothing = optimize_prompt(role, weak_without("more"), "m", parts, worse, tmp_path / "new")
    assert nothing.chosen == "role"
    assert read_program(tmp_path / "new" / "program.json", role).prompt == role.prompt


def test_no_variation_stands_in_two_parts() -> None:
    records = [record(f"An app for {name}", group=name[:2]) for name in SUBJECTS]
    parts = divide(records, [], 0)
    groups = [{one.facts["group"] for one in part} for part in (parts.train, parts.validation, parts.held_out)]
    assert all(groups)
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]
    with pytest.raises(DatasetError, match="1 examples are too few to look for a prompt"):
        divide(records[:1], [], 0)


def test_remembered_answers_are_of_one_model(tmp_path: Path) -> None:
    model = Scripted(lambda messages, sampling: messages[0]["content"])
    question: list[Message] = [{"role": "user", "content": "a"}]
    for name, asked in (("one", 1), ("one", 1), ("two", 2)):
        with Remembered(model, tmp_path / "answers.sqlite", name) as remembered:
            assert remembered.generate(question).text == "a"
            remembered.generate(question, Sampling(max_tokens=5 if asked == 1 else 6))
        assert len(model.heard) == (2 if asked == 1 else 4)


# Over the real server.


@pytest.fixture(scope="module")
def examples(clerk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, role = tmp_path_factory.mktemp("examples") / "clerk.jsonl", read_role(clerk)
    (first,) = role.sources
    lines = [
        {
            first: f"A letter about {subject}",
            "answer": {"title": "A letter", "summary": subject, "points": ["one", "two"]},
        }
        for subject in SUBJECTS
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_records(path, read_records(path, role), role)
    return path


def command(clerk: Path, examples: Path, output: Path, *more: str) -> list[str]:
    how = "--constrained --num-candidates 3 --num-trials 2 --max-bootstrapped-demos 1 --max-tokens 60 --parallel 2"
    files = ["--role", str(clerk), "--model", str(demo.BASE_MODEL), "--trainset", str(examples)]
    return ["data", "optimize-prompt", *files, *how.split(), "--output", str(output), *more]


def test_the_command_over_the_real_server(clerk: Path, examples: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, command(clerk, examples, tmp_path / "out", "--json"))
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["n_train"], facts["n_validation"], facts["n_held_out"]) == (3, 3, 4)
    assert facts["before"]["low"] <= facts["before"]["value"] <= facts["before"]["high"]
    assert facts["after"]["value"] >= facts["before"]["value"]
    assert len((tmp_path / "out" / "trials.jsonl").read_text().splitlines()) == 3
    role = read_role(clerk)
    program = read_program(tmp_path / "out" / "program.json", role)
    (tmp_path / "c.jsonl").write_text("A letter about cheese\n")
    made = CliRunner().invoke(
        cli,
        ["data", "generate", "--role", str(clerk), "--model", str(demo.BASE_MODEL), "--optimized-program",
         str(tmp_path / "out"), "--concepts", str(tmp_path / "c.jsonl"), "--output", str(tmp_path / "raw.jsonl"),
         "--max-tokens", "60"],
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert read_records(tmp_path / "raw.jsonl", role)[0].facts["prompt"] == program.digest


def test_a_killed_command_goes_on(clerk: Path, examples: Path, tmp_path: Path) -> None:
    arguments = command(clerk, examples, tmp_path / "out", "--json")
    process = subprocess.Popen([sys.executable, "-m", "cpuft", *arguments], stdout=subprocess.DEVNULL)
    answers = tmp_path / "out" / "answers.sqlite"
    deadline = time.monotonic() + 120
    while not _answers(answers) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = _answers(answers)
    assert before > 0
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert _answers(answers) > before
    assert json.loads(done.stdout)["n_held_out"] == 4


def _answers(path: Path) -> int:
    import sqlite3

    if not path.exists() or not os.path.getsize(path):
        return 0
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as file:
        try:
            return int(file.execute("SELECT count(*) FROM answers").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--trainset", "none.jsonl"), "no such file, expected examples"),
        (("--metric", "nothing"), "expected module:function"),
        (("--metric", "no_such_module:f"), "cannot be imported (ModuleNotFoundError"),
        (("--output", str(demo.BASE_MODEL)), "a file, expected a folder for the program"),
    ],
)
def test_mistakes(more: tuple[str, ...], sentence: str, clerk: Path, examples: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, command(clerk, examples, tmp_path / "out", *more))
    assert done.exit_code == 2, done.output
    assert sentence in done.output


def test_a_dry_run_says_how_much(clerk: Path, examples: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, command(clerk, examples, tmp_path / "out", "--dry-run", "--json"))
    assert json.loads(done.stdout) == {"train": 3, "validation": 3, "held_out": 4, "answers": 33}
    assert not (tmp_path / "out").exists()
