"""Brings a GGUF model into Ollama and proves that Ollama asks it as it was trained.

After the import Ollama is asked for the prompts that it would send, and these must be the training text to the last
space. It may render with the Go template it was given, with the Jinja template of the file, or with a Go template of
its own that it found similar; which one depends on its release and on the model, so only the prompts tell.
"""

import dataclasses
import datetime
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import ollama

from cpuft.data.examples import common_prefix
from cpuft.data.records import ExampleError
from cpuft.data.template import ChatTemplate, Message, chat_template_of
from cpuft.deploy.families import adds_bos
from cpuft.deploy.modelfile import Modelfile, Parameters, modelfile_of, read_model
from cpuft.errors import OllamaError
from cpuft.models.gguf import Gguf

# host/namespace/model:tag; all but the model may be left out
NAME = re.compile(r"((\w[\w.:-]{0,349}/)?\w[\w-]{0,79}/)?\w[\w.-]{0,79}(:\w[\w.-]{0,79})?", re.ASCII)
QUESTION = (
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "Two:\n\n- 1 + 1 = 2 ✓"},
    {"role": "user", "content": 'Say it in "Español".'},
    {"role": "assistant", "content": "Dos."},
    {"role": "user", "content": "Why?"},
)
SYSTEM = {"role": "system", "content": "Be terse.\nBe <kind>."}
# With a system prompt and without, one turn and three.
CONVERSATIONS: tuple[tuple[Message, ...], ...] = (QUESTION[:1], (SYSTEM, *QUESTION[:1]), QUESTION, (SYSTEM, *QUESTION))

POLL_SECONDS = 0.05
UNLOAD_SECONDS = 5.0
# What has been done: a phase, bytes done, bytes in all (0: unknown).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ImportJob:
    """What to import.

    system:  the system prompt of conversations that have none; None keeps the model's own default.
    host:    where Ollama listens; None takes OLLAMA_HOST, or Ollama's default.
    replace: whether a model of this name may be replaced.
    """

    model: Path
    name: str
    system: str | None = None
    parameters: Parameters = field(default_factory=Parameters)
    host: str | None = None
    replace: bool = False


@dataclass(frozen=True)
class Imported:
    """An import that succeeded.

    family:    the chat format; None for one that cpuft neither knows nor could derive.
    template:  whether Ollama was given a Go template.
    n_prompts: how many prompts of Ollama's were compared with the training text, and equal to it; 0: see `note`.
    """

    name: str
    family: str | None
    template: bool
    n_bytes: int
    n_prompts: int
    note: str | None = None


def import_model(job: ImportJob, progress: Progress = lambda *_: None) -> Imported:
    """Imports a model and compares Ollama's prompts with the training text.

    Raises OllamaError where Ollama is not there or refuses, or where its prompts differ (the model stays imported);
    ModelError where the file cannot be used.
    """
    if NAME.fullmatch(job.name) is None:
        raise OllamaError(f"{job.name!r} is no name for a model in Ollama, expected one such as qwen25-ba-finetuned:v1")
    model = read_model(job.model)
    modelfile = modelfile_of(model, system=job.system, parameters=job.parameters)
    with _connection(job.host, progress) as server:
        _check_free(server, job)
        progress("reading", 0, 0)
        digest = server.create_blob(job.model)
        fault = ""
        for attempt in _attempts(modelfile):
            server.make(job.name, attempt, digest)
            fault, n_prompts, note = _compare(server, job.name, attempt, model)
            if not fault:
                with_template = attempt.template is not None
                return Imported(job.name, attempt.family, with_template, model.file_size, n_prompts, note)
    raise OllamaError(f"{job.name} is imported, but Ollama asks it in other words than it was trained on: {fault}")


def _attempts(modelfile: Modelfile) -> Iterator[Modelfile]:
    """The settings to try in turn: with the family's Go template, then with what Ollama makes of the file's own."""
    yield modelfile
    if modelfile.template is not None:
        yield dataclasses.replace(modelfile, template=None)


# ---- The server -----------------------------------------------------------------------------------------------------


