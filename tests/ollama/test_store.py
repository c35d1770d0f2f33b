"""Proves that `ollama:` references find what a real Ollama has in its store, and say what to do where they do not."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpuft.errors import ModelError, OllamaError
from cpuft.ollama.names import OllamaName, parse_name
from cpuft.ollama.store import all_models, stores
from cpuft.sources.source import Source, resolve
from tests.conftest import RunCpuft
from tests.gguf.tiny import write_tiny_model
from tests.ollama.registry import serve_registry
from tests.ollama.server import OllamaServer

TEMPLATE = "[{{ .Prompt }}]"
NAMES = ("tiny:latest", "tiny:v2", "user/tiny:latest", "registry.example.com:5000/ns/tiny:q4")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("store") / "tiny.gguf")


@pytest.fixture(scope="module")
def filled(ollama_server: OllamaServer, model: Path) -> Iterator[OllamaServer]:
    """An Ollama that has one model under four names."""
    for name in NAMES:
        ollama_server.create(name, model, template=TEMPLATE, license="Do as you like.")
    yield ollama_server
    for name in NAMES:
        ollama_server.client.delete(name)


@pytest.fixture
def store(filled: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OLLAMA_MODELS", str(filled.models))
    return filled.models


@pytest.mark.parametrize(
    "text", ["tiny", "tiny:latest", "Tiny:V2", "library/tiny", "user/tiny", "registry.example.com:5000/ns/tiny:q4"]
)
def test_every_form_of_a_name_finds_the_file(text: str, store: Path, model: Path) -> None:
    source = resolve(f"ollama:{text}")
    assert source.path.read_bytes() == model.read_bytes()
    assert source.path.is_relative_to(store / "blobs")
    assert (source.facts["template"], source.facts["licence"]) == (TEMPLATE, "Do as you like.")
    assert source.notes == ()


def test_the_list_is_the_servers_own(store: Path, filled: OllamaServer) -> None:
    assert store == filled.models
    ours = {str(found.name) for found in all_models()}
    assert ours == {entry.model for entry in filled.client.list().models} >= set(NAMES)


def test_commands_take_the_reference(store: Path, run_cpuft: RunCpuft, tmp_path: Path) -> None:
    output = tmp_path / "small.gguf"
    done = run_cpuft("quantize", "--model", "ollama:tiny", "--type", "q8_0", "--output", output)
    assert done.returncode == 0, done.stderr
    shown = json.loads(run_cpuft("models", "show", "ollama:tiny", "--json").stdout)
    assert (shown["trainable"], shown["licence"], shown["source"]["store"]) == (True, "Do as you like.", str(store))
    assert output.stat().st_size < shown["file_bytes"]
    environment = {"HF_HOME": str(tmp_path)}
    listed = json.loads(run_cpuft("models", "list", "--json", cwd=tmp_path, env=environment).stdout)
    assert {f"ollama:{name}" for name in NAMES} <= {entry["reference"] for entry in listed if entry["trainable"]}


def test_an_absent_model_says_what_there_is_and_how_to_fetch_it(store: Path) -> None:
    with pytest.raises(ModelError) as failure:
        resolve("ollama:tiny:v3")
    assert str(failure.value) == (
        f"ollama:tiny:v3: not in Ollama's store ({store}), which has tiny:latest, tiny:v2: "
        "fetch it with `cpuft models pull ollama:tiny:v3`, or name the store with OLLAMA_MODELS"
    )


def test_pull_goes_through_the_server(filled: OllamaServer, run_cpuft: RunCpuft, model: Path) -> None:
    manifest = filled.models / "manifests" / parse_name("tiny").path
    environment = {"OLLAMA_HOST": filled.host, "OLLAMA_MODELS": str(filled.models), "NO_PROXY": "127.0.0.1"}
    with serve_registry(filled.models, manifest) as registry:
        name = f"http://{registry}/ns/pulled"
        references = [f"ollama:{name}", f"ollama:{name}:none"]
        done = run_cpuft("models", "pull", *references, "--json", env=environment)
    assert done.returncode == 2
    pulled, absent = json.loads(done.stdout)
    assert Path(pulled["path"]).read_bytes() == model.read_bytes()
    assert absent["path"] is None
    assert "check the name at https://ollama.com/search" in absent["error"]
    filled.client.delete(f"{registry}/ns/pulled")


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 2)])
def test_whoever_sits_at_a_terminal_may_pull_what_is_absent(
    answer: str, code: int, filled: OllamaServer, tmp_path: Path
) -> None:
    manifest = filled.models / "manifests" / parse_name("tiny").path
    environment = os.environ | {"OLLAMA_HOST": filled.host, "OLLAMA_MODELS": str(filled.models)}
    terminal, end = os.openpty()
    with serve_registry(filled.models, manifest) as registry, open(end, "rb+", buffering=0) as tty:
        command = [sys.executable, "-m", "cpuft", "quantize", "--model", f"ollama:http://{registry}/ns/{answer}"]
        command += ["--type", "q8_0", "--output", str(tmp_path / "small.gguf")]
        os.write(terminal, f"{answer}\n".encode())
        done = subprocess.run(
            command,
            env=environment | {"NO_PROXY": "127.0.0.1"},
            stdin=tty,
            stderr=tty,
            stdout=subprocess.PIPE,
            timeout=60,
        )
    said = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert done.returncode == code, said
    assert "not in Ollama's store" in said
    assert "Pull it now? [y/N]" in said
    assert (tmp_path / "small.gguf").exists() == (code == 0)
    if code == 0:
        filled.client.delete(f"{registry}/ns/{answer}")


def test_a_script_is_never_asked(store: Path, run_cpuft: RunCpuft, tmp_path: Path) -> None:
    done = run_cpuft("quantize", "--model", "ollama:tiny:v3", "--type", "q8_0", "--output", tmp_path / "small.gguf")
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: ollama:tiny:v3: not in Ollama's store ({store})")
    assert "Pull it now" not in done.stderr


def test_an_alias_is_a_second_name_and_never_replaces_a_model(
    filled: OllamaServer, run_cpuft: RunCpuft, model: Path, tmp_path: Path
) -> None:
    manifest = filled.models / "manifests" / parse_name("tiny").path
    environment = {"OLLAMA_HOST": filled.host, "OLLAMA_MODELS": str(filled.models), "NO_PROXY": "127.0.0.1"}
    entry = "{roles: [ba], parameters: 1, download_gb: 1, ram_gb: 1, licence: x, "
    taken = filled.models / "manifests" / parse_name("tiny:v2").path
    written = taken.stat().st_mtime_ns
    with serve_registry(filled.models, manifest) as registry:
        listed = [
            f"  - {entry}model: 'ollama:http://{registry}/ns/{alias}', alias: 'tiny:{alias}'}}\n"
            for alias in ("v2", "v9")
        ]
        (tmp_path / "list.yaml").write_text("candidates:\n" + "".join(listed))
        done = run_cpuft("models", "pull", "--candidates", tmp_path / "list.yaml", env=environment)
        assert done.returncode == 0, done.stderr
        again = run_cpuft("models", "pull", "--candidates", tmp_path / "list.yaml", "--dry-run", env=environment)
    shown = json.loads(run_cpuft("models", "show", "ollama:tiny:v9", "--json", env=environment).stdout)
    assert Path(shown["path"]).read_bytes() == model.read_bytes()
    assert taken.stat().st_mtime_ns == written
    assert again.stdout.endswith("0 of 2 models are not here yet: 0.0 GB to fetch\n")
    for name in (f"{registry}/ns/v2", f"{registry}/ns/v9", "tiny:v9"):
        filled.client.delete(name)


def test_pull_without_a_server_says_so(run_cpuft: RunCpuft) -> None:
    done = run_cpuft("models", "pull", "ollama:tiny", env={"OLLAMA_HOST": "127.0.0.1:9", "NO_PROXY": "127.0.0.1"})
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ollama:tiny: no Ollama answers at 127.0.0.1:9 (")


# ---- Stores that are not as Ollama left them: copies of a real one, changed -----------------------------------------


@pytest.fixture
def changed(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the real store, which OLLAMA_MODELS names."""
    shutil.copytree(store, tmp_path / "models")
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def edit(store: Path, **changes: object) -> None:
    """Changes the manifest of `tiny`."""
    path = store / "manifests" / parse_name("tiny").path
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def layers(store: Path) -> list[dict[str, object]]:
    manifest = json.loads((store / "manifests" / parse_name("tiny").path).read_text())
    assert isinstance(manifest["layers"], list)
    return manifest["layers"]


