"""A running Ollama: the only place that speaks to it, and that turns its failures into sentences."""

import datetime
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import ollama

from cpuft.chat.message import Message
from cpuft.errors import OllamaError, ResourceError
from cpuft.machine.loopback import is_loopback
from cpuft.machine.progress import Progress, silent
from cpuft.ollama.names import OllamaName, parse_name

USUAL = "127.0.0.1:11434"
POLL_SECONDS = 0.05
UNLOAD_SECONDS = 5.0


class Server(ollama.Client):
    """Ollama's own client with progress, and with the one call that its package lacks.

    The package knows nothing of `_debug_render_only`, so `rendered` sends the request by the package's own means.
    """

    def __init__(
        self, host: str | None, progress: Progress, timeout: float | None = None, option: str = "--host"
    ) -> None:
        # No proxy stands between two programs of one machine.
        super().__init__(
            host, transport=_ProgressTransport(progress), timeout=timeout, trust_env=not is_loopback(_address(host))
        )
        self.progress, self.address, self._option = progress, _address(host), option

    def has(self, name: OllamaName) -> bool:
        """Whether the server has a model of this name."""
        return self._found(name) is not None

    def digest(self, name: OllamaName) -> str:
        """The digest of a model's manifest, of which `ollama list` shows the beginning. Raises OllamaError."""
        found = self._found(name)
        if found is None:
            raise OllamaError(
                f"{name}: the Ollama at {self.address} has no such model: pull it with `ollama pull {name}`, or take "
                "one that `ollama list` shows"
            )
        return (found.digest or "").removeprefix("sha256:")

    def _found(self, name: OllamaName) -> "ollama.ListResponse.Model | None":
        try:
            models = self.list().models
        except (ValueError, TypeError) as error:
            raise OllamaError(
                f"what answers at {self.address} is no Ollama: say with {self._option} where it listens"
            ) from error
        return next((entry for entry in models if entry.model and parse_name(entry.model).is_same(name)), None)

    def version(self) -> str:
        """The server's release."""
        answer: Any = self._request_raw("GET", "/api/version").json()  # type: ignore[no-untyped-call]
        return str(answer["version"])

    def fetch(self, name: OllamaName, alias: OllamaName | None) -> None:
        """Lets the server pull a model into its store; an interrupted pull goes on where it stopped.

        alias: a second name, which the model gets unless there is a model of that name.
        """
        try:
            for state in self.pull(str(name), insecure=name.plain_http, stream=True):
                if state.total:
                    self.progress((state.digest or "")[7:19], state.completed or 0, state.total)
        except ollama.ResponseError as error:
            if "does not exist" not in error.error:
                raise
            raise OllamaError(
                f"ollama:{name}: its registry has no such model: check the name at https://ollama.com/search"
            ) from error
        if alias is not None and not self.has(alias):
            self.copy(str(name), str(alias))

    def make(
        self,
        name: str,
        files: Mapping[str, str],
        template: str | None,
        system: str | None,
        parameters: Mapping[str, Any],
    ) -> None:
        """Creates a model from blobs that the server has: file name -> digest."""
        states = self.create(
            name, files=dict(files), template=template, system=system, parameters=dict(parameters), stream=True
        )
        for state in states:
            self.progress(state.status or "", 0, 0)
        self._unload(name)

    def _unload(self, name: str) -> None:
        """Ends the process that runs the model's file, if one does.

        It was started for the template that the model, or another one of the same file, had before, and Ollama goes on
        using it: a prompt then comes out as ChatML, whatever the file's template says.
        """
        self.generate(name, keep_alive=0)
        deadline = time.monotonic() + UNLOAD_SECONDS
        while time.monotonic() < deadline and any(_expired(entry.expires_at) for entry in self.ps().models):
            time.sleep(POLL_SECONDS)

    def rendered(self, name: str, messages: Sequence[Message]) -> str | None:
        """The prompt that the model would be asked; None from a release that does not tell."""
        body = {"model": name, "messages": list(messages), "stream": False, "_debug_render_only": True}
        # A release that ignores the key answers instead: with one token, then.
        body["options"] = {"num_predict": 1}
        answer: Any = self._request_raw("POST", "/api/chat", json=body).json()  # type: ignore[no-untyped-call]
        debug = answer.get("_debug_info")
        return str(debug["rendered_template"]) if isinstance(debug, dict) else None


@contextmanager
def connection(
    host: str | None = None,
    progress: Progress = silent,
    *,
    about: str = "",
    timeout: float | None = None,
    option: str = "--host",
) -> Iterator[Server]:
    """A server that answers, and its failures as OllamaError, or ResourceError where its disk is full.

    host:    None takes OLLAMA_HOST, or Ollama's usual place.
    about:   what the sentences begin with, such as a reference to a model.
    timeout: seconds; None waits for as long as it takes.
    option:  of the command that was given the host.
    """
    before = f"{about}: " if about else ""
    try:
        connected = Server(host, progress, timeout, option)
    except ValueError as error:
        raise OllamaError(
            f"{before}{host or os.environ.get('OLLAMA_HOST')!r} is no address of an Ollama, expected one such as "
            f"127.0.0.1:11434 in {option if host else 'OLLAMA_HOST'} ({error})"
        ) from error
    with connected as server:
        try:
            yield server
        except (ConnectionError, httpx.ConnectError) as error:
            raise OllamaError(
                f"{before}no Ollama answers at {connected.address} ({error}): start it with `ollama serve`, or say "
                f"where it listens with {option if host else 'OLLAMA_HOST'}"
            ) from error
        except httpx.TransportError as error:
            raise OllamaError(f"{before}the connection to Ollama broke off ({error}): run it again") from error
        except ollama.ResponseError as error:
            said = " ".join(error.error.split())[:300]
            if "no space left" in said:
                raise ResourceError(
                    f"{before}the disk of Ollama's store is full: free some space and run it again"
                ) from error
            raise OllamaError(f"{before}Ollama refused the request: {said} (status {error.status_code})") from error


def _address(host: str | None) -> str:
    return host or os.environ.get("OLLAMA_HOST", "").strip() or USUAL


class _ProgressTransport(httpx.HTTPTransport):
    """Tells how much of a file has been uploaded."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request; the body of a large one is counted on its way."""
        total = int(request.headers.get("content-length", 0))
        if "/api/blobs/" in request.url.path and isinstance(request.stream, httpx.SyncByteStream):
            request.stream = _CountedStream(request.stream, lambda done: self._progress("uploading", done, total))
        return super().handle_request(request)


class _CountedStream(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, told: Callable[[int], object]) -> None:
        self._stream, self._told = stream, told

    def __iter__(self) -> Iterator[bytes]:
        done = 0
        for chunk in self._stream:
            yield chunk
            done += len(chunk)
            self._told(done)


def _expired(when: datetime.datetime | None) -> bool:
    return when is not None and when <= datetime.datetime.now(datetime.UTC)
