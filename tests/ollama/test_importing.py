"""Proves that `cpuft import-ollama` imports into a real Ollama, compares its prompts, and fails in one sentence."""

import http.server
import json
import re
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cpuft.adapters.adapter import write_adapter
from cpuft.errors import ModelError, OllamaError
from cpuft.ollama.families import LLAMA3
from cpuft.ollama.importing import ImportJob, import_model
from tests.conftest import RunCpuft
from tests.gguf.tiny import CHAT_TEMPLATE, random_adapter, write_tiny_model
from tests.ollama.formats import FORMATS
from tests.ollama.server import OllamaServer
from tests.progress import Heard

BY_NAME = {format_.name: format_ for format_ in FORMATS}
QUESTION = [{"role": "user", "content": "Hi"}]


@pytest.fixture(autouse=True)
def _empty_store(ollama_server: OllamaServer) -> Any:
    yield
    for entry in ollama_server.client.list().models:
        ollama_server.client.delete(str(entry.model))


def test_the_command(run_cpuft: RunCpuft, ollama_server: OllamaServer, tmp_path: Path) -> None:
    model = BY_NAME["Qwen2.5"].write(tmp_path / "tuned.gguf")
    command = ["import-ollama", str(model), "--name", "qwen25-ba-finetuned:v1", "--host", ollama_server.host]
    done = run_cpuft(*command, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "name": "qwen25-ba-finetuned:v1",
        "family": "chatml",
        "template": True,
        "n_bytes": model.stat().st_size,
        "n_prompts": 4,
        "note": None,
    }
    assert [entry.model for entry in ollama_server.client.list().models] == ["qwen25-ba-finetuned:v1"]
    (tmp_path / "role.txt").write_text("You are a business analyst.\n", encoding="utf-8")
    replaced = run_cpuft(*command, "--replace", "--system-file", tmp_path / "role.txt", "--num-ctx", "256")
    assert replaced.returncode == 0, replaced.stderr
    assert "4 prompts equal the training text" in replaced.stdout
    rendered = ollama_server.rendered("qwen25-ba-finetuned:v1", QUESTION)
    assert rendered.startswith("<|im_start|>system\nYou are a business analyst.<|im_end|>\n<|im_start|>user\nHi<")
    assert "num_ctx                        256" in str(ollama_server.client.show("qwen25-ba-finetuned:v1").parameters)


def test_modelfile_only(run_cpuft: RunCpuft, tmp_path: Path) -> None:
    model = BY_NAME["Gemma 2"].write(tmp_path / "tuned.gguf")
    path = tmp_path / "Modelfile"
    done = run_cpuft("import-ollama", model, "--name", "g:v1", "--modelfile-only", path, "--top-k", "5")
    assert (done.returncode, done.stdout) == (0, f"{path}: ollama create g:v1 -f {path}\n")
    assert path.read_text(encoding="utf-8").endswith("PARAMETER top_k 5\n")


def test_what_a_modelfile_is_not_written_over_and_made_of(run_cpuft: RunCpuft, tmp_path: Path) -> None:
    model = BY_NAME["Qwen2.5"].write(tmp_path / "m.gguf")
    write_adapter(tmp_path / "a.gguf", random_adapter(model, rank=4), alpha=8, architecture="llama")
    mistakes = {
        (model, model): "that is the model itself",
        (model, tmp_path / "none" / "Modelfile"): "none: no such folder, expected an existing one for the Modelfile",
        (tmp_path / "a.gguf", tmp_path / "Modelfile"): "expected a model: merge it into its base with `cpuft merge`",
        ("hf:a/b", tmp_path / "Modelfile"): "hf:a/b: names a repository, expected one of its GGUF files",
    }
    before = model.read_bytes()
    for (source, path), sentence in mistakes.items():
        done = run_cpuft("import-ollama", source, "--name", "m", "--modelfile-only", path)
        assert (done.returncode, done.stdout) == (2, "")
        assert sentence in done.stderr
    assert model.read_bytes() == before
    assert not (tmp_path / "Modelfile").exists()


