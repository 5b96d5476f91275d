"""A stand-in for the model hub, as far as huggingface_hub's own client asks for anything."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

COMMIT = "c" * 40


class HubServer(ThreadingHTTPServer):
    """Serves one directory as the repository tiny/model; gated/model asks for terms to be accepted.

    Args:
        files: What the repository holds.
    """

    daemon_threads = True

    def __init__(self, files: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        # The file whose first download ends in its middle.
        self.broken: str | None = None
        # The names of what was downloaded, in order.
        self.sent: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing of it is of interest."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = cast(HubServer, self.server)
        path = self.path.partition("?")[0]
        files = sorted(hub.files.iterdir())
        if path.startswith((f"/tiny/model/resolve/{COMMIT}/", "/tiny/model/resolve/main/")):
            self._file(hub.files / path.rpartition("/")[2])
        elif path == "/api/models/tiny/model/revision/main":
            self._json({"id": "tiny/model", "sha": COMMIT, "siblings": [{"rfilename": file.name} for file in files]})
        elif path == f"/api/models/tiny/model/tree/{COMMIT}":
            entries = [(file.name, file.read_bytes()) for file in files]
            self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in entries
                ]
            )
        elif "/gated/" in path:
            self._error(403, "GatedRepo")
        else:
            self._error(404, "RevisionNotFound" if "/tiny/model/" in path else "RepoNotFound")

    def _file(self, file: Path) -> None:
        hub = cast(HubServer, self.server)
        if not file.is_file():
            self._error(404, "EntryNotFound")
            return
        data = file.read_bytes()
        if self.command == "GET":
            hub.sent.append(file.name)
        breaks = self.command == "GET" and file.name == hub.broken
        if breaks:
            hub.broken = None
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self._send(200, data, headers, cut=len(data) // 2 if breaks else None)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        # A connection that ends early is one that breaks.
        self.close_connection = cut is not None
