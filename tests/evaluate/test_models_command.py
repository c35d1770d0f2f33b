"""Proves that several models are measured one after another by the real llama-server, and that one is chosen."""

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from cpuft import demo
from cpuft.backends.generator import GREEDY, Sampling
from cpuft.backends.llama_server import LlamaServer
from cpuft.chat.message import Completion, Message
from cpuft.cli.main import cli
from cpuft.evaluate import contender
from cpuft.evaluate.cases import cases_of
from cpuft.evaluate.result import read_result
from cpuft.roles import find_role
from tests.gguf.tiny import write_tiny_model

pytestmark = pytest.mark.usefixtures("built")
BA = find_role("ba")
N = 3  # examples
METRIC = "def score(example, prediction, trace=None):\n    return 0.5 + len(prediction['answer']) % 7 / 20\n"
LOOSE = "score: 0.3\nyaml_valid: null\ntokens_per_sec: 0.1\n"


class Watched:
    """What the real servers were opened and asked for."""

    def __init__(self) -> None:
        self.slots: list[int] = []
        self.asked: list[Sequence[Message]] = []
        self.running: list[LlamaServer] = []
        self.most = 0


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Watched:
    """Servers that are watched, and a file of answers of this test alone."""
    seen, answers = Watched(), tmp_path / "answers.sqlite"
    monkeypatch.setattr(contender, "answers_file", lambda: answers)
    started, ended, answered = LlamaServer.__init__, LlamaServer.close, LlamaServer.generate

    def start(self: LlamaServer, *args: Any, n_parallel: int = 1, **options: Any) -> None:
        seen.slots.append(n_parallel)
        started(self, *args, n_parallel=n_parallel, **options)
        seen.running.append(self)
        seen.most = max(seen.most, len(seen.running))

    def close(self: LlamaServer) -> None:
        seen.running = [server for server in seen.running if server is not self]
        ended(self)

    def generate(self: LlamaServer, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Completion:
        seen.asked.append(messages)
        return answered(self, messages, sampling)

    monkeypatch.setattr(LlamaServer, "__init__", start)
    monkeypatch.setattr(LlamaServer, "close", close)
    monkeypatch.setattr(LlamaServer, "generate", generate)
    return seen


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    """The bundled model under two names."""
    paths = [tmp_path / name for name in ("one.gguf", "other.gguf")]
    for path in paths:
        path.symlink_to(demo.BASE_MODEL)
    return list(map(str, paths))


def measure(*models: str, n: int = N, **options: Any) -> Result:
    words = [word for model in models for word in ("--model", model)]
    words += ["--data", str(demo.TEST), "--limit", str(n), "--threads", "1", "--max-tokens", "60", "--constrained"]
    more = [str(word) for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    return CliRunner().invoke(cli, ["eval", "models", *words, *more])


def test_models_one_after_another(
    watched: Watched, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_length.py").write_text(METRIC)
    monkeypatch.chdir(tmp_path)
    output, report = tmp_path / "made" / "result.json", tmp_path / "docs" / "choice.md"
    done = measure(*names, "gone:1b", output=output, report=report, parallel=2, metric="of_length:score")
    assert done.exit_code == 0, done.output
    assert "Note: gone:1b was not measured: gone:1b: no such file" in done.output
    assert (watched.slots, watched.most, watched.running) == ([2, 1, 2, 1], 1, [])
    result = read_result(output)
    assert list(result.models) == names, "two entries of one file"
    made_by = result.sections["made_by"]
    assert list(made_by["failed"]) == ["gone:1b"]
    assert (made_by["n_parallel"], made_by["constrained"], made_by["data"]["n"]) == (2, True, N)
    one, other = result.models.values()
    assert (one["reference"], one["digest"]) == (names[0], other["digest"])
    assert one["avg_score"] == other["avg_score"] > 0
    assert made_by["metric"] == "of_length:score"
    assert [answer["answer"] for answer in one["answers"]] == [answer["answer"] for answer in other["answers"]]
    for entry in (one, other):
        assert entry["speed_measured"] == "one request at a time"
        assert min(entry["tokens_per_sec"], entry["prompt_tokens_per_sec"], entry["time_to_first_token_s"]) > 0
        assert demo.BASE_MODEL.stat().st_size / 1e6 < entry["ram_usage_mb"] < 2000
        assert set(entry["quantities"]) == {"functional_requirements", "non_functional_requirements", "constraints"}
        assert entry["interval"]["low"] <= entry["avg_score"] <= entry["interval"]["high"]
        assert len(entry["answers"]) == entry["n_examples"] == N
    text = report.read_text()
    assert "gone:1b: no such file" in text.replace("\\", "")
    assert "2 requests in flight" in text
    assert sorted(path.name for path in report.parent.iterdir()) == [
        "choice-memory.svg",
        "choice-quality.svg",
        "choice-speed.svg",
        "choice.md",
    ]


def test_a_base_model_is_asked_by_the_long_prompt_unless_told_otherwise(watched: Watched, names: list[str]) -> None:
    assert measure(names[0], n=1, speed_questions=0).exit_code == 0
    assert watched.asked[-1][0]["content"] == BA.prompt
    words = ["--data", str(demo.TEST), "--limit", "1", "--threads", "1", "--max-tokens", "2", "--speed-questions", "0"]
    assert CliRunner().invoke(cli, ["eval", "models", "--model", names[0], *words, "--as-written"]).exit_code == 0
    assert watched.asked[-1] == cases_of(demo.TEST, BA)[0].messages
    assert watched.asked[-1][0]["content"] != BA.prompt


def test_running_it_again_asks_nothing_twice(watched: Watched, names: list[str]) -> None:
    assert measure(names[0], n=2, speed_questions=0).exit_code == 0
    assert len(watched.asked) == 2
    assert measure(names[0], n=2, speed_questions=0).exit_code == 0
    assert len(watched.asked) == 2
    assert measure(names[0], n=3, speed_questions=0).exit_code == 0
    assert len(watched.asked) == 3, "only what is new"
    assert measure(names[0], n=3, speed_questions=1).exit_code == 0
    assert len(watched.asked) == 5, "the speed of what is remembered is none: one more question, and one before it"


def test_a_model_that_cannot_be_run_does_not_stop_the_others(
    watched: Watched, names: list[str], tmp_path: Path
) -> None:
    unknown = write_tiny_model(tmp_path / "unknown.gguf", architecture="perceptron")
    (tmp_path / "prose.gguf").write_text("no model")
    bad = [str(unknown), str(tmp_path / "prose.gguf")]
    done = measure(*bad, names[0], n=1, speed_questions=0)
    assert done.exit_code == 0, done.output
    assert all(f"Note: {name} was not measured: {name}: " in done.output for name in bad)
    assert watched.running == []
    alone = measure(*bad, n=1)
    assert alone.exit_code == 2
    assert alone.output.startswith("Error: no model could be measured: ")
    assert all(name in alone.output for name in bad)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model", "a.gguf", "--model", "a.gguf"], "--model a.gguf: given twice, expected each model once"),
        (["--model", "ollama:a:1b", "--model", "a:1b"], "given twice"),
        (["--model", "a", "--as-written", "--optimized-program", "p"], "give one of them"),
        (["--model", "a", "--thresholds", "none.yaml"], "none.yaml: no such file"),
        (["--model", "a", "--metric", "none:none"], "none"),
        (["--model", "a", "--output", str(demo.TEST)], "the output is also an input"),
        (["--model", "a", "--report", "/"], "a folder, expected the name of a file for the report"),
        (["--model", "a", "--report", "x", "--output", "./x"], "--output and --report are one file"),
        ([], "Missing option '--model'"),
    ],
)
def test_mistakes_are_told_before_any_work(words: list[str], sentence: str) -> None:
    done = CliRunner().invoke(cli, ["eval", "models", "--data", str(demo.TEST), *words])
    assert done.exit_code == 2
    assert sentence in " ".join(done.output.split())


@contextmanager
def result_file(folder: Path, **figures: Any) -> Iterator[Path]:
    good = {"avg_score": 0.7, "yaml_valid": 0.9, "tokens_per_sec": 12.0, "ram_usage_mb": 100.0, "answers": []}
    models = {
        "qwen2.5:3b-instruct": {**good, "avg_score": 0.8, "reference": "ollama:qwen2.5:3b-instruct", **figures},
        "a b.gguf": {**good, "reference": "/models/a b.gguf"},
    }
    path = folder / "result.json"
    path.write_text(json.dumps({**models, "made_by": {}}))
    yield path


def select(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["models", "select", *map(str, words)])


def test_the_winner_is_written_to_the_users_file(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("# mine\nroles: {ba: {model: x}}\n")
    with result_file(tmp_path) as path:
        assert select(path, "--config", config, "--dry-run").exit_code == 0
        assert config.read_text() == "# mine\nroles: {ba: {model: x}}\n"
        done = select(path, "--config", config)
    assert done.exit_code == 0
    assert done.output.splitlines()[-1] == "export LOCAL_BASE_MODEL=ollama:qwen2.5:3b-instruct"
    assert config.read_text() == "# mine\nroles: {ba: {model: x}}\nLOCAL_BASE_MODEL: ollama:qwen2.5:3b-instruct\n"
    with result_file(tmp_path, tokens_per_sec=None) as path:
        facts = json.loads(select(path, "--config", config, "--json").output)
    assert (facts["winner"], shlex.split(facts["export"])[1]) == ("a b.gguf", "LOCAL_BASE_MODEL=/models/a b.gguf")
    assert facts["models"]["qwen2.5:3b-instruct"]["reasons"] == [
        "generation was not measured, expected more than 10.0 tokens/s"
    ]
    assert yaml.safe_load(config.read_text())["LOCAL_BASE_MODEL"] == "/models/a b.gguf"


def test_none_qualifies_is_a_verdict_and_writes_nothing(tmp_path: Path) -> None:
    bounds = tmp_path / "bounds.yaml"
    bounds.write_text("score: 0.95\n")
    with result_file(tmp_path) as path:
        done = select(path, "--thresholds", bounds, "--config", tmp_path / "config.yaml")
    assert done.exit_code == 3
    assert done.output.splitlines() == [
        "No model keeps all bounds:",
        "  qwen2.5:3b-instruct: average score is 0.800, expected more than 0.950",
        "  a b.gguf: average score is 0.700, expected more than 0.950",
    ]
    assert not (tmp_path / "config.yaml").exists()


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for text, sentence in (
        ("prose", "result.json"),
        ("{}", "result.json"),
        ('{"made_by": {}}', "the result holds no models"),
        ('{"a": [], "made_by": {}}', "result.json: 'a' is no object"),
    ):
        path.write_text(text)
        done = select(path, "--config", tmp_path / "config.yaml")
        assert (done.exit_code, sentence in done.output) == (2, True), done.output
    assert select(tmp_path / "none.json").exit_code == 2


def test_from_the_measurement_to_the_choice(
    watched: Watched, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_length.py").write_text(METRIC)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bounds.yaml").write_text(LOOSE)
    measure(*names, n=2, output="result.json", metric="of_length:score", speed_questions=1)
    done = select("result.json", "--thresholds", "bounds.yaml")
    assert (done.exit_code, watched.most) == (0, 1), done.output
    winner = yaml.safe_load((tmp_path / "config.yaml").read_text())["LOCAL_BASE_MODEL"]
    (rival,) = {*names} - {winner}
    assert f"These examples do not tell its score from that of {rival}." in done.output