def test_a_model_out_of_ollama_s_store(run_cpuft: RunCpuft, ollama_server: OllamaServer, tmp_path: Path) -> None:
    ollama_server.create("bare", BY_NAME["Gemma 2"].write(tmp_path / "m.gguf"))
    command = ("import-ollama", "ollama:bare", "--name", "asked-right", "--host", ollama_server.host)
    done = run_cpuft(*command, env={"OLLAMA_MODELS": str(ollama_server.models)})
    assert done.returncode == 0, done.stderr
    assert "chat format gemma2, by a Go template; 4 prompts equal the training text" in done.stdout


@pytest.mark.parametrize("name", ["Phi-3", "Gemma 2", "SmolLM3"])
def test_formats_that_ollama_gets_wrong_by_itself(name: str, ollama_server: OllamaServer, tmp_path: Path) -> None:
    model = BY_NAME[name].write(tmp_path / "m.gguf")
    imported = import_model(ImportJob(model, "m", host=ollama_server.host))
    assert (imported.family, imported.template) == (BY_NAME[name].family.name, True)
    assert imported.n_prompts == 4


def test_an_unknown_format_is_derived(ollama_server: OllamaServer, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "m.gguf", n_layer=1, n_ctx=1024)
    imported = import_model(ImportJob(model, "m", system="Be terse.", host=ollama_server.host))
    assert (imported.family, imported.template, imported.n_prompts) == ("derived", True, 4)
    assert CHAT_TEMPLATE not in str(ollama_server.client.show("m").template)


def test_the_file_s_template_where_the_family_s_is_wrong(ollama_server: OllamaServer, tmp_path: Path) -> None:
    source = BY_NAME["SmolLM2"].jinja.replace("m.content", "m.content | replace('Español', 'Spanish')")
    model = write_tiny_model(tmp_path / "m.gguf", n_layer=1, n_ctx=1024, chat_template=source)
    imported = import_model(ImportJob(model, "m", host=ollama_server.host))
    assert (imported.family, imported.template, imported.n_prompts) == ("chatml", False, 4)


def test_a_bos_that_only_the_file_s_template_writes(ollama_server: OllamaServer, tmp_path: Path) -> None:
    model = BY_NAME["Llama 3"].write(tmp_path / "m.gguf", add_bos=False)
    imported = import_model(ImportJob(model, "m", host=ollama_server.host))
    assert (imported.family, imported.template, imported.n_prompts) == (None, False, 4)


