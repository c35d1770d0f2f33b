"""A real Ollama for tests: built once into cpuft's cache, run in a home, on a port and with a store of its own."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cpuft.machine import cache
from cpuft.machine.child_process import bound
from cpuft.machine.locks import waiting_lock

if TYPE_CHECKING:
    import ollama

# The release whose store, API and templates the tests hold us to.
PACKAGE = "github.com/ollama/ollama@v0.34.2"
LISTENING = re.compile(r"Listening on (127\.0\.0\.1:\d+)")
START_SECONDS = 60.0
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class OllamaServer:
    """A running server.

    host: 127.0.0.1:PORT.
    models: its store, what OLLAMA_MODELS names.
    client: connected to it; no proxy setting diverts it.
    """

    host: str
    models: Path
    client: "ollama.Client"

    def create(
        self,
        name: str,
        model: Path,
        *,
        template: str | None = None,
        license: str | None = None,
        system: str | None = None,
    ) -> None:
        """Imports a GGUF file under `name`; `template` is a Go template that stands in for the file's own."""
        files = {model.name: self.client.create_blob(model)}
        self.client.create(name, files=files, template=template, license=license, system=system)

    def rendered(self, name: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The prompt that the model would be asked, or why there is none. options: further keys of the request."""
        import httpx

        body = {
            "model": name,
            "messages": list(messages),
            "stream": False,
            "truncate": False,
            "_debug_render_only": True,
            **options,
        }
        answer = httpx.post(f"http://{self.host}/api/chat", json=body, timeout=60, trust_env=False).json()
        return str(answer.get("_debug_info", {}).get("rendered_template", answer))


@contextlib.contextmanager
def serve(folder: Path, lib_dir: Path) -> Iterator[OllamaServer]:
    """A server whose home and store lie in the empty `folder`; it ends with the block, and with this process.

    lib_dir: where llama-server is, for an Ollama that was built here.
    """
    import ollama  # here, so that an environment without it can still load the fixtures

    home, models, log = folder / "home", folder / "models", folder / "ollama.log"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OLLAMA_", "LLAMA_ARG_"))}
    environment |= {"HOME": str(home), "OLLAMA_HOST": "127.0.0.1:0", "OLLAMA_MODELS": str(models)}
    environment |= {"OLLAMA_NO_CLOUD": "1", "OLLAMA_NOPRUNE": "1"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            bound([program(lib_dir), "serve"]),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=home,
            start_new_session=True,  # so that what it starts can be ended with it
        )
    try:
        host = _address(process, log)
        with ollama.Client(host, trust_env=False) as client:
            yield OllamaServer(host, models, client)
    finally:
        _end(process)


def program(lib_dir: Path) -> Path:
    """The `ollama` to run: the pinned release where Go is, else the one that is installed; skips the test if neither.

    Where CI is set, a build that fails is a failure.
    """
    go, installed = shutil.which("go"), shutil.which("ollama")
    if go is None and installed is None:
        pytest.skip("neither Go (to build Ollama) nor ollama is installed")
    if go is None:
        assert installed is not None
        return Path(installed)
    root = cache.cache_dir() / "ollama" / cache.key_of(package=PACKAGE, llama=str(lib_dir))
    binary = root / "bin" / "ollama"
    with waiting_lock(root / "lock", lambda: None):
        if not binary.is_file():
            _build(go, root)
        link = root / "lib" / "ollama"  # Ollama starts the llama-server that it finds here
        if not link.exists():
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(lib_dir)
    return binary


def _build(go: str, root: Path) -> None:
    """Compiles the pinned release into root/bin, whole or not at all."""
    partial = root / "partial"
    environment = os.environ | {"CGO_ENABLED": "1", "GOBIN": str(partial), "GOTOOLCHAIN": "auto"}
    done = subprocess.run([go, "install", PACKAGE], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = f"{PACKAGE} could not be built: {done.stderr.strip()[-500:]}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    partial.replace(root / "bin")


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Where the server listens, once it does."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if found := LISTENING.search(log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.02)
    pytest.fail(f"Ollama did not start: {log.read_text(errors='replace')[-1000:]}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends the server, and then whatever it started and left behind."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
