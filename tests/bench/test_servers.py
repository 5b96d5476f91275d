"""Servers in processes of their own, and what is read from their answers."""

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from mlx_qwen35.bench.servers import says_something, serving, stream_chat
from mlx_qwen35.errors import OptionError


def test_a_server_that_does_not_start() -> None:
    with (
        pytest.raises(OptionError, match="broken: its server does not start: -c pass"),
        serving([sys.executable, "-c", "pass"], "broken"),
    ):
        pass


LINES = [
    b": 3 of 9 prompt tokens",
    b'data: {"choices": [{"delta": {"role": "assistant"}}]}',
    b'data: {"choices": [{"delta": {"content": "a"}}]}',
    b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4}}}',  # noqa: E501
    b"data: [DONE]",
]  # fmt: skip


@contextmanager
def saying(status: int, lines: list[bytes]) -> Iterator[int]:
    """A server on a port of this machine that answers everything alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"\n\n".join(lines))

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_what_a_stream_tells() -> None:
    chunks: list[dict[str, Any]] = []
    with saying(200, LINES) as port:
        answer = stream_chat(port, {})
        early = stream_chat(port, {}, is_first=lambda chunk: chunks.append(chunk) or bool(chunk["choices"]))
    assert (answer.prompt_tokens, answer.tokens, answer.cached_tokens) == (9, 1, 4)
    assert answer.began < answer.first <= answer.ended
    # The first chunk was the one; no later chunk was asked about.
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [{"role": "assistant"}]
    assert early.first <= early.ended


def test_what_says_something() -> None:
    assert not says_something({"choices": []})
    assert not says_something({"choices": [{"delta": {"role": "assistant", "content": ""}}, {"delta": None}]})
    for name in ("content", "reasoning_content", "reasoning"):
        assert says_something({"choices": [{"delta": {name: "a"}}]})


@pytest.mark.parametrize(
    ("status", "lines", "message"),
    [
        (500, [b"broken"], "expected status 200, found 500: b'broken'"),
        (200, LINES[:3], "expected the usage of a request, found none"),
    ],
)
def test_an_answer_that_is_no_measurement(status: int, lines: list[bytes], message: str) -> None:
    with saying(status, lines) as port, pytest.raises(OptionError, match=re.escape(message)):
        stream_chat(port, {})
