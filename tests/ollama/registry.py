"""A small model registry on loopback: what a real Ollama pulls from, filled from the store of another."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextlib.contextmanager
def serve_registry(store: Path, manifest: Path) -> Iterator[str]:
    """Serves the manifest of one model under every name, and the blobs of its store; yields HOST:PORT."""

    class Handler(_Handler):
        pass

    Handler.blobs, Handler.manifest = store / "blobs", manifest.read_bytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    blobs: Path
    manifest: bytes

    def do_HEAD(self) -> None:  # the name that http.server asks for
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        kind, name = self.path.split("/")[-2:]  # /v2/NAMESPACE/MODEL/manifests/TAG or …/blobs/sha256:…
        blob = self.blobs / name.replace(":", "-")
        if kind == "manifests" and name != "none":
            self._send(self.manifest)
        elif kind == "blobs" and blob.is_file():
            self._send(blob.read_bytes())
        else:
            self.send_response(404)
            self.end_headers()
            self.wfile.write(json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN"}]}).encode())

    def _send(self, content: bytes) -> None:
        first, last = 0, len(content) - 1
        wanted = self.headers.get("Range")
        if wanted:
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = int(start), int(end or last)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[first : last + 1])

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
