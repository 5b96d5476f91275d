"""What clients of the server ask, and bare connections for what no client library does."""

import asyncio
import base64
import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image
from starlette.types import ASGIApp, Message

from tests.drawings import drawn

SPELL = [{"role": "user", "content": "Spell the word star."}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "The weather in a city.", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": WEATHER}]
PARIS = [{"role": "user", "content": "What is the weather in Paris?"}]
QUICK = {"enable_thinking": False}
LONG = {"messages": SPELL, "temperature": 0, "max_tokens": 4000, "logit_bias": {"5": 100.0}, "stream": True, **QUICK}
RED_CIRCLE, BLUE_SQUARE = drawn("circle", "red"), drawn("square", "blue")


def picture(image: Image.Image) -> str:
    """A data: URL."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def seen(*images: Image.Image, question: str = "Describe the picture.") -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": picture(image)}} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def chat(client: Any, messages: Any, **options: Any) -> Any:
    extra = QUICK | options.pop("extra_body", {})
    return client.chat.completions.create(
        model="box", messages=messages, **({"temperature": 0.0, "max_tokens": 120, "extra_body": extra} | options)
    )


def raw(
    url: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    """Status, headers and text; a body that is no string is sent as JSON."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    text = body if isinstance(body, str | bytes) or body is None else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, text, headers or {})
    response = connection.getresponse()
    found = response.status, dict(response.getheaders()), response.read().decode()
    connection.close()
    return found


class Stream:
    """A streamed request on a connection of its own."""

    def __init__(self, url: str, body: dict[str, Any]) -> None:
        self.connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body))
        self.response = self.connection.getresponse()

    def until_text(self) -> None:
        while b'"content":"' not in (line := self.response.readline()) or b'"content":""' in line:
            assert line

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def asgi(
    app: ASGIApp, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
) -> tuple[int, bytes]:
    """Status and body of one request to an application, without a network."""
    sent = await asgi_messages(app, method, path, headers, body)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


async def asgi_messages(
    app: ASGIApp, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
) -> list[Message]:
    """All that an application answers to one request."""
    fields = {"host": "127.0.0.1", **(headers or {})}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields.items()],
    }  # fmt: skip
    sent: list[Message] = []
    unread = [{"type": "http.request", "body": body}]

    async def receive() -> Message:
        if not unread:
            await asyncio.sleep(60)  # a client that stays, and has no more to say
        return unread.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


@contextmanager
def logging_of(name: str, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Errors that a logger keeps to itself come to `caplog` too."""
    logger = logging.getLogger(name)
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.ERROR):
            yield
    finally:
        logger.removeHandler(caplog.handler)
