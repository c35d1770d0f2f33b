"""Answers from llama.cpp's own llama-server, started for one GGUF file on a free loopback port.

The server renders the conversation with the chat template stored in the file. It listens on 127.0.0.1 only, asks for a
key that only this process knows, and dies with this process. One that dies before is started again: what was in flight
is asked again, nothing else is lost.
"""

import contextlib
import json
import os
import re
import secrets
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cpuft import toolchain
from cpuft.adapters.adapter import check_base, read_adapter
from cpuft.backends.generator import GREEDY, Generator, Sampling
from cpuft.backends.openai_server import ChatClient, chat_body, read_completion
from cpuft.chat.message import Completion, Message
from cpuft.errors import BackendError, ConfigError, CpuftError, ModelError, TooLongError, UserError
from cpuft.gguf.reader import read_gguf
from cpuft.machine.child_process import bound
from cpuft.machine.cpu import available_cpus
from cpuft.machine.disk import disk_errors
from cpuft.machine.memory import peak_rss_mb_of
from cpuft.toolchain.locate import LISTENING

ERROR_LINE = re.compile(r"^\S* ?E (.*)$", re.MULTILINE)  # "0.00.031.150 E srv  load_model: failed to load model"
TEMPLATE_REFUSAL = "Error: Jinja Exception: "  # before the words of a template's raise_exception
FIXED_ARGUMENTS = (
    *("--host", "127.0.0.1", "--port", "0"),  # any free port: the server says which
    *("--offline", "--no-ui", "--no-slots"),
    *("--fit", "off"),  # use the context that was asked for, or fail
    *("--cache-ram", "0"),  # no prompts kept beside the running ones: they may take 8 GiB
    "--skip-chat-parsing",  # the answer as the model wrote it
)
RESTARTS = 3  # of a server that dies, for one request
DYING_SECONDS = 1.0  # between a broken connection and the end of its process
CONTEXT = 4096  # tokens of a question and its answer
POLL_SECONDS = 0.02
STOP_SECONDS = 5.0  # between SIGTERM and SIGKILL


