"""Bodies: what is read of them, for how long and into how much memory."""

import asyncio
import gzip
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.runtime.ledger import Ledger
from mlx_qwen35.server.bodies import (
    MAX_KEYS,
    MAX_LEVELS,
    MAX_PROBLEMS,
    MAX_SEPARATORS,
    BodyReader,
    parse_body,
    read_json,
)
from mlx_qwen35.server.preparing import PreparingThreads
from mlx_qwen35.server.protocols import PROTOCOLS
from mlx_qwen35.server.protocols.chat_completions import ChatCompletionRequest
from mlx_qwen35.server.protocols.messages import MessagesRequest
from mlx_qwen35.server.protocols.responses import ResponsesRequest
from mlx_qwen35.server.settings import Settings
from mlx_qwen35.server.wire import ApiError
from tests.server.clients import SPELL, raw
from tests.server.conftest import Running, serving

CHAT = "/v1/chat/completions"


def nested(levels: int, opening: str = "[", closing: str = "]") -> bytes:
    """So many lists or objects inside each other."""
    return (opening * levels + "1" + closing * levels).encode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[" + b"0," * MAX_SEPARATORS + b"0]", f"expected at most {MAX_SEPARATORS} values"),
        (b"[" + b"[]," * (MAX_SEPARATORS // 2) + b"0]", f"expected at most {MAX_SEPARATORS} values"),
        (b"[" + b"{}," * (MAX_SEPARATORS // 2) + b"0]", f"expected at most {MAX_SEPARATORS} values"),
        (nested(MAX_LEVELS + 1), f"expected at most {MAX_LEVELS} levels"),
        (nested(900), f"expected at most {MAX_LEVELS} levels"),
        (nested(100_000), f"expected at most {MAX_LEVELS} levels"),
        (nested(MAX_LEVELS + 1, '{"a":', "}"), f"expected at most {MAX_LEVELS} levels"),
        (json.dumps(dict.fromkeys(map(str, range(MAX_KEYS + 1)))).encode(), f"at most {MAX_KEYS} keys in one object"),
        (b'{"\\ud800": 1}', "surrogates not allowed"),
        (b'{"a": "\\uDFFF"}', "surrogates not allowed"),
        (b"\xff\xfe{", "expected a JSON object"),
        (b"", "expected a JSON object"),
        (b"{} {}", "expected a JSON object"),
        (b'{"a": NaN}', "NaN is no JSON"),
        (b"[-Infinity]", "-Infinity is no JSON"),
        (b"[123.456e78901]", "123.456e78901 is beyond the largest number"),
        (b"[-1e400]", "-1e400 is beyond the largest number"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_json_is_bounded(body: bytes, message: str) -> None:
    with pytest.raises(ApiError, match=f"^body: .*{message}") as caught:
        read_json(body)
    assert caught.value.status == 400
    assert len(str(caught.value)) < 250


def test_json_within_the_bounds_is_read() -> None:
    """Commas inside texts count as well; there is room for a context full of them."""
    assert read_json(nested(MAX_LEVELS)) is not None
    assert len(read_json(json.dumps(dict.fromkeys(map(str, range(MAX_KEYS)))).encode())) == MAX_KEYS
    text = "a, b; " * 60_000
    assert read_json(json.dumps({"messages": [{"content": text}], "smile": "\U0001f600"}).encode()) == {
        "messages": [{"content": text}],
        "smile": "\U0001f600",
    }


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.path)
def test_a_handful_of_errors_is_made(protocol: Any) -> None:
    """Of a list with many wrong items the first is told; of an object with many wrong fields, the first few."""
    wrong = [0] * 100_000
    body = {
        "model": "box",
        "max_tokens": 1,
        "messages": wrong,
        "input": wrong,
        "prompt": [{}] * 100_000,
        "tools": wrong,
    }
    began = time.monotonic()
    with pytest.raises(ApiError) as caught:
        parse_body(json.dumps(body).encode(), protocol.body)
    assert time.monotonic() - began < 2  # 100,000 errors take ten times as long
    assert str(caught.value).count(";") < MAX_PROBLEMS
    assert len(str(caught.value)) < 1000


def test_an_object_of_wrong_values_is_refused_at_once() -> None:
    """Holding each against all others takes minutes."""
    body = {"messages": SPELL, "logit_bias": dict.fromkeys(map(str, range(MAX_KEYS)), "no")}
    began = time.process_time()
    with pytest.raises(ApiError, match=r"^logit_bias\.0: input should be a valid number") as caught:
        parse_body(json.dumps(body).encode(), ChatCompletionRequest)
    assert time.process_time() - began < 3
    assert str(caught.value).count("; ") == MAX_PROBLEMS - 1


def test_of_many_wrong_fields_the_first_few_are_told() -> None:
    wrong: dict[str, Any] = {name: {} for name in ("temperature", "top_p", "top_k", "min_p", "seed", "n", "stop")}
    body = {"messages": SPELL, **wrong}
    with pytest.raises(ApiError) as caught:
        parse_body(json.dumps(body).encode(), ChatCompletionRequest)
    assert str(caught.value).count("; ") == MAX_PROBLEMS - 1


def test_the_place_of_a_wrong_value_has_no_name_of_an_alternative() -> None:
    with pytest.raises(ApiError, match=r"^messages\.0\.content: input should be a valid string"):
        parse_body(b'{"model": "x", "messages": [{"role": "user", "content": {"a": 1}}]}', ChatCompletionRequest)
    with pytest.raises(ApiError, match=r"^messages\.0\.role: field required"):
        parse_body(b'{"model": "x", "messages": [{"content": "a"}]}', ChatCompletionRequest)


@pytest.mark.parametrize(
    ("protocol", "field", "value", "expected"),
    [
        (MessagesRequest, "messages", {"content": [{"type": "nope"}]}, "content.0.type: expected 'text', 'image', "),
        (
            MessagesRequest,
            "messages",
            {"content": [{"type": None}]},
            "'thinking', 'tool_use' or 'tool_result', found 'None'",
        ),
        (
            MessagesRequest,
            "messages",
            {"content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "thinking"}]}]},
            ".content.0.type: expected 'text', 'image', 'video', 'document' or 'search_result', found 'thinking'",
        ),
        (
            MessagesRequest,
            "messages",
            {"content": [{"type": "image", "source": {"type": "file"}}]},
            "content.0.source.type: expected 'base64' or 'url', found 'file'",
        ),
        (MessagesRequest, "messages", {"content": [{"type": "image", "source": {}}]}, "source.type: field required"),
        (ResponsesRequest, "input", {"type": "nope"}, "0.type: expected 'message', 'function_call', "),
        (ResponsesRequest, "input", {"type": "n" * 9999}, "'reasoning' or 'item_reference', found 'nnn"),
        (ResponsesRequest, "input", {"content": [{"type": "nope"}]}, "content.0.type: expected 'input_text', "),
    ],
)
def test_an_unknown_type_is_told_with_those_that_are_read(protocol: Any, field: str, value: Any, expected: str) -> None:
    body = {"model": "x", "max_tokens": 1, field: [{"role": "user", **value}]}
    with pytest.raises(ApiError) as caught:
        parse_body(json.dumps(body).encode(), protocol)
    message = str(caught.value)
    assert message.startswith(f"{field}.0.")
    assert expected in message
    assert "; " not in message
    assert "other" not in message
    assert len(message) < 400


@pytest.mark.parametrize("pieces", [[b"ab", b"cd"], [b"ab", b"cd", b"e"]])
def test_a_body_may_have_as_many_bytes_as_that_and_no_more(pieces: list[bytes]) -> None:
    class Sent:
        async def stream(self) -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

    async def read() -> bytes:
        with ExitStack() as stack:
            reader = BodyReader(Settings(("box",), max_body=4), Ledger(1000), PreparingThreads())
            return await reader._raw(Sent(), stack)  # type: ignore[arg-type]

    if len(pieces) == 2:
        assert asyncio.run(read()) == b"abcd"
    else:
        with pytest.raises(ApiError, match="body: expected at most 4 bytes") as caught:
            asyncio.run(read())
        assert caught.value.status == 413


def test_the_first_wrong_message_is_named() -> None:
    messages = [*SPELL, *SPELL, {"role": "user", "content": 5}, {"role": "nobody"}]
    with pytest.raises(ApiError) as caught:
        parse_body(json.dumps({"messages": messages}).encode(), ChatCompletionRequest)
    assert "messages.2.content" in str(caught.value)
    assert "messages.3" not in str(caught.value)


def test_a_wrong_place_has_no_name_of_an_alternative() -> None:
    messages = [{"role": "user", "content": {"n": 3}}]
    with pytest.raises(ApiError) as caught:
        parse_body(json.dumps({"messages": messages}).encode(), ChatCompletionRequest)
    assert caught.value.param == "messages.0.content"


def test_a_body_has_to_be_there_in_time(box: ModelKit) -> None:
    with serving(box, body_seconds=0.3) as running:
        host, port = urlsplit(running.url).netloc.split(":")
        with socket.create_connection((host, int(port)), timeout=60) as client:
            client.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n{{".encode())
            answer = b""
            while b"seconds" not in answer:
                more = client.recv(10_000)
                assert more
                answer += more
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"body: expected all of it within 0.3 seconds" in answer
        assert "request bodies" not in running.service.kit.ledger.by_purpose()


def test_bodies_are_entered_in_the_ledger(box: ModelKit, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one is read, and no longer; one for which there is no memory may come again later."""
    body = json.dumps({"messages": [{"role": "user", "content": "a" * 2**20}], "max_tokens": 1}).encode()
    host = urlsplit(server.url).netloc
    connection = HTTPConnection(host, timeout=60)
    connection.putrequest("POST", CHAT)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[: 2**19])
    for _ in range(2000):
        if box.ledger.by_purpose().get("request bodies", 0) >= 5 * 2**19:
            break
        time.sleep(0.01)
    else:
        pytest.fail(str(box.ledger.by_purpose()))
    connection.send(body[2**19 :])
    assert connection.getresponse().status == 400  # too long for the context
    connection.close()
    assert "request bodies" not in box.ledger.by_purpose()
    with monkeypatch.context() as patch:
        patch.setattr(box.ledger, "limit", 2**20)
        status, headers, text = raw(server.url, CHAT, body)
    assert (status, "body: expected memory for it" in text) == (503, True)
    assert headers["retry-after"] == "2"
    assert "request bodies" not in box.ledger.by_purpose()


def test_a_compressed_body_is_told_from_a_damaged_one(server: Running) -> None:
    asked = {"messages": SPELL, "max_tokens": 1}
    body = gzip.compress(json.dumps(asked).encode())
    for path in (CHAT, "/render"):
        status, _, text = raw(server.url, path, body, {"Content-Encoding": "gzip"})
        assert (status, json.loads(text)["error"]["message"]) == (
            415, "Content-Encoding: expected a body that is not compressed, found gzip",
        )  # fmt: skip
    assert raw(server.url, CHAT, asked, {"Content-Encoding": "Identity"})[0] == 200