def model_layer(store: Path) -> dict[str, object]:
    return next(layer for layer in layers(store) if str(layer["mediaType"]).endswith(".model"))


def test_an_adapter_layer_is_reported(changed: Path) -> None:
    adapter = model_layer(changed) | {"mediaType": "application/vnd.ollama.image.adapter"}
    edit(changed, layers=[*layers(changed), adapter])
    source: Source = resolve("ollama:tiny")
    assert len(source.facts["adapters"]) == 1
    assert "Ollama applies 1 adapter(s) on top of this model" in source.notes[0]


def test_a_model_without_one_whole_file_is_refused(changed: Path) -> None:
    whole = layers(changed)
    edit(changed, layers=[layer for layer in whole if layer != model_layer(changed)])
    with pytest.raises(ModelError, match="has no GGUF file"):
        resolve("ollama:tiny")
    edit(changed, layers=[*whole, next(layer for layer in whole if str(layer["mediaType"]).endswith(".model"))])
    with pytest.raises(ModelError, match="split into 2 GGUF files"):
        resolve("ollama:tiny")
    edit(changed, layers=whole)
    blob = resolve("ollama:tiny").path
    blob.write_bytes(blob.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"has 1000 of \d+ bytes: fetch it again with `ollama pull tiny:latest`"):
        resolve("ollama:tiny")
    blob.unlink()
    with pytest.raises(ModelError, match="is missing"):
        resolve("ollama:tiny")


