"""Answers from llama.cpp's own llama-server, started for one GGUF file on a free loopback port.

The server renders the conversation with the chat template stored in the file. It listens on 127.0.0.1 only, asks for a
key that only this process knows, and dies with this process.
"""

import contextlib
import re
import secrets
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from cpuft import toolchain
from cpuft.adapters.adapter import check_base, read_adapter
from cpuft.backends.generator import GREEDY, Sampling
from cpuft.chat.message import Completion, Message
from cpuft.errors import CpuftError, ModelError
from cpuft.gguf.reader import read_gguf
from cpuft.machine.child_process import bound
from cpuft.machine.disk import disk_errors
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
CONTEXT = 4096  # tokens of a question and its answer
POLL_SECONDS = 0.02
STOP_SECONDS = 5.0  # between SIGTERM and SIGKILL


class LlamaServer:
    """A running llama-server; a Generator. Use it as a context manager.

    model, adapter: GGUF files; the adapter is applied at full scale.
    n_parallel:     requests that are answered at the same time; more wait their turn.
    n_ctx:          tokens of context for each of them, no more than the model was trained with.
    threads:        0 takes llama.cpp's choice.
    log:            where the server's log goes; by default a temporary file that vanishes with the server.
    timeout:        seconds that an answer may take, its time in the queue included.

    Start it from a thread that lives as long as the server should: the server ends with that thread.
    """

    def __init__(
        self,
        model: Path,
        *,
        adapter: Path | None = None,
        n_parallel: int = 1,
        n_ctx: int = CONTEXT,
        threads: int = 0,
        log: Path | None = None,
        start_timeout: float = 600.0,
        timeout: float = 3600.0,
    ) -> None:
        self.model, self._timeout = model, timeout
        base = read_gguf(model)
        if adapter is not None:
            check_base(read_adapter(adapter), base, adapter)
        n_ctx = min(n_ctx, base.integer(f"{base.architecture}.context_length", n_ctx))
        self.api_key = secrets.token_hex(16)
        arguments = ["--model", str(model.absolute())]
        arguments += ["--parallel", str(n_parallel), "--ctx-size", str(n_ctx * n_parallel)]
        arguments += ["--threads", str(threads)] if threads else []
        self._cleanup = contextlib.ExitStack()
        try:
            folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="cpuft-server-")))
            self.log = log if log is not None else folder / "llama-server.log"
            if adapter is not None:
                link = folder / "adapter.gguf"  # --lora splits what it is given at commas
                link.symlink_to(adapter.absolute())
                arguments += ["--lora", str(link)]
            self._process = self._start(arguments)
            self._cleanup.callback(self._end)
            self.url = self._wait_until_ready(start_timeout)
            key = {"Authorization": f"Bearer {self.api_key}"}
            # A proxy that the environment names must never see a request to our own loopback port.
            client = httpx.Client(base_url=self.url, headers=key, timeout=timeout, trust_env=False)
            self._client = self._cleanup.enter_context(client)
        except BaseException:
            self.close()
            raise

    def generate(self, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Completion:
        """One answer.

        Raises ModelError where the conversation is too long or the template refuses it, CpuftError where the server
        fails.
        """
        answer = self._post(
            "/v1/chat/completions",
            {
                "messages": list(messages),
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "min_p": 0.0,
                "seed": sampling.seed,
                "max_tokens": sampling.max_tokens,
            },
        )
        choice, timings = answer["choices"][0], answer["timings"]
        return Completion(
            text=choice["message"]["content"] or "",
            tokens=timings["predicted_n"],
            seconds=timings["predicted_ms"] / 1e3,
            prompt_tokens=answer["usage"]["prompt_tokens"],
            finished=choice["finish_reason"] == "stop",
        )

    def close(self) -> None:
        """Ends the server and waits until it is gone. May be called twice."""
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        server = toolchain.locate().tool("llama-server")
        environment = toolchain.tool_environment()
        environment["LLAMA_API_KEY"] = self.api_key  # not on the command line, where every user could read it
        with disk_errors(self.log), self.log.open("wb") as log:
            return subprocess.Popen(
                bound([server, *FIXED_ARGUMENTS, *arguments]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches us alone; we end the server
            )

    def _end(self) -> None:
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
        raise CpuftError(f"{self.model}: llama-server was not ready after {timeout:.0f} seconds")

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        try:
            response = self._client.post(path, json=body)
        except httpx.TimeoutException as error:
            raise CpuftError(f"{self.model}: llama-server gave no answer within {self._timeout:g} seconds") from error
        except (httpx.HTTPError, RuntimeError) as error:  # httpx raises the latter after `close`
            status = self._process.poll()
            ended = "" if status is None else f" and ended with status {status}"
            raise CpuftError(f"{self.model}: llama-server did not answer ({error}){ended}") from error
        if response.is_success:
            return response.json()
        said = _message(response)
        _, refused, why = said.rpartition(TEMPLATE_REFUSAL)
        if refused:
            raise ModelError(f"{self.model}: its chat template refuses the conversation: {why}")
        kind = ModelError if response.is_client_error else CpuftError
        raise kind(f"{self.model}: llama-server refused the request: {said}")

    def _last_error(self, status: int) -> str:
        """The first error of the log: it names the cause, the later ones its consequences."""
        text = self.log.read_text(errors="replace")
        errors = ERROR_LINE.findall(text)
        return errors[0].strip() if errors else f"exit status {status}"


def _message(response: httpx.Response) -> str:
    try:
        return " ".join(str(response.json()["error"]["message"]).split())
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
