"""What tests of images that requests name have in common: a picture, short ways to ask for one, and a host of some."""

import io
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image

from mlx_qwen35.errors import MediaError
from mlx_qwen35.server.media import MediaPolicy, fetch

PLACE = "messages[0].content[1]"
REMOTE = MediaPolicy(allow_remote=True, timeout=5)


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = picture()


def take(source: Any, policy: MediaPolicy = REMOTE) -> bytes:
    return fetch(source, policy, place=PLACE)


def refusal(source: Any, policy: MediaPolicy = REMOTE) -> str:
    """The text of a refusal, which is short and says the place."""
    with pytest.raises(MediaError) as caught:
        fetch(source, policy, place=PLACE)
    text = str(caught.value)
    assert text.startswith(f"{PLACE}: ")
    assert len(text) < 400
    text.encode()
    return text


class Handler(BaseHTTPRequestHandler):
    """Answers from the server's table: a function of the handler for each path."""

    protocol_version = "HTTP/1.1"
    server: "PictureServer"

    def do_GET(self) -> None:
        self.server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.close_connection = True
        self.server.answers[self.path](self)

    def answer(self, status: int = 200, body: bytes = PICTURE, **headers: str) -> None:
        lines = {"Content-Type": "image/png", "Content-Length": str(len(body))}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        self.send_response(status)
        for name, value in lines.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class PictureServer(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Callable[[Handler], object]] = {"/a.png": Handler.answer}
        self.requests: list[tuple[str, dict[str, str]]] = []

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def url(self) -> str:
        return f"http://pictures.example:{self.port}"

    def handle_error(self, *_: Any) -> None:
        pass
