"""Proves that `hf:` references work against a hub: download, cache, resumption, and a sentence for each refusal."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub.constants import DOWNLOAD_CHUNK_SIZE

from cpuft.errors import ModelError
from cpuft.models.hub import HubFile, parse_file
from tests.conftest import RunCpuft
from tests.models.hub_server import Hub, serve_hub
from tests.models.tiny import write_tiny_model

REPO = "org/tiny-GGUF"
FILE = "tiny-f32.gguf"
REFERENCE = f"hf:{REPO}/{FILE}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_model(tmp_path_factory.mktemp("hub") / FILE).read_bytes()


@pytest.fixture
def hub(model: bytes) -> Iterator[Hub]:
    files = {FILE: model, "sub/tiny-q8_0.gguf": model, "big-00001-of-00002.gguf": b"", "README.md": b""}
    with serve_hub(Hub({REPO: files, "org/gated": {FILE: model}, "org/private": {FILE: model}})) as served:
        served.gated, served.private = {"org/gated"}, {"org/private"}
        yield served


def show(run_cpuft: RunCpuft, hub: Hub, home: Path, reference: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return run_cpuft("models", "show", reference, "--json", env=hub.environment(home) | env)


def test_a_file_is_downloaded_once(run_cpuft: RunCpuft, hub: Hub, model: bytes, tmp_path: Path) -> None:
    facts = json.loads(show(run_cpuft, hub, tmp_path, REFERENCE).stdout)
    assert Path(facts["path"]).read_bytes() == model
    assert Path(facts["path"]).is_relative_to(tmp_path)
    assert (facts["trainable"], facts["source"]["repo"]) == (True, REPO)
    hub.requests.clear()
    again = show(run_cpuft, hub, tmp_path, REFERENCE, HF_HUB_OFFLINE="1")
    assert json.loads(again.stdout) == facts
    assert hub.requests == []


def test_list_shows_what_the_cache_holds(run_cpuft: RunCpuft, hub: Hub, tmp_path: Path) -> None:
    environment = hub.environment(tmp_path) | {"OLLAMA_MODELS": str(tmp_path), "CPUFT_CACHE": str(tmp_path)}
    reference = f"hf:{REPO}/sub/tiny-q8_0.gguf"
    assert run_cpuft("models", "pull", reference, env=environment).returncode == 0
    listed = json.loads(run_cpuft("models", "list", "--json", cwd=tmp_path, env=environment).stdout)
    assert [(entry["reference"], entry["architecture"]) for entry in listed] == [(reference, "llama")]


def test_a_download_that_breaks_off_goes_on_where_it_stopped(run_cpuft: RunCpuft, hub: Hub, tmp_path: Path) -> None:
    content = os.urandom(3 * DOWNLOAD_CHUNK_SIZE)
    hub.files[REPO]["large.gguf"] = content
    hub.drops = 1
    done = run_cpuft("models", "pull", f"hf:{REPO}/large.gguf", "--json", env=hub.environment(tmp_path))
    assert Path(json.loads(done.stdout)[0]["path"]).read_bytes() == content
    download = f"GET /{REPO}/resolve/main/large.gguf"
    assert [request for request in hub.requests if request.startswith(download)] == [
        download,
        f"{download} bytes={DOWNLOAD_CHUNK_SIZE}-",  # half of the file came; huggingface_hub keeps whole chunks
    ]


REFUSED = {
    f"hf:{REPO}/typo.gguf": f"the repository has no such file; it has hf:{REPO}/sub/tiny-q8_0.gguf, {REFERENCE}",
    f"hf:{REPO}": f"names a repository, expected one of its GGUF files; it has hf:{REPO}/sub/tiny-q8_0.gguf",
    f"hf:{REPO}@v9/{FILE}": "the repository has no revision v9",
    f"hf:{REPO}/big-00001-of-00002.gguf": "one part of a model that is split into 2 files",
    f"hf:org/gated/{FILE}": "the repository is gated: accept its licence at http://127.0.0.1:",
    f"hf:org/private/{FILE}": "no such repository, or a private one",
    f"hf:org/none/{FILE}": "no such repository, or a private one",
}


def test_a_refusal_says_what_to_do(run_cpuft: RunCpuft, hub: Hub, tmp_path: Path) -> None:
    done = run_cpuft("models", "pull", *REFUSED, env=hub.environment(tmp_path))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == len(REFUSED)
    for line, (reference, sentence) in zip(done.stderr.splitlines(), REFUSED.items(), strict=True):
        assert line.startswith(f"Error: {reference}: ")
        assert sentence in line


def test_a_token_opens_what_is_closed(run_cpuft: RunCpuft, hub: Hub, tmp_path: Path) -> None:
    references = [f"hf:{repo}/{FILE}" for repo in ("org/gated", "org/private")]
    done = run_cpuft("models", "pull", *references, env=hub.environment(tmp_path) | {"HF_TOKEN": hub.token})
    assert done.returncode == 0, done.stderr


def test_without_a_network_one_sentence_says_so(run_cpuft: RunCpuft, hub: Hub, tmp_path: Path) -> None:
    with socket.socket() as unused:  # bound, but nobody listens: connections are refused
        unused.bind(("127.0.0.1", 0))
        hub.url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        done = show(run_cpuft, hub, tmp_path, REFERENCE)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {REFERENCE}: {hub.url} cannot be reached: connect to the network")
    assert len(done.stderr.splitlines()) == 1
    done = show(run_cpuft, hub, tmp_path, REFERENCE, HF_HUB_OFFLINE="1")
    assert "not fetched because HF_HUB_OFFLINE is set" in done.stderr


@pytest.mark.parametrize(
    "text", ["", "repo/file.gguf", "org/repo/../../file.gguf", "org/repo/file.bin", "org/repo name/file.gguf"]
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r"expected hf:ORG/REPO/FILE\.gguf"):
        parse_file(text)


def test_a_revision_may_be_named() -> None:
    assert parse_file("org/repo@v1.0/a/b.gguf") == HubFile("org/repo", "a/b.gguf", "v1.0")
    assert str(parse_file("org/repo@v1.0/b.gguf")) == "hf:org/repo@v1.0/b.gguf"
