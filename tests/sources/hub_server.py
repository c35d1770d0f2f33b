"""A small Hugging Face Hub on loopback: enough of its HTTP interface for huggingface_hub to list and download files."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Its repositories, and what it was asked.

    files: "org/repo" -> file name -> content.
    gated, private: repositories that answer 403 and 401, but to `token`.
    drops: how many downloads are still to break off in their middle.
    stalls: how many are still to stop in their middle and wait, until the client hangs up.
    requests: "METHOD path" with the header Range, where there was one, in their order.
    """

    files: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    token: str = "hf_of_this_test"
    drops: int = 0
    stalls: int = 0
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def environment(self, home: Path) -> dict[str, str | None]:
        """What makes huggingface_hub use this hub and keep its cache in `home`."""
        given: dict[str, str | None] = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
        return given | dict.fromkeys(("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"))


@contextlib.contextmanager
def serve_hub(hub: Hub) -> Iterator[Hub]:
    """Serves a hub for the length of the block."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:  # the name that http.server asks for
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        wanted = self.headers.get("Range")
        self.hub.requests.append(f"{self.command} {self.path}" + (f" {wanted}" if wanted else ""))
        parts = self.path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        repo, rest = "/".join(parts[2:4] if is_api else parts[:2]), parts[4:] if is_api else parts[2:]
        allowed = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if repo not in self.hub.files or (repo in self.hub.private and not allowed):
            self._refuse(401, "RepoNotFound")
        elif is_api:
            names = [{"rfilename": name} for name in self.hub.files[repo]]
            self._send(json.dumps({"id": repo, "sha": COMMIT, "siblings": names}).encode())
        elif repo in self.hub.gated and not allowed:
            self._refuse(403, "GatedRepo")
        elif rest[1] != "main":
            self._refuse(404, "RevisionNotFound")
        elif (content := self.hub.files[repo].get("/".join(rest[2:]))) is None:
            self._refuse(404, "EntryNotFound")
        else:
            self._send(content, wanted)

    def _send(self, content: bytes, wanted: str | None = None) -> None:
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content) - first))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET" and self._is_one_of("stalls"):
            self.wfile.write(content[first : (first + len(content)) // 2])
            with contextlib.suppress(ConnectionError):
                self.connection.recv(1)
        elif self.command == "GET":
            half = self._is_one_of("drops")
            self.wfile.write(content[first : (first + len(content)) // 2 if half else len(content)])

    def _is_one_of(self, kind: str) -> bool:
        """Whether this download is one of the drops or stalls that are still to come."""
        left = getattr(self.hub, kind)
        if left == 0 or self.path.startswith("/api/"):
            return False
        setattr(self.hub, kind, left - 1)
        return True

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
