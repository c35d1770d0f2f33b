"""Whoever answers, the commands ask in the same way: cpuft's own llama-server, one of the user's, and a real Ollama."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result

from cpuft import demo
from cpuft.backends import llama_server, openai_server
from cpuft.backends.asked import AtUrl, GgufFile
from cpuft.backends.llama_server import LlamaServer
from cpuft.cli.main import cli
from cpuft.ollama.importing import ImportJob, import_model
from cpuft.roles.answer import read_answer
from cpuft.roles.folder import read_role
from cpuft.synth.concepts import combine
from cpuft.synth.records import read_records
from tests.backends.test_openai_server import serving
from tests.conftest import ROOT
from tests.ollama.server import OllamaServer

NOBODY = "http://127.0.0.1:9/v1"
# As servers space and escape it: JSON, but no YAML.
ANSWER = {"summary": "A shop for tools \U0001f528", "points": ["drills"]}
SUMMARY = json.dumps(ANSWER, indent="\t")


def run(*arguments: str | Path | int) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)])


def write_concepts(path: Path, clerk: Path, count: int) -> Path:
    path.write_text("".join(concept.line() for concept in combine(read_role(clerk), count, [], 0)))
    return path


def reply(text: str) -> tuple[int, object]:
    return 200, {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}


@pytest.fixture(scope="module")
def own() -> Iterator[LlamaServer]:
    """A llama-server as a user starts one: it holds answers to a response_format, which ours passes over."""
    with pytest.MonkeyPatch.context() as patch:
        usual = [argument for argument in llama_server.FIXED_ARGUMENTS if argument != "--skip-chat-parsing"]
        patch.setattr(llama_server, "FIXED_ARGUMENTS", tuple(usual))
        with LlamaServer(Path(demo.BASE_MODEL), n_parallel=2) as running:
            yield running


@pytest.fixture
def url(own: LlamaServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where it is reached, with its key in the environment and a proxy there that nothing of this machine's may use."""
    monkeypatch.setenv("CPUFT_API_KEY", own.api_key)
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return f"{own.url}/v1"


