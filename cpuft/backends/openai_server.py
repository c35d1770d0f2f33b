"""Answers from any server that speaks OpenAI's chat completions: llama-server, vLLM, LM Studio, a provider's own."""

import random
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from cpuft.backends.generator import GREEDY, Sampling
from cpuft.chat.message import Completion, Message
from cpuft.errors import BackendError, CpuftError, ServerError, TooLongError, UserError
from cpuft.machine.loopback import is_loopback

TOO_LONG = {"exceed_context_size_error", "context_length_exceeded"}  # llama-server's word, and OpenAI's
RETRIES = 4  # of a request that may succeed later: the server is busy, restarts, or the network failed
FIRST_WAIT, MOST_WAIT = 0.5, 30.0  # seconds before a request is made again; the wait doubles each time
PROBE_SECONDS = 30.0  # that a server may take to say that it is there
KEY_VARIABLES = ("CPUFT_API_KEY", "OPENAI_API_KEY")  # of the environment, where commands find a key; the first counts
NO_ENTRY = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)


class ChatClient:
    """POSTs to a server and says in a sentence what went wrong.

    about:   what the sentences begin with: the model's file, or the server's address.
    timeout: seconds that an answer may take, its time in the server's queue included.
    """

    def __init__(
        self,
        url: str,
        *,
        about: str,
        api_key: str = "",
        timeout: float = 3600.0,
        retries: int = 0,
        trust_env: bool = True,
    ) -> None:
        self.about, self._timeout, self._retries = about, timeout, retries
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=url, headers=headers, trust_env=trust_env)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer's JSON.

        Raises UserError where the server refuses the request, BackendError where it does not answer or fails, after
        as many retries as there are.
        """
        for attempt in range(self._retries + 1):
            try:
                return self._once(path, body)
            except BackendError as error:
                if attempt == self._retries or not error.may_pass:
                    raise
                time.sleep(error.wait or min(MOST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.8, 1.2))
        raise AssertionError

    def probe(self, path: str) -> None:
        """Raises BackendError where no server answers a GET, UserError where it refuses the key. All else is well."""
        response = self._send("GET", path, None, PROBE_SECONDS)
        if response.status_code in NO_ENTRY:
            raise _refusal(self.about, response)

    def close(self) -> None:
        """Ends the connections."""
        self._http.close()

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float) -> httpx.Response:
        try:
            return self._http.request(method, path, json=body, timeout=timeout)
        except httpx.TimeoutException as error:
            raise BackendError(f"{self.about}: no answer within {timeout:g} seconds") from error
        except (httpx.HTTPError, RuntimeError) as error:  # httpx raises the latter after `close`
            raise BackendError(f"{self.about}: the server did not answer ({error})", may_pass=True) from error

    def _once(self, path: str, body: Mapping[str, Any]) -> Any:
        response = self._send("POST", path, body, self._timeout)
        if not response.is_success:
            raise _refusal(self.about, response)
        try:
            return response.json()
        except ValueError as error:
            raise BackendError(f"{self.about}: what answered is no chat server (it sent no JSON)") from error


class OpenAIServer:
    """A Generator behind a URL such as http://127.0.0.1:8080/v1. Use it as a context manager.

    model:   the name under which the server knows it.
    api_key: sent as a bearer token, where there is one.
    """

    def __init__(
        self, url: str, model: str, *, api_key: str = "", timeout: float = 600.0, retries: int = RETRIES
    ) -> None:
        self.model = model
        self._client = ChatClient(
            url, about=url, api_key=api_key, timeout=timeout, retries=retries, trust_env=not is_loopback(url)
        )

    def require_answer(self) -> None:
        """Raises ServerError where nobody answers at the URL, UserError where the key is refused: before all questions.

        Of servers that refuse a key only later, or have no list of models, no more is known than that they answer.
        """
        try:
            self._client.probe("models")
        except BackendError as error:
            raise ServerError(f"{error}: start it, or give another --url") from error

    def generate(self, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Completion:
        """See `Generator`. Raises ServerError where the server fails."""
        began = time.monotonic()
        try:
            answer = self._client.post("chat/completions", {"model": self.model, **chat_body(messages, sampling)})
            return read_completion(answer, time.monotonic() - began, self._client.about)
        except BackendError as error:
            raise ServerError(str(error)) from error

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def chat_body(messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
    """A request's body in OpenAI's words."""
    body: dict[str, Any] = {
        "messages": list(messages),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "max_tokens": sampling.max_tokens,
    }
    if sampling.schema is not None:
        schema = {"name": "answer", "schema": dict(sampling.schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def read_completion(answer: Any, seconds: float, about: str) -> Completion:
    """The completion in an answer. seconds: what the request took, where the server does not tell what writing took."""
    try:
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        timings = answer.get("timings") or {}
        return Completion(
            text=choice["message"].get("content") or "",
            tokens=int(timings.get("predicted_n", usage.get("completion_tokens", 0))),
            seconds=timings["predicted_ms"] / 1e3 if "predicted_ms" in timings else seconds,
            prompt_tokens=int(usage.get("prompt_tokens", 0)),
            finished=choice.get("finish_reason") == "stop",
            prompt_seconds=timings["prompt_ms"] / 1e3 if "prompt_ms" in timings else None,
            prompt_read=int(timings["prompt_n"]) if "prompt_n" in timings else None,
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise BackendError(f"{about}: the answer is no chat completion (it lacks {error})") from error


def _refusal(about: str, response: httpx.Response) -> CpuftError:
    """What a status other than success means: busy or broken may pass, all else is the request's own fault."""
    said = _message(response)
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
        wait = response.headers.get("retry-after", "")
        seconds = min(float(wait), MOST_WAIT) if wait.isdecimal() else 0.0
        return BackendError(f"{about}: the server failed: {said}", may_pass=True, wait=seconds)
    if _kinds(response) & TOO_LONG:
        return TooLongError(f"{about}: the server refused the request: {said}")
    hint = f": is the key in {KEY_VARIABLES[0]} the right one?" if response.status_code in NO_ENTRY else ""
    return UserError(f"{about}: the server refused the request: {said}{hint}")


def _kinds(response: httpx.Response) -> set[str]:
    """The words by which a server classes an error."""
    try:
        error = response.json()["error"]
        return {str(error.get(name)) for name in ("type", "code")} if isinstance(error, Mapping) else set()
    except (ValueError, KeyError, TypeError):
        return set()


def _message(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        said = error["message"] if isinstance(error, Mapping) else error
        return f"{' '.join(str(said).split())} (status {response.status_code})"
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}, {response.text[:200]!r}"