class _Server(ollama.Client):
    """Ollama's own client with progress, and with the one call that its package lacks.

    The package knows nothing of `_debug_render_only`, so `rendered` sends the request by the package's own means.
    """

    def __init__(self, host: str | None, progress: Progress) -> None:
        super().__init__(host, transport=_ProgressTransport(progress))
        self.progress, self.address = progress, host or "OLLAMA_HOST or its usual place, 127.0.0.1:11434"

    def make(self, name: str, modelfile: Modelfile, digest: str) -> None:
        """Creates the model from a blob that the server has."""
        states = self.create(
            name,
            files={modelfile.model.name: digest},
            template=modelfile.template,
            system=modelfile.system,
            parameters=modelfile.options,
            stream=True,
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
    def __init__(self, stream: httpx.SyncByteStream, told: Callable[[int], None]) -> None:
        self._stream, self._told = stream, told

    def __iter__(self) -> Iterator[bytes]:
        done = 0
        for chunk in self._stream:
            yield chunk
            done += len(chunk)
            self._told(done)


def _expired(when: datetime.datetime | None) -> bool:
    return when is not None and when <= datetime.datetime.now(datetime.UTC)


@contextmanager
def _connection(host: str | None, progress: Progress) -> Iterator[_Server]:
    """A server that answers; turns its failures into OllamaError."""
    try:
        connected = _Server(host, progress)
    except ValueError as error:
        raise OllamaError(
            f"{host or os.environ.get('OLLAMA_HOST')!r} is no address of an Ollama, expected one such as "
            f"127.0.0.1:11434 in {'--host' if host else 'OLLAMA_HOST'} ({error})"
        ) from error
    with connected as server:
        try:
            yield server
        except (ConnectionError, httpx.TransportError) as error:
            raise OllamaError(
                f"no Ollama answers at {connected.address} ({error}): "
                "start it with `ollama serve`, or say with --host where it listens"
            ) from error
        except ollama.ResponseError as error:
            said = " ".join(error.error.split())[:300]
            raise OllamaError(f"Ollama refused the request: {said} (status {error.status_code})") from error


def _check_free(server: _Server, job: ImportJob) -> None:
    try:
        models = server.list().models
    except (ValueError, TypeError) as error:
        raise OllamaError(f"what answers at {server.address} is no Ollama: say with --host where it listens") from error
    taken = any(_same(job.name, entry.model or "") for entry in models)
    if taken and not job.replace:
        raise OllamaError(f"Ollama already has a model {job.name}: choose another name, or replace it with --replace")


def _same(name: str, listed: str) -> bool:
    """Whether a name as a user writes it is one that Ollama lists, which has a tag and knows no upper case."""
    tagged = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    return tagged.casefold() == listed.casefold()


# ---- The comparison -------------------------------------------------------------------------------------------------


def _compare(server: _Server, name: str, modelfile: Modelfile, model: Gguf) -> tuple[str, int, str | None]:
    """Ollama's prompts beside the training text: what differs ("" for nothing), how many were compared, and a note."""
    template = chat_template_of(model, datetime.date.today())
    if template is None:
        return "", 0, "the file has no chat template, so there is no training text to compare with Ollama's prompts"
    n_prompts = 0
    for n, messages in enumerate(CONVERSATIONS):
        server.progress(f"comparing prompts ({n + 1} of {len(CONVERSATIONS)})", 0, 0)
        asked = messages if modelfile.system is None or messages[0] is SYSTEM else _with_system(modelfile, messages)
        try:
            expected = template.render(asked, answer=True)
        except ExampleError:
            continue  # then it refuses such a conversation in training, too
        rendered = server.rendered(name, messages)
        if rendered is None:
            return "", 0, "this release of Ollama does not show its prompts, so they were not compared"
        if rendered not in _tokenized_alike(model, template, expected):
            return _difference(expected, rendered), n_prompts, None
        n_prompts += 1
    return "", n_prompts, None if n_prompts else "the chat template refuses plain conversations, so none was compared"


def _with_system(modelfile: Modelfile, messages: Sequence[Message]) -> Sequence[Message]:
    return [{"role": "system", "content": modelfile.system}, *messages]


def _tokenized_alike(model: Gguf, template: ChatTemplate, text: str) -> set[str]:
    """The texts that become the same tokens: where llama.cpp adds the BOS itself, the prompt must not begin with it."""
    bare = text.removeprefix(template.bos_token)
    adds = adds_bos(model)
    return {text, bare} if adds is None else {bare if adds else text}


def _difference(expected: str, rendered: str) -> str:
    """Where two texts part, in a few words."""
    start = max(0, common_prefix(expected, rendered) - 10)
    return f"it says {rendered[start : start + 60]!r} where the training text has {expected[start : start + 60]!r}"