def test_generate_through_a_url(url: str, clerk: Path, tmp_path: Path) -> None:
    concepts, raw = write_concepts(tmp_path / "c.jsonl", clerk, 4), tmp_path / "raw.jsonl"
    asked = ("--role", clerk, "--url", url, "--model", "any", "--max-tokens", 200, "--parallel", 2)
    done = run("data", "generate", *asked, "--concepts", concepts, "--output", raw, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["made"] == 4
    role = read_role(clerk)
    for record in read_records(raw, role):
        jsonschema.validate(read_answer(record.answer), dict(role.schema))
        assert record.facts["model"] == f"any ({url})"


def test_concepts_through_a_url(url: str, folder: Path, tmp_path: Path) -> None:
    asked = ("--role", folder, "--url", url, "--model", "any", "--num", 3, "--output", tmp_path / "c.jsonl")
    done = run("data", "concepts", *asked, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["concepts"] >= 1


def test_eval_through_a_url_finds_what_it_finds_of_the_file(url: str, tmp_path: Path) -> None:
    answers = []
    for name, asked in (("file", ("--model", demo.BASE_MODEL)), ("url", ("--model", "any", "--url", url))):
        report = tmp_path / f"{name}.json"
        done = run("eval", "run", *asked, "--data", demo.TEST, "--limit", 2, "--max-tokens", 40, "--output", report)
        assert done.exit_code == 0, done.output
        answers.append(json.loads(report.read_text()))
    assert answers[0]["answers"] == answers[1]["answers"]
    assert [report["model"] for report in answers] == [str(demo.BASE_MODEL), f"any ({url})"]


def test_keys_come_from_the_environment(
    own: LlamaServer, url: str, clerk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    concepts, raw = write_concepts(tmp_path / "c.jsonl", clerk, 1), tmp_path / "raw.jsonl"
    files = ("--concepts", concepts, "--output", raw, "--max-tokens", 200)
    asked = ("data", "generate", "--role", clerk, "--url", url, "--model", "any", *files)
    monkeypatch.setenv("CPUFT_API_KEY", "wrong")
    done = run(*asked)
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert "Invalid API Key (status 401): is the key in CPUFT_API_KEY the right one?" in done.output
    monkeypatch.setenv("CPUFT_API_KEY", "k\u00e9y")
    assert "CPUFT_API_KEY holds a character that no key has" in run(*asked).output
    monkeypatch.delenv("CPUFT_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", own.api_key)
    assert run(*asked).exit_code == 0
    assert own.api_key not in repr(AtUrl(name="any", url=url, api_key=own.api_key))


def test_ollama(ollama_server: OllamaServer, clerk: Path, tmp_path: Path) -> None:
    import_model(ImportJob(Path(demo.BASE_MODEL), "clerk:v1", host=ollama_server.host))
    try:
        concepts, raw = write_concepts(tmp_path / "c.jsonl", clerk, 2), tmp_path / "raw.jsonl"
        asked = ("--backend", "ollama", "--url", ollama_server.host, "--model", "clerk:v1", "--max-tokens", 200)
        done = run("data", "generate", "--role", clerk, *asked, "--concepts", concepts, "--output", raw, "--json")
        assert done.exit_code == 0, done.output
        role = read_role(clerk)
        records = read_records(raw, role)
        (digest,) = (model.digest for model in ollama_server.client.list().models if model.model == "clerk:v1")
        assert digest is not None
        assert [record.facts["model"] for record in records] == [f"clerk:v1 ({digest[:12]})"] * 2
        for record in records:
            jsonschema.validate(read_answer(record.answer), dict(role.schema))
        done = run("eval", "run", *asked, "--data", demo.TEST, "--limit", 1, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["model"] == f"clerk:v1 ({digest[:12]})"
    finally:
        ollama_server.client.delete("clerk:v1")
    done = run("data", "generate", "--role", clerk, *asked, "--concepts", concepts, "--output", tmp_path / "none.jsonl")
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert "has no such model: pull it with `ollama pull clerk:v1`" in done.output
    assert not (tmp_path / "none.jsonl").exists()


def test_two_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    labels = set()
    for folder, content in (("a", b"1"), ("b", b"2")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "m.gguf"
        path.write_bytes(content)
        labels.add(GgufFile(name=path.name, path=path).label)
    assert labels == {"m.gguf (6b86b273ff34)", "m.gguf (d4735e3a265e)"}
    places = [AtUrl(name=name, url=f"http://{host}/v1") for name in "ab" for host in "ab"]
    assert len({place.digest for place in places}) == len({place.label for place in places}) == 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--model", "m", "--url", NOBODY], "9/v1: the server did not answer ([Errno 111] Connection refused): start"),
        (["--model", "m", "--url", NOBODY, "--backend", "ollama"], "no Ollama answers at http://127.0.0.1:9/v1"),
        (["--model", "m", "--url", "127.0.0.1:8080/v1"], "'127.0.0.1:8080/v1' is no address of a server"),
        (["--model", "m", "--url", "http://"], "'http://' is no address of a server"),
        (["--model", "m", "--url", "ftp://h/v1"], "'ftp://h/v1' is no address of a server"),
        (["--model", "m", "--url", "http://h:99999"], "'http://h:99999' is no address of a server"),
        (["--model", "m", "--url", "http://[::1"], "'http://[::1' is no address of a server (Invalid port"),
        (["--model", "m", "--url", "x:y:z", "--backend", "ollama"], "expected one such as 127.0.0.1:11434"),
        (["--model", "m", "--url", "http://u:secret@h/v1"], "give a key in the environment, as CPUFT_API_KEY"),
        (["--model", "m", "--url", "http://h/v1?key=secret"], "give a key in the environment, as CPUFT_API_KEY"),
        (["--model", " ", "--url", NOBODY], "--model is empty"),
        (["--model", "m", "--backend", "openai"], "--backend openai needs --url"),
        (["--model", "m", "--url", NOBODY, "--backend", "llama.cpp"], "--url is for --backend ollama or openai"),
        (["--url", NOBODY], "need a --model"),
        (["--model", "m", "--url", NOBODY, "--adapter", "a"], "--adapter is for a model that cpuft itself runs"),
        (["--model", "m", "--backend", "ollama", "--threads", "2"], "--threads is for a model that cpuft itself runs"),
    ],
)
def test_mistakes(options: list[str], sentence: str, folder: Path, tmp_path: Path) -> None:
    """`cpuft eval` has --adapter and --threads; `cpuft data concepts` does without a model."""
    if {"--adapter", "--threads"} & {*options}:
        done = run("eval", "run", "--data", demo.TEST, *options)
    else:
        done = run("data", "concepts", "--role", folder, "--output", tmp_path / "c.jsonl", *options)
    assert (done.exit_code, done.output.count("\n")) == (2, 1), done.output
    assert sentence in done.output
    assert "secret" not in done.output


def test_a_model_must_be_named_where_one_is_needed(tmp_path: Path) -> None:
    for command in (
        ("data", "generate", "--concepts", "c", "--output", tmp_path / "o"),
        ("eval", "run", "--data", demo.TEST),
    ):
        done = run(*command, "--url", NOBODY)
        assert done.exit_code == 2
        assert "Missing option '--model'" in done.output


def test_a_server_of_the_users_that_fails_in_mid_run(
    clerk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came before is kept, the rest is told, and the same command goes on; an empty answer is none."""
    monkeypatch.setattr(openai_server, "FIRST_WAIT", 0.001)
    broken = [(500, {"error": "out of memory"})] * (openai_server.RETRIES + 1)
    concepts, raw = write_concepts(tmp_path / "c.jsonl", clerk, 4), tmp_path / "raw.jsonl"
    asked = ("--role", clerk, "--model", "m", "--concepts", concepts, "--output", raw, "--parallel", 1, "--json")
    with serving(reply(SUMMARY), reply(SUMMARY), *broken, reply(" ")) as (url, _):
        done = run("data", "generate", *asked, "--url", url)
    assert done.exit_code == 0, done.output
    assert "out of memory (status 500)" in done.stderr
    assert "the answer is empty" in done.stderr
    assert json.loads(done.stdout) == {"made": 2, "kept": 0, "failed": 2, "output": str(raw)}
    before = raw.read_bytes()
    with serving(*broken, *broken) as (url, _):
        done = run("data", "generate", *asked, "--url", url)
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert "none of 2 questions was answered" in done.output
    assert raw.read_bytes() == before
    with serving(reply(SUMMARY), reply(SUMMARY)) as (url, _):
        done = run("data", "generate", *asked, "--url", url)
    assert json.loads(done.stdout)["kept"] == 2
    records = read_records(raw, read_role(clerk))
    assert [read_answer(record.answer) for record in records] == [ANSWER] * 4
    assert raw.read_bytes().startswith(before)


def test_concepts_that_nobody_answers_are_an_error(folder: Path, tmp_path: Path) -> None:
    refused = (404, {"error": {"message": "no model m"}})
    with serving(*[refused] * 200) as (url, _):
        asked = ("--role", folder, "--model", "m", "--url", url, "--num", 3, "--output", tmp_path / "c.jsonl")
        done = run("data", "concepts", *asked)
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert "no model m (status 404)" in done.output
    assert not (tmp_path / "c.jsonl").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the server is found below /proc")
def test_a_server_that_is_killed_in_mid_run_costs_no_answer(clerk: Path, tmp_path: Path) -> None:
    count = 40
    concepts, raw = write_concepts(tmp_path / "c.jsonl", clerk, count), tmp_path / "raw.jsonl"
    asked = ("--model", demo.BASE_MODEL, "--concepts", concepts, "--output", raw, "--max-tokens", 200, "--json")
    command = [sys.executable, "-m", "cpuft", "data", "generate", "--role", clerk, *asked]
    with subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        while not (raw.exists() and raw.read_bytes().count(b"\n") >= 3):
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(_server_of(process.pid), signal.SIGKILL)
        before = raw.read_bytes()
        output, _ = process.communicate(timeout=120)
    assert before.count(b"\n") < count - 4, "it was killed too late to matter"
    assert process.returncode == 0
    assert json.loads(output) == {"made": count, "kept": 0, "failed": 0, "output": str(raw)}
    records = read_records(raw, read_role(clerk))
    assert len({record.asked for record in records}) == len(records) == count
    assert all(record.facts["finished"] for record in records)
    assert raw.read_bytes().startswith(before[: before.rfind(b"\n") + 1])


def _server_of(pid: int) -> int:
    """The process of the llama-server that a process started."""
    children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    (server,) = (
        int(child) for child in children.split() if Path(f"/proc/{child}/comm").read_text() == "llama-server\n"
    )
    return server
