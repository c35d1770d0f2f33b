"""Proves that `hf:` references work against a hub: download, cache, resumption, and a sentence for each refusal."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub.constants import DOWNLOAD_CHUNK_SIZE

from cpuft.errors import ModelError
from cpuft.sources.hub import HubFile, parse_file
from tests.conftest import RunCpuft
from tests.gguf.tiny import write_tiny_model
from tests.sources.hub_server import Hub, serve_hub

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


@pytest.mark.parametrize(("ended_by", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_download_whose_process_was_ended_goes_on_where_it_stopped(
    ended_by: signal.Signals, code: int, run_cpuft: RunCpuft, hub: Hub, tmp_path: Path
) -> None:
    content = os.urandom(3 * DOWNLOAD_CHUNK_SIZE)
    hub.files[REPO]["large.gguf"] = content
    hub.stalls = 1
    environment = {name: value for name, value in (os.environ | hub.environment(tmp_path)).items() if value is not None}
    pull = ["models", "pull", f"hf:{REPO}/large.gguf", "--json"]
    process = subprocess.Popen([sys.executable, "-m", "cpuft", *pull], env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    # Half of the file comes, of which whole chunks are written.
    while not any(path.stat().st_size == DOWNLOAD_CHUNK_SIZE for path in tmp_path.glob("hub/*/blobs/*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(ended_by)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert b"Traceback" not in said
    assert not list(tmp_path.rglob("*.gguf"))  # nothing that looks whole

    hub.requests.clear()
    done = run_cpuft(*pull, env=hub.environment(tmp_path))
    assert Path(json.loads(done.stdout)[0]["path"]).read_bytes() == content
    assert f"GET /{REPO}/resolve/main/large.gguf bytes={DOWNLOAD_CHUNK_SIZE}-" in hub.requests
    assert not list(tmp_path.rglob("*.incomplete"))


def test_a_part_that_is_damaged_is_never_taken_for_whole(run_cpuft: RunCpuft, hub: Hub, tmp_path: Path) -> None:
    content = hub.files[REPO][FILE]
    blobs = tmp_path / "hub" / "models--org--tiny-GGUF" / "blobs"
    blobs.mkdir(parents=True)
    part = blobs / f"{hashlib.sha256(content).hexdigest()}.cpuft.incomplete"
    part.write_bytes(bytes(1000))
    done = run_cpuft("models", "pull", REFERENCE, env=hub.environment(tmp_path))
    assert done.returncode == 2
    assert "what was fetched is damaged" in done.stderr.splitlines()[-1]
    part.write_bytes(bytes(len(content) + 1))
    done = run_cpuft("models", "pull", REFERENCE, "--json", env=hub.environment(tmp_path))
    assert Path(json.loads(done.stdout)[0]["path"]).read_bytes() == content


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
