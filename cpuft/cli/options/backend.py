"""The options that say who answers: a file that cpuft runs itself, a model in Ollama, or a server of the user's own."""

import functools
import os
from collections.abc import Callable
from functools import reduce
from typing import Any

import click
import httpx

from cpuft.backends.asked import Asked, AtUrl, GgufFile, InOllama
from cpuft.backends.openai_server import KEY_VARIABLES
from cpuft.cli.options.model import find_model
from cpuft.errors import ConfigError
from cpuft.sources.source import FORMS

Command = Callable[..., Any]
OWN, OLLAMA, OPENAI = BACKENDS = ("llama.cpp", "ollama", "openai")


def backend_options(what: str = "The model that answers", *, required: bool = True) -> Callable[[Command], Command]:
    """The options --model, --backend and --url; the command gets `model: Asked`, None where it may and does lack one.

    what: begins the help of --model. Stands above `adapter_option`, where a command has that, too.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(*args: Any, model: str | None, backend: str | None, url: str | None, **options: Any) -> Any:
            asked = _asked(model, backend, url)
            if asked is not None:
                asked.require_own(**{name: options.get(name) for name in ("adapter", "threads")})
            return command(*args, model=asked, **options)

        wrapped: Command = run
        return reduce(lambda inner, option: option(inner), reversed(_options(what, required)), wrapped)

    return decorate


def _options(what: str, required: bool) -> list[Callable[[Command], Command]]:
    return [
        click.option(
            "--model",
            required=required,
            metavar="MODEL",
            help=f"{what}: {FORMS}. With another --backend, the name by which that server knows it.",
        ),
        click.option(
            "--backend",
            type=click.Choice(BACKENDS),
            show_default=f"{OWN}, or with --url {OPENAI}",
            help="Who runs it: cpuft itself, Ollama, or a server that speaks OpenAI's chat completions.",
        ),
        click.option(
            "--url",
            metavar="URL",
            help="That server's base, such as http://127.0.0.1:8080/v1, or where Ollama listens. A key is read from "
            f"the environment: {' or '.join(KEY_VARIABLES)}, for Ollama OLLAMA_API_KEY.",
        ),
    ]


def _asked(model: str | None, backend: str | None, url: str | None) -> Asked | None:
    """The model that the options name. Raises ConfigError where they do not go together, and as `find_model` does."""
    backend = backend or (OWN if url is None else OPENAI)
    if model is None:
        if backend != OWN:
            raise ConfigError("--backend and --url need a --model: the name by which that server knows it")
        return None
    if backend == OWN:
        if url is not None:
            raise ConfigError(f"--url is for --backend {OLLAMA} or {OPENAI}: cpuft starts {OWN} itself")
        path = find_model(model)
        return GgufFile(name=path.name, path=path)
    if not model.strip():
        raise ConfigError("--model is empty, expected the name by which the server knows the model")
    if url is not None:
        _require_url(url, backend)
    if backend == OLLAMA:
        return InOllama(name=model, host=url)
    if url is None:
        raise ConfigError(f"--backend {OPENAI} needs --url, the base of a server such as http://127.0.0.1:8080/v1")
    return AtUrl(name=model, url=url.rstrip("/"), api_key=_api_key())


def _require_url(url: str, backend: str) -> None:
    """Raises ConfigError unless a server can listen there. Ollama's may lack the scheme, as in OLLAMA_HOST."""
    example = "127.0.0.1:11434" if backend == OLLAMA else "http://127.0.0.1:8080/v1"
    whole = f"http://{url}" if backend == OLLAMA and "://" not in url else url
    try:
        parts = httpx.URL(whole)
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError(
            f"--url: {url!r} is no address of a server ({error}), expected one such as {example}"
        ) from error
    if parts.userinfo or parts.query or parts.fragment:
        # Not quoted: what stands there may be the key.
        raise ConfigError(
            f"--url: found a password or a query in it, which other users can read, expected an address such as "
            f"{example} alone: give a key in the environment, as {KEY_VARIABLES[0]}"
        )
    if parts.scheme not in ("http", "https") or not parts.host or not 0 < (parts.port or 80) < 1 << 16:
        raise ConfigError(f"--url: {url!r} is no address of a server, expected one such as {example}")


def _api_key() -> str:
    """The key of the environment, never of the command line, where every user of the machine could read it."""
    for name in KEY_VARIABLES:
        if key := os.environ.get(name, "").strip():
            if not (key.isascii() and key.isprintable()):
                raise ConfigError(f"{name} holds a character that no key has: set it again")
            return key
    return ""
