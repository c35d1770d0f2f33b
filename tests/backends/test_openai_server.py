"""Any server that speaks OpenAI's chat completions answers; one that is busy is asked again; all else is a sentence."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cpuft.backends import openai_server
from cpuft.backends.generator import Sampling
from cpuft.backends.llama_server import LlamaServer
from cpuft.backends.openai_server import OpenAIServer
from cpuft.errors import BackendError, UserError
from tests.gguf.tiny import write_tiny_model

QUESTION = [{"role": "user", "content": "hello"}]
ANSWER = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 3}}


@contextmanager
def serving(*replies: tuple[int, object]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that gives these replies in turn, (status, JSON or text); and the headers of what it was asked."""
    asked: list[dict[str, str]] = []
    left = list(replies)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            asked.append(dict(self.headers))
            status, reply = left.pop(0)
            body = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
        server.shutdown()


def test_llama_server_through_its_openai_face(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.gguf")
    with LlamaServer(model, threads=1) as own:
        direct = own.generate(QUESTION, Sampling(max_tokens=12))
        with OpenAIServer(f"{own.url}/v1", "any", api_key=own.api_key) as server:
            answer = server.generate(QUESTION, Sampling(max_tokens=12))
        with OpenAIServer(f"{own.url}/v1", "any", api_key="wrong") as server, pytest.raises(UserError, match="API Key"):
            server.generate(QUESTION)
    assert (answer.text, answer.tokens, answer.finished) == (direct.text, 12, False)
    assert direct.prompt_read == direct.prompt_tokens > (answer.prompt_read or 0), "the second time it knows the prompt"
    assert (direct.prompt_seconds or 0) > 0


def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_server, "FIRST_WAIT", 0.001)
    busy = (429, {"error": {"message": "slow down"}})
    with serving(busy, (503, "starting"), (200, ANSWER)) as (url, asked), OpenAIServer(url, "m", api_key="k") as server:
        answer = server.generate(QUESTION)
    assert (answer.text, answer.prompt_seconds, answer.prompt_read) == ("yes", None, None), "it does not tell"
    assert [headers["Authorization"] for headers in asked] == ["Bearer k"] * 3


def test_one_that_stays_busy_is_an_error_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_server, "FIRST_WAIT", 0.001)
    with (
        serving(*[(500, {"error": "broken"})] * 3) as (url, asked),
        OpenAIServer(url, "m", retries=2) as server,
        pytest.raises(BackendError, match=r"/v1: the server failed: broken \(status 500\)"),
    ):
        server.generate(QUESTION)
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("reply", "error", "sentence"),
    [
        (
            (400, {"error": {"message": "no such\nmodel"}}),
            UserError,
            r"the request: no such model \(status 400\)",
        ),
        ((404, "<html>"), UserError, "status 404, '<html>'"),
        ((200, "<html>"), BackendError, "no chat server"),
        ((200, {"choices": []}), BackendError, "no chat completion"),
        ((200, []), BackendError, "no chat completion"),
    ],
)
def test_what_is_no_answer_is_asked_once(reply: tuple[int, object], error: type[Exception], sentence: str) -> None:
    with serving(reply) as (url, asked), OpenAIServer(url, "m") as server, pytest.raises(error, match=sentence):
        server.generate(QUESTION)
    assert len(asked) == 1


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_server, "FIRST_WAIT", 0.001)
    with OpenAIServer("http://127.0.0.1:9/v1", "m") as server, pytest.raises(BackendError, match="did not answer"):
        server.generate(QUESTION)
