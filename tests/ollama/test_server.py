"""Proves that the tests' Ollama is a real one: it imports a GGUF file, renders its prompt and answers from it."""

from pathlib import Path

from tests.gguf.tiny import write_tiny_model
from tests.ollama.server import OllamaServer


def test_it_imports_and_answers(ollama_server: OllamaServer, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.gguf")
    ollama_server.create("tiny", model, template="[{{ .Prompt }}]")
    client = ollama_server.client
    assert [entry.model for entry in client.list().models] == ["tiny:latest"]
    assert client.generate("tiny", "abc", options={"num_predict": 3}).eval_count == 3
    client.delete("tiny")
