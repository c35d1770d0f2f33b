"""Proves that the Modelfile is the specification's, and that a real `ollama create` reads it as it was meant."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cpuft.errors import ConfigError
from cpuft.gguf.reader import read_gguf
from cpuft.ollama.families import CHATML
from cpuft.ollama.modelfile import Modelfile, Parameters, modelfile_of, read_system
from cpuft.ollama.store import find_model
from cpuft.toolchain import Toolchain
from tests.ollama.formats import FORMATS
from tests.ollama.server import OllamaServer, program

(QWEN25,) = (format_ for format_ in FORMATS if format_.name == "Qwen2.5")
# The specification's Modelfile for Qwen2.5, without its FROM line.
SPECIFIED = '''TEMPLATE """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
"""

PARAMETER stop "<|im_start|>"
PARAMETER stop "<|im_end|>"
PARAMETER temperature 0.7
PARAMETER top_p 0.9
PARAMETER top_k 40
'''
# What it lacks: the end of an answer, without which a second turn reads on in the first, and what the model's own
# template says where a conversation has no system prompt.
ADDED = [
    "{{ .Response }}<|im_end|>",
    'SYSTEM """You are Qwen, created by Alibaba Cloud. You are a helpful assistant."""',
    "",
]


def write(folder: Path, system: str | None = None, **parameters: int) -> Modelfile:
    model = read_gguf(QWEN25.write(folder / "a model.gguf"))
    return modelfile_of(model, system=system, parameters=Parameters(**parameters))


def create(name: str, modelfile: Modelfile, folder: Path, server: OllamaServer, built: Toolchain) -> None:
    """Lets Ollama's own program read the Modelfile."""
    (folder / "Modelfile").write_text(modelfile.text(), encoding="utf-8")
    done = subprocess.run(
        [program(built.lib_dir), "create", name, "-f", folder / "Modelfile"],
        env={**os.environ, "OLLAMA_HOST": server.host, "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_specification_s_modelfile(tmp_path: Path) -> None:
    first, *lines = write(tmp_path).text().splitlines()
    assert first == f"FROM {tmp_path / 'a model.gguf'}"
    specified = iter(["", *SPECIFIED.splitlines()])
    expected = next(specified)
    added = []
    for line in lines:
        if line == expected:
            expected = next(specified, "nothing")
        else:
            added.append(line)
    assert expected == "nothing"
    assert added == ADDED


def test_parameters_that_were_given(tmp_path: Path) -> None:
    assert "PARAMETER num_ctx 8192\n" in write(tmp_path, num_ctx=8192).text()


@pytest.mark.parametrize("system", ['Say "yes".\n\n  Then {{ .Stop }}\t# stop\nPARAMETER seed 1 \\ ☃', '"', "a\\nb"])
def test_ollama_create_reads_it(system: str, tmp_path: Path, ollama_server: OllamaServer, built: Toolchain) -> None:
    modelfile = write(tmp_path, system=system, top_k=7)
    create("by-file:v1", modelfile, tmp_path, ollama_server, built)
    shown = ollama_server.client.show("by-file:v1")
    assert shown.modelfile is not None
    assert CHATML.template in shown.modelfile
    assert shown.parameters is not None
    parameters = sorted(line.split() for line in shown.parameters.splitlines())
    assert parameters == sorted(
        [["stop", '"<|im_start|>"'], ["stop", '"<|im_end|>"'], ["temperature", "0.7"], ["top_p", "0.9"], ["top_k", "7"]]
    )
    rendered = ollama_server.rendered("by-file:v1", [{"role": "user", "content": "a"}])
    ollama_server.client.delete("by-file:v1")
    assert rendered.startswith(f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\na<|im_end|>")


@pytest.mark.parametrize(
    ("system", "fault"), [('say """', 'holds """'), ("a\u00a0b", r"holds U\+00A0"), ("\u200d", r"holds U\+200D")]
)
def test_a_text_that_a_modelfile_cannot_hold(system: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"the system prompt {fault}.*without --modelfile-only"):
        write(tmp_path, system=system).text()
    with pytest.raises(ConfigError, match='the template holds """'):
        replace(write(tmp_path), template='"""').text()


def test_ollama_create_reads_stop_texts_with_quotes(
    tmp_path: Path, ollama_server: OllamaServer, built: Toolchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = ('"', '"}', 'a "b" c', "two\nlines", "[/INST]")
    create("stops", replace(write(tmp_path), stop=stops), tmp_path, ollama_server, built)
    monkeypatch.setenv("OLLAMA_MODELS", str(ollama_server.models))
    (parameters,) = find_model("stops").of_kind("params")
    found = json.loads(parameters.text())["stop"]
    ollama_server.client.delete("stops")
    assert found == list(stops)


@pytest.mark.parametrize(
    ("name", "fault"), [("a\u00a0b.gguf", r"holds U\+00A0"), ("a\nb.gguf", r"holds U\+000A"), ("a.gguf ", "rename")]
)
def test_a_path_that_a_modelfile_cannot_hold(name: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=fault):
        replace(write(tmp_path), model=tmp_path / name).text()


def test_a_system_prompt_s_file(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("\n Be terse. \n", encoding="utf-8")
    assert read_system(tmp_path / "s.txt") == "Be terse."
    (tmp_path / "b.txt").write_bytes(b"\xff")
    (tmp_path / "bom.txt").write_bytes("\ufeffBe terse.".encode())
    assert read_system(tmp_path / "bom.txt") == "Be terse."
    (tmp_path / "blank.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"blank\.txt: the file is empty, expected a system prompt"):
        read_system(tmp_path / "blank.txt")
    for name in ("b.txt", "nothing.txt"):
        with pytest.raises(ConfigError, match=rf"{name}: cannot read the system prompt"):
            read_system(tmp_path / name)
