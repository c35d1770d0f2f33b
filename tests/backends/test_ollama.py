"""A real Ollama answers as a Generator, and a schema binds it."""

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from cpuft import demo
from cpuft.backends.generator import Request, Sampling, generate_all
from cpuft.backends.ollama import OllamaBackend
from cpuft.chat.message import Completion
from cpuft.errors import OllamaError
from cpuft.ollama.importing import ImportJob, import_model
from tests.ollama.server import OllamaServer

QUESTION = [{"role": "user", "content": "Concept: a shop for tools"}]


@pytest.fixture(scope="module")
def imported(ollama_server: OllamaServer) -> Iterator[str]:
    """The bundled model in Ollama."""
    import_model(ImportJob(Path(demo.BASE_MODEL), "generator:v1", host=ollama_server.host))
    yield "generator:v1"
    ollama_server.client.delete("generator:v1")


def test_an_answer_and_what_it_took(ollama_server: OllamaServer, imported: str) -> None:
    with OllamaBackend(imported, host=ollama_server.host, n_ctx=512) as backend:
        answer = backend.generate(QUESTION, Sampling(max_tokens=16))
        assert (answer.tokens, answer.finished) == (16, False)
        assert answer.text
        assert answer.tokens_per_second > 0
        assert (answer.prompt_seconds or 0) > 0
        assert answer.prompt_read == answer.prompt_tokens
        assert backend.generate(QUESTION, Sampling(max_tokens=16)).text == answer.text


def test_a_schema_binds(ollama_server: OllamaServer, imported: str) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    with OllamaBackend(imported, host=ollama_server.host) as backend:
        answer = backend.generate(QUESTION, Sampling(max_tokens=64, schema=schema))
    jsonschema.validate(json.loads(answer.text), schema)


def test_several_in_flight_and_a_model_that_is_not_there(ollama_server: OllamaServer, imported: str) -> None:
    requests = [Request(QUESTION, Sampling(max_tokens=4))] * 4
    with OllamaBackend(imported, host=ollama_server.host) as backend:
        answers = dict(generate_all(backend, requests, 2))
    assert all(isinstance(answer, Completion) and answer.tokens == 4 for answer in answers.values())
    with OllamaBackend("none:v1", host=ollama_server.host) as backend, pytest.raises(OllamaError, match="none:v1: "):
        backend.generate(QUESTION)