@pytest.mark.parametrize("content", ["", "no json", "[]", "[" * 100_000])
def test_a_damaged_manifest_is_one_sentence(content: str, changed: Path) -> None:
    (changed / "manifests" / parse_name("tiny").path).write_text(content)
    with pytest.raises(ModelError, match="Ollama's manifest is damaged: pull the model again"):
        resolve("ollama:tiny")
    assert {str(model.name) for model in all_models()} >= {"tiny:v2", "user/tiny:latest"}


@pytest.mark.parametrize("digest", ["sha256:../../../etc/passwd", "sha256:12", None, 7])
def test_a_digest_never_leads_out_of_the_store(digest: object, changed: Path) -> None:
    edit(changed, layers=[model_layer(changed) | {"digest": digest}])
    with pytest.raises(ModelError, match="has no GGUF file"):
        resolve("ollama:tiny")


# ---- Names and stores, without an Ollama ----------------------------------------------------------------------------


def test_names_are_read_as_ollama_reads_them() -> None:
    assert parse_name("a") == OllamaName("registry.ollama.ai", "library", "a", "latest")
    assert parse_name("u/a:b") == OllamaName("registry.ollama.ai", "u", "a", "b")
    assert parse_name("hf.co/org/repo:Q4_K_M") == OllamaName("hf.co", "org", "repo", "Q4_K_M")
    assert parse_name("http://localhost:5000/u/a") == OllamaName("localhost:5000", "u", "a", "latest", plain_http=True)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "its model is empty or not allowed"),
        ("a:", "its tag is empty"),
        ("../a", "its namespace is empty or not allowed"),
        ("u/..", "its model is empty or not allowed"),
        ("a:../../b", "its namespace is empty or not allowed"),
        ("a b", "its model is empty or not allowed"),
        ("h/u/a/b", "it has too many parts"),
    ],
)
def test_a_bad_name_says_what_is_wrong(text: str, fault: str) -> None:
    with pytest.raises(OllamaError, match=fault):
        parse_name(text)


def test_where_stores_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    own = tmp_path / ".ollama" / "models"
    assert own not in stores()
    own.mkdir(parents=True)
    assert stores()[0] == own
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    assert stores() == [tmp_path]
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "none"))
    with pytest.raises(ModelError, match="OLLAMA_MODELS names it"):
        stores()
