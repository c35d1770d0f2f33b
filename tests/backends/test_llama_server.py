"""Proves that the real llama-server answers, keeps to loopback, asks for its key, and never outlives its owner."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import pytest

from cpuft.adapters.adapter import write_adapter
from cpuft.backends.generator import Generator, Request, Sampling, generate_all
from cpuft.backends.llama_server import LlamaServer
from cpuft.chat.message import Completion, Message
from cpuft.errors import AdapterError, CpuftError, ModelError
from tests.gguf.tiny import random_adapter, write_tiny_model

QUESTION: list[Message] = [{"role": "user", "content": "hello"}]
SHORT = Sampling(max_tokens=24)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("server") / "tiny.gguf")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[LlamaServer]:
    with LlamaServer(model, n_parallel=2, threads=1) as running:
        yield running


def test_answers_and_counts(server: LlamaServer) -> None:
    answer = server.generate(QUESTION, SHORT)
    assert answer.text
    assert answer.tokens == 24
    assert not answer.finished
    # the template's text, a token a byte or letter: <s>user\nhello</s><s>assistant\n
    assert answer.prompt_tokens > len("user\nhello" + "assistant\n")
    assert answer.tokens_per_second > 0


def test_greedy_answers_repeat(server: LlamaServer) -> None:
    assert server.generate(QUESTION, SHORT).text == server.generate(QUESTION, SHORT).text


def test_requests_in_parallel(server: LlamaServer) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: server.generate(QUESTION, SHORT), range(8)))
    assert [answer.tokens for answer in answers] == [24] * 8


def test_adapter_changes_the_answer(model: Path, server: LlamaServer, tmp_path: Path) -> None:
    path = tmp_path / "a, with a comma.gguf"
    write_adapter(path, random_adapter(model, rank=4), alpha=8, architecture="llama")
    with LlamaServer(model, adapter=path, threads=1) as adapted:
        assert adapted.generate(QUESTION, SHORT).text != server.generate(QUESTION, SHORT).text


def test_listens_on_loopback_and_asks_for_its_key(server: LlamaServer) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(server.url + "/v1/chat/completions", data=json.dumps({"messages": QUESTION}).encode())
    assert caught.value.code == 401
    caught.value.close()
    own = {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in (str(address) for address in own if not str(address).startswith("127.")):
        with pytest.raises(OSError), socket.create_connection((address, port), timeout=1):  # noqa: PT011
            pass


def test_a_conversation_that_does_not_fit(server: LlamaServer) -> None:
    with pytest.raises(ModelError, match=r"tiny\.gguf: llama-server refused the request: .*context"):
        server.generate([{"role": "user", "content": "x" * 2000}], SHORT)


def test_a_conversation_that_the_template_refuses(tmp_path: Path) -> None:
    source = (
        "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('not this') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    model = write_tiny_model(tmp_path / "m.gguf", n_layer=1, chat_template=source)
    with LlamaServer(model, threads=1) as server:
        assert server.generate(QUESTION, SHORT).tokens == 24
        with pytest.raises(ModelError, match=r"m\.gguf: its chat template refuses the conversation: not this$"):
            server.generate([{"role": "user", "content": "no"}], SHORT)


def test_a_server_that_hangs_is_not_waited_for(model: Path) -> None:
    with LlamaServer(model, threads=1, timeout=0.5) as server:
        assert server.generate(QUESTION, SHORT).tokens == 24
        os.kill(server._process.pid, signal.SIGSTOP)
        with pytest.raises(CpuftError, match=r"no answer within 0\.5 seconds"):
            server.generate(QUESTION, SHORT)
        os.kill(server._process.pid, signal.SIGCONT)


def test_bad_files_are_one_sentence(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        LlamaServer(tmp_path / "nothing.gguf")
    (tmp_path / "cut.gguf").write_bytes(model.read_bytes()[:-5000])
    with pytest.raises(ModelError, match="truncated"):
        LlamaServer(tmp_path / "cut.gguf")
    other = write_tiny_model(tmp_path / "other.gguf", n_embd=128)
    write_adapter(tmp_path / "a.gguf", random_adapter(other, rank=4), alpha=8, architecture="llama")
    with pytest.raises(AdapterError, match="another base model"):
        LlamaServer(model, adapter=tmp_path / "a.gguf")
    unknown = write_tiny_model(tmp_path / "unknown.gguf", architecture="perceptron")
    with pytest.raises(ModelError, match=r"unknown\.gguf: llama-server cannot load it: .*unknown model architecture"):
        LlamaServer(unknown)


def test_close_ends_the_process_and_its_log(model: Path, tmp_path: Path) -> None:
    server = LlamaServer(model, log=tmp_path / "server.log")
    process = server._process
    server.close()
    server.close()
    assert process.returncode is not None
    assert "model loaded" in (tmp_path / "server.log").read_text()
    with pytest.raises(CpuftError, match="did not answer"):
        server.generate(QUESTION, SHORT)


OWNER = """
import sys, time
from pathlib import Path
from cpuft.backends.llama_server import LlamaServer
server = LlamaServer(Path(sys.argv[1]))
print(server._process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_dies_when_its_owner_is_killed(model: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, model], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        os.kill(pid, 0)  # it runs
        owner.send_signal(signal.SIGKILL)
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail(f"llama-server {pid} outlived its owner")


def test_a_schema_binds(server: LlamaServer) -> None:
    """A random model writes what the schema wants, and nothing else."""
    schema = {
        "type": "object",
        "properties": {"id": {"type": "string", "pattern": "^FR[0-9]{3}$"}, "done": {"type": "boolean"}},
        "required": ["id", "done"],
        "additionalProperties": False,
    }
    answer = server.generate(QUESTION, Sampling(max_tokens=100, temperature=1.0, schema=schema))
    assert answer.finished
    jsonschema.validate(json.loads(answer.text), schema)


def test_a_server_that_is_killed_is_started_again(model: Path) -> None:
    """All that was in flight is answered, as if nothing had happened."""
    with LlamaServer(model, n_parallel=4, threads=1) as server:
        wanted = server.generate(QUESTION, Sampling(max_tokens=200)).text
        requests = [Request(QUESTION, Sampling(max_tokens=200))] * 12
        answers: dict[int, Completion | CpuftError] = {}
        for number, answer in generate_all(server, requests, 4):
            if not answers:
                os.kill(server._process.pid, signal.SIGKILL)
            answers[number] = answer
    assert sorted(answers) == list(range(12))
    assert all(isinstance(answer, Completion) and answer.finished is False for answer in answers.values())
    assert {answer.text for answer in answers.values() if isinstance(answer, Completion)} == {wanted}


def test_a_server_that_cannot_come_back_is_one_sentence(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "gone.gguf"
    copy.write_bytes(model.read_bytes())
    with LlamaServer(copy, threads=1) as server:
        copy.unlink()
        os.kill(server._process.pid, signal.SIGKILL)
        with pytest.raises(ModelError, match=r"gone\.gguf: llama-server cannot load it"):
            server.generate(QUESTION, SHORT)


def test_adapters_are_chosen_by_request_and_do_not_mix(model: Path, tmp_path: Path) -> None:
    """Each prompt in turn under each adapter and none: the answers are those of a server of its own."""
    paths: dict[str, Path] = {}
    for seed, name in enumerate(("one", "two")):
        paths[name] = tmp_path / f"{name}.gguf"
        write_adapter(paths[name], random_adapter(model, rank=4, seed=seed), alpha=8, architecture="llama")
    alone: dict[str | None, str] = {}
    for key in (None, *paths):
        with LlamaServer(model, adapter=paths.get(key or ""), threads=1) as server:
            alone[key] = server.generate(QUESTION, SHORT).text
    assert len(set(alone.values())) == 3
    with LlamaServer(model, adapters=paths, n_parallel=2, threads=1) as server:
        for key in ("one", "two", None, "two", "one", None):
            generator: Generator = server if key is None else server.adapted(key)
            assert generator.generate(QUESTION, SHORT).text == alone[key], key


def test_answers_in_flight_are_those_of_one_at_a_time(model: Path) -> None:
    asked = [[{"role": "user", "content": f"hello {i}"}] for i in range(24)]
    with LlamaServer(model, threads=1) as server:
        one_by_one = [server.generate(messages, SHORT).text for messages in asked]
    with LlamaServer(model, n_parallel=16, threads=1) as server:
        answers = dict(generate_all(server, [Request(messages, SHORT) for messages in asked], 16))
    assert [answers[i].text for i in range(24)] == one_by_one  # type: ignore[union-attr]


def test_requests_that_fail_do_not_stop_the_others(server: LlamaServer) -> None:
    requests = [Request([{"role": "user", "content": text}], SHORT) for text in ("a", "x" * 3000, "b")]
    answers = dict(generate_all(server, requests, 2))
    assert isinstance(answers[1], ModelError)
    assert isinstance(answers[0], Completion)
    assert isinstance(answers[2], Completion)