def test_a_doubled_bos_is_another_prompt(
    ollama_server: OllamaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = BY_NAME["Llama 3"].write(tmp_path / "m.gguf")
    doubled = replace(LLAMA3, template="<|begin_of_text|>" + LLAMA3.template)
    monkeypatch.setattr("cpuft.ollama.modelfile.family_of", lambda _: doubled)
    imported = import_model(ImportJob(model, "m", host=ollama_server.host))
    assert (imported.template, imported.n_prompts) == (False, 4)


def test_other_prompts_are_a_failure(ollama_server: OllamaServer, tmp_path: Path) -> None:
    """Ollama finds this template similar to one that it has a Go template for, which translates nothing."""
    source = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | replace('Español', 'Spanish') + "
        "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    model = write_tiny_model(tmp_path / "m.gguf", n_layer=1, n_ctx=1024, chat_template=source)
    with pytest.raises(OllamaError, match=r"m is imported, but Ollama asks it in other words .*Español.*Spanish"):
        import_model(ImportJob(model, "m", host=ollama_server.host))
    assert [entry.model for entry in ollama_server.client.list().models] == ["m:latest"]


def test_a_model_without_a_chat_template(ollama_server: OllamaServer, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "m.gguf", n_layer=1, chat_template=None)
    imported = import_model(ImportJob(model, "m", host=ollama_server.host))
    assert imported.n_prompts == 0
    assert "no chat template" in str(imported.note)


def test_progress_counts_the_file(ollama_server: OllamaServer, tmp_path: Path) -> None:
    model = BY_NAME["Gemma 3"].write(tmp_path / "m.gguf")
    heard = Heard()
    import_model(ImportJob(model, "m", host=ollama_server.host), heard)
    uploads = [(done, total) for phase, done, total in heard.steps if phase == "uploading"]
    assert uploads[-1] == (model.stat().st_size, model.stat().st_size)
    assert [done for done, _ in uploads] == sorted(done for done, _ in uploads)
    assert heard.steps[0] == ("reading", 0, 0)
    assert heard.steps[-1] == ("comparing prompts (4 of 4)", 0, 0)


@pytest.mark.parametrize("name", ["", "a b", "a:b:c", "../a", "a/", ":v1", "a@b", "-a", "a" * 81, "a:" + "b" * 81])
def test_names_that_ollama_does_not_take(name: str, tmp_path: Path) -> None:
    with pytest.raises(OllamaError, match="is no name for a model"):
        import_model(ImportJob(BY_NAME["Qwen2.5"].write(tmp_path / "m.gguf"), name))


def test_names_that_ollama_takes(ollama_server: OllamaServer, tmp_path: Path) -> None:
    model = BY_NAME["Gemma 3"].write(tmp_path / "m.gguf")
    names = ["a.b_c-1", "me/a", "host.example:80/me/a:v1.0"]
    for name in names:
        assert import_model(ImportJob(model, name, host=ollama_server.host)).n_prompts == 4
        for taken in (name, name.upper()):
            with pytest.raises(OllamaError, match="already has a model"):
                import_model(ImportJob(model, taken, host=ollama_server.host))


def test_no_server_and_no_model(run_cpuft: RunCpuft, ollama_server: OllamaServer, tmp_path: Path) -> None:
    model = BY_NAME["Qwen2.5"].write(tmp_path / "m.gguf")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{free.getsockname()[1]}"
        done = run_cpuft("import-ollama", model, "--name", "m", "--host", closed)
    assert done.returncode == 2
    assert f"no Ollama answers at {closed}" in done.stderr
    assert "ollama serve" in done.stderr
    with pytest.raises(ModelError, match=r"none\.gguf: no such file"):
        import_model(ImportJob(tmp_path / "none.gguf", "m", host=ollama_server.host))


@pytest.mark.parametrize("host", ["nonsense:abc", "127.0.0.1:99999", "http://[::1"])
def test_an_address_that_is_none(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = BY_NAME["Qwen2.5"].write(tmp_path / "m.gguf")
    with pytest.raises(OllamaError, match=rf"'{re.escape(host)}' is no address of an Ollama.* in --host"):
        import_model(ImportJob(model, "m", host=host))
    monkeypatch.setenv("OLLAMA_HOST", host)
    with pytest.raises(OllamaError, match=rf"'{re.escape(host)}' is no address of an Ollama.* in OLLAMA_HOST"):
        import_model(ImportJob(model, "m"))


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"<html>", "what answers at .* is no Ollama: say with --host"),
        (b'{"a": 1}', "is no Ollama"),
        (b"[]", "is no O"),
    ],
)
def test_another_server_there(body: bytes, sentence: str, tmp_path: Path) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    model = BY_NAME["Qwen2.5"].write(tmp_path / "m.gguf")
    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.handle_request).start()
        with pytest.raises(OllamaError, match=sentence):
            import_model(ImportJob(model, "m", host=f"127.0.0.1:{server.server_port}"))


def test_what_ollama_refuses_is_quoted(ollama_server: OllamaServer, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "m.gguf", n_layer=1, architecture="perceptron")
    with pytest.raises(OllamaError, match="Ollama refused the request: "):
        import_model(ImportJob(model, "m", host=ollama_server.host))