class LlamaServer:
    """A running llama-server; a Generator. Use it as a context manager.

    model:      a GGUF file.
    adapter:    one that every answer has, at full scale.
    adapters:   others by name, of which `adapted` chooses one for a request. All of them lie beside one base in memory.
    n_parallel: requests that are answered at the same time; more wait their turn.
    n_ctx:      tokens of context for each of them, no more than the model was trained with.
    threads:    0 takes llama.cpp's choice, or where a limit leaves fewer CPUs than the machine has, as many.
    log:        where the server's log goes; by default a temporary file that vanishes with the server.
    timeout:    seconds that an answer may take, its time in the queue included.

    Start it from a thread that lives as long as the server should: the server ends with that thread.
    """

    takes_grammar = True

    def __init__(
        self,
        model: Path,
        *,
        adapter: Path | None = None,
        adapters: Mapping[str, Path] | None = None,
        n_parallel: int = 1,
        n_ctx: int = CONTEXT,
        threads: int = 0,
        log: Path | None = None,
        start_timeout: float = 600.0,
        timeout: float = 3600.0,
    ) -> None:
        self.model, self._start_timeout, self._timeout = model, start_timeout, timeout
        base = read_gguf(model)
        files = [path for path in (adapter, *(adapters or {}).values()) if path is not None]
        for path in files:
            check_base(read_adapter(path), base, path)
        n_ctx = min(n_ctx, base.integer(f"{base.architecture}.context_length", n_ctx))
        self.api_key = secrets.token_hex(16)
        self._fixed, self._names = int(adapter is not None), list(adapters or {})
        self._arguments = ["--model", str(model.absolute())]
        self._arguments += ["--parallel", str(n_parallel), "--ctx-size", str(n_ctx * n_parallel)]
        usable = available_cpus()
        if threads or usable < (os.cpu_count() or 1):
            # llama.cpp counts the CPUs of the machine, and threads that share one wait for each other at every step.
            self._arguments += ["--threads", str(threads or usable)]
        self._lock, self._restarts, self._closed = threading.Lock(), 0, False
        self._cleanup = contextlib.ExitStack()
        try:
            folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="cpuft-server-")))
            self.log = log if log is not None else folder / "llama-server.log"
            for i, path in enumerate(files):
                link = folder / f"adapter-{i}.gguf"  # --lora splits what it is given at commas
                link.symlink_to(path.absolute())
                self._arguments += ["--lora", str(link)]
            self._cleanup.callback(self._end)
            self._start()
        except BaseException:
            self.close()
            raise

    def generate(self, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Completion:
        """One answer.

        Raises TooLongError, ModelError where the template refuses the conversation, BackendError where the server
        fails, be it started again.
        """
        return self._answer(messages, sampling, None)

    def adapted(self, name: str) -> Generator:
        """A Generator whose answers have the adapter of this name."""
        return _Adapted(self, self._names.index(name))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """What another of the server's endpoints answers, such as /apply-template. Raises as `ChatClient.post` does."""
        return self._client.post(path, body)

    @property
    def peak_rss_mb(self) -> float | None:
        """The most memory that the server has held so far, in MB, weights included; None where that is not known."""
        return peak_rss_mb_of(self._process.pid)

    def close(self) -> None:
        """Ends the server and waits until it is gone. May be called twice."""
        self._closed = True
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, messages: Sequence[Message], sampling: Sampling, chosen: int | None) -> Completion:
        body = {**chat_body(messages, replace(sampling, schema=None)), "top_k": sampling.top_k, "min_p": 0.0}
        if sampling.grammar is not None:
            body["grammar"] = sampling.grammar
        elif sampling.schema is not None:
            # As a grammar: with --skip-chat-parsing this release passes over a response_format without a word.
            body["grammar"] = _grammar(json.dumps(sampling.schema))
        if self._names:
            # Every adapter with its scale in every request, and no prompt of another: cached ones do not know theirs.
            scales = [1.0] * self._fixed + [float(i == chosen) for i in range(len(self._names))]
            body |= {"lora": [{"id": i, "scale": scale} for i, scale in enumerate(scales)], "cache_prompt": False}
        for attempt in range(RESTARTS + 1):
            client, began = self._client, time.monotonic()
            try:
                answer = client.post("/v1/chat/completions", body)
                return read_completion(answer, time.monotonic() - began, client.about)
            except CpuftError as error:
                _, refused, why = str(error).rpartition(TEMPLATE_REFUSAL)
                if refused:
                    said = f"its chat template refuses the conversation: {why.partition(' (status')[0]}"
                    raise ModelError(f"{self.model}: {said}") from error
                if isinstance(error, UserError):
                    kind = TooLongError if isinstance(error, TooLongError) else ModelError
                    raise kind(str(error).replace("the server", "llama-server", 1)) from error
                if attempt == RESTARTS or not self._is_renewed(client):
                    raise
        raise AssertionError

    def _is_dead(self) -> bool:
        """Whether the process ends now: the connection breaks a moment before."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(DYING_SECONDS)
        return self._process.poll() is not None

    def _is_renewed(self, client: ChatClient) -> bool:
        """Whether there is another server than this client's, which is started here where that one is dead.

        One at a time asks: a request that fails while another starts the server must not take it for alive and well.
        """
        with self._lock:
            if client is self._client and not self._closed and self._is_dead():
                client.close()
                self._start()
            return client is not self._client and not self._closed

    def _start(self) -> None:
        server = toolchain.locate().tool("llama-server")
        environment = toolchain.tool_environment()
        environment["LLAMA_API_KEY"] = self.api_key  # not on the command line, where every user could read it
        with disk_errors(self.log), self.log.open("wb") as log:
            self._process = subprocess.Popen(
                bound([server, *FIXED_ARGUMENTS, *self._arguments]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches us alone; we end the server
            )
        self.url = self._wait_until_ready(self._start_timeout)
        # A proxy that the environment names must never see a request to our own loopback port.
        self._client = ChatClient(
            self.url, about=f"{self.model}", api_key=self.api_key, timeout=self._timeout, trust_env=False
        )

    def _end(self) -> None:
        if hasattr(self, "_client"):
            self._client.close()
        if not hasattr(self, "_process"):
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_until_ready(self, timeout: float) -> str:
        """The server's URL. The server prints it once the model is loaded."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            status = self._process.poll()
            found = LISTENING.search(self.log.read_bytes())
            if status is not None:
                raise ModelError(f"{self.model}: llama-server cannot load it: {self._last_error(status)}")
            if found is not None:
                return found[1].decode()
            time.sleep(POLL_SECONDS)
        raise BackendError(f"{self.model}: llama-server was not ready after {timeout:.0f} seconds")

    def _last_error(self, status: int) -> str:
        """The first error of the log: it names the cause, the later ones its consequences."""
        text = self.log.read_text(errors="replace")
        errors = ERROR_LINE.findall(text)
        return errors[0].strip() if errors else f"exit status {status}"


@cache
def _grammar(schema: str) -> str:
    """llama.cpp's grammar (GBNF) for a JSON Schema, by the converter of the llama-cpp-python package."""
    toolchain.use_llama_cpp()
    from llama_cpp.llama_grammar import json_schema_to_gbnf  # it loads llama.cpp's libraries

    try:
        return str(json_schema_to_gbnf(schema))
    except Exception as error:  # the converter has no error of its own
        raise ConfigError(f"llama.cpp cannot hold a model to this JSON Schema: {error}") from error


class _Adapted:
    """A server's answers with one of its adapters."""

    takes_grammar = True

    def __init__(self, server: LlamaServer, chosen: int) -> None:
        self._server, self._chosen = server, chosen

    def generate(self, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Completion:
        """See `Generator`."""
        return self._server._answer(messages, sampling, self._chosen)
