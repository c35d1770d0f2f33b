"""Serves pages to one reviewer on this machine, and keeps their verdicts.

Whatever runs in a browser can send requests to a loopback address, and whoever runs on this machine can, too. So each
address begins with a secret token; the Host header must be ours (a foreign name that resolves to 127.0.0.1 is DNS
rebinding); and what changes something must come from our own page, as its Origin says.
"""

import contextlib
import hmac
import json
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import uvicorn
from jinja2 import Environment
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cpuft.errors import ConfigError, UserError
from cpuft.feedback.verdicts import Rivals, Verdict, VerdictStore, verdict_of

HOST = "127.0.0.1"
MAX_BODY = 64 << 10  # bytes of a verdict with its note
CONTENTS_POLICY = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class Reviewed:
    """A page that is served.

    html:   makes it of the verdicts that there are and the path of their store. policy: its Content-Security-Policy.
    """

    title: str
    rivals: Rivals
    samples: frozenset[str]
    html: Callable[[Sequence[Verdict], str], str]
    policy: str


@dataclass(frozen=True)
class ReviewServer:
    """Listens from the moment it is made, and answers while `serve` runs. Use it as a context manager.

    pages: by their part of the address.
    """

    pages: Mapping[str, Reviewed]
    store: VerdictStore
    listener: socket.socket
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.listener.getsockname()[1])

    @property
    def address(self) -> str:
        """What the reviewer opens; whoever knows it can read and judge."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    def serve(self) -> None:
        """Answers until the process is told to end (Ctrl-C)."""
        config = uvicorn.Config(
            self.application(), lifespan="off", log_level="warning", access_log=False, server_header=False
        )
        with contextlib.suppress(KeyboardInterrupt):  # how a reviewer ends it; uvicorn passes it on when it has ended
            uvicorn.Server(config).run(sockets=[self.listener])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.listener.close()
        self.store.close()

    def application(self) -> ASGIApp:
        """The ASGI application."""
        routes = [
            Route("/{token}/", self._start, methods=["GET"]),
            Route("/{token}/{page}/", self._page, methods=["GET"]),
            Route("/{token}/{page}/verdicts", self._keep, methods=["POST"]),
        ]
        return Guard(Starlette(routes=routes), self.port, self.token)

    async def _start(self, request: Request) -> Response:
        if len(self.pages) == 1:
            return RedirectResponse(f"{next(iter(self.pages))}/")
        return HTMLResponse(_contents(self.pages), headers={"Content-Security-Policy": CONTENTS_POLICY})

    async def _page(self, request: Request) -> Response:
        page = self._find(request)
        verdicts = self.store.of(page.rivals, page.samples)
        policy = f"{page.policy}; frame-ancestors 'none'"
        html = page.html(verdicts, str(self.store.path))
        return HTMLResponse(html.encode(), headers={"Content-Security-Policy": policy})

    async def _keep(self, request: Request) -> Response:
        page = self._find(request)
        try:
            verdict = verdict_of(json.loads(await _body(request)))
            if verdict.sample not in page.samples:
                raise ValueError("no such sample on this page")
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"no verdict: {error}") from error
        try:
            self.store.keep(page.rivals, verdict)
        except UserError as error:  # the disk is full, or the file is gone
            raise HTTPException(507, str(error)) from error
        return Response(status_code=204)

    def _find(self, request: Request) -> Reviewed:
        page = self.pages.get(request.path_params["page"])
        if page is None:
            raise HTTPException(404)
        return page


class Guard:
    """Lets through to an application only what comes from its own page, with the token."""

    def __init__(self, application: ASGIApp, port: int, token: str) -> None:
        self._application, self._token = application, token.encode()
        self._hosts = {f"{name}:{port}".encode() for name in (HOST, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or refuses without a word of what is here."""
        if scope["type"] != "http":  # a WebSocket: none is spoken here
            return
        refusal = self._refusal(scope)
        application = PlainTextResponse(refusal[1], refusal[0]) if refusal else self._application

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        await application(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        sent: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            sent.setdefault(name, []).append(value)
        hosts = sent.get(b"host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return 421, "this server answers to its own name alone"
        token = scope["path"].lstrip("/").partition("/")[0]
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self._token):
            return 403, "open the whole address that `cpuft review` printed"
        own = b"http://" + hosts[0].lower()
        if any(origin != own for origin in sent.get(b"origin", [])):
            return 403, "a request of another page"
        foreign = any(site not in (b"same-origin", b"none") for site in sent.get(b"sec-fetch-site", []))
        # A link elsewhere that leads here knows the token; what it may do is open the page.
        if foreign and (scope["method"] != "GET" or sent.get(b"sec-fetch-mode") != [b"navigate"]):
            return 403, "a request of another page"
        if scope["method"] == "POST":
            if sent.get(b"origin") is None:
                return 403, "a request without its origin"
            if sent.get(b"content-type", [b""])[0].partition(b";")[0].strip() != b"application/json":
                return 415, "expected JSON"
        return None


def listen(port: int) -> socket.socket:
    """A socket that listens on loopback; port 0 takes any that is free. Raises ConfigError where that is taken."""
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"--port: {port} cannot be listened on ({error.strerror}): give another, or 0 for any that is free"
        ) from error
    return listener


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise HTTPException(413, "longer than any verdict")
    return body


def _contents(pages: Mapping[str, Reviewed]) -> str:
    """The list of pages."""
    template = Environment(autoescape=True).from_string(
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Review</title>'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        '<link rel="icon" href="data:,"><h1>Review</h1><ul>{% for name, page in pages.items() %}<li>'
        '<a href="{{ name }}/">{{ page.title }}</a>, {{ page.samples | length }} samples</li>{% endfor %}</ul></html>'
    )
    return template.render(pages=pages)
