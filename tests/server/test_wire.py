"""Bodies that are no requests, in every protocol."""

import json
import socket
import struct
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlx_qwen35.server.protocols import PROTOCOLS
from tests.server.clients import RED_CIRCLE, SPELL, eventually, logging_of, raw, seen
from tests.server.conftest import Running
from tools.load.attacks import make_attacks
from tools.load.malformed import Malformed


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/v1/chat/completions", {"messages": SPELL, "best_of": 2, "echo": True}, ["best_of", "echo"]),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a", "nmae": "b"}]}, ["messages.0.nmae"]),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a", "name": "Ada"}]}, ["messages[0].name"]),
        ("/v1/chat/completions", {"messages": []}, ["messages"]),
        ("/v1/chat/completions", {"messages": SPELL, "temperature": "hot"}, ["temperature"]),
        ("/v1/chat/completions", {"messages": SPELL, "temperature": -1}, ["temperature"]),
        ("/v1/chat/completions", {"messages": SPELL, "max_tokens": 0}, ["max_tokens"]),
        ("/v1/chat/completions", {"messages": SPELL, "top_logprobs": 3}, ["top_logprobs", "logprobs"]),
        ("/v1/chat/completions", {"messages": SPELL, "tool_choice": "required"}, ["tool_choice"]),
        ("/v1/chat/completions", {"messages": SPELL, "logit_bias": {"a": 1}}, ["logit_bias"]),
        ("/v1/chat/completions", {"messages": SPELL, "store": True}, ["store"]),
        ("/v1/chat/completions", {"messages": SPELL, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}}, ["response_format"]),  # noqa: E501
        ("/v1/chat/completions", {"messages": seen(RED_CIRCLE)[0]["content"]}, ["messages.0.role"]),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, ["video_url"]),
        ("/v1/chat/completions", {"messages": SPELL, "logit_bias": {"9" * 5000: 1}}, ["logit_bias"]),
        ("/v1/chat/completions", {"messages": SPELL, "chat_template_kwargs": {"chat_template": "x"}}, ["chat_template"]),  # noqa: E501
        ("/v1/chat/completions", {"messages": [*SPELL, {"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": '{"a":' * 5000}}]}]}, ["arguments"]),  # noqa: E501
        ("/v1/responses", '{"input": "a", "metadata": {"a": "\\ud800"}}', ["body"]),
        ("/v1/completions", {"prompt": []}, ["prompt"]),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, ["suffix"]),
        ("/v1/responses", {"input": "a", "previous_response_id": "b"}, ["previous_response_id"]),
        ("/v1/responses", {"input": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "input_image", "image_url": "b"}]}]}, ["input[1].content[0]"]),  # noqa: E501
        ("/v1/messages", {"model": "box", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "image", "source": {"type": "url", "url": "b"}}]}], "max_tokens": 5}, ["image"]),  # noqa: E501
        ("/v1/messages", {"model": "box", "messages": SPELL}, ["max_tokens"]),
        ("/v1/messages", {"model": "box", "messages": SPELL, "max_tokens": 5, "container": "x"}, ["container"]),
        ("/v1/chat/completions", "{", ["JSON"]),
        ("/v1/chat/completions", "[]", ["body"]),
    ],
)  # fmt: skip
def test_bad_requests_are_named(server: Running, path: str, body: Any, names: list[str]) -> None:
    """400, every wrong field by its name, in the protocol's own form."""
    status, _, text = raw(server.url, path, body)
    assert status == 400, text
    error = json.loads(text)["error"]
    assert error["type"] == "invalid_request_error"
    assert all(name in error["message"] for name in names), error


@pytest.mark.parametrize("attack", make_attacks(), ids=lambda attack: attack.name)
def test_what_would_cost_far_more_than_it_is_is_refused(server: Running, attack: Malformed) -> None:
    """By the status, soon, and in a short message; the server answers others meanwhile and afterwards."""
    began = time.monotonic()
    status, _, text = raw(server.url, attack.path, attack.body, dict(attack.headers))
    assert status == attack.status, text
    assert len(json.loads(text)["error"]["message"]) < 500
    assert time.monotonic() - began < 20
    assert raw(server.url, "/health")[0] == 200


@pytest.mark.parametrize("path", [*(protocol.path for protocol in PROTOCOLS), "/v1/messages/count_tokens"])
@pytest.mark.parametrize("rudely", [False, True])
def test_a_client_that_leaves_inside_its_body_is_no_failure(
    server: Running, caplog: pytest.LogCaptureFixture, path: str, rudely: bool
) -> None:
    line = f'mlx_qwen35_requests_total{{path="{path}",status='

    def counts() -> dict[str, float]:
        """Requests of this path by status."""
        lines = [text for text in raw(server.url, "/metrics")[2].splitlines() if text.startswith(line)]
        return {text.split('"')[-2]: float(text.split()[-1]) for text in lines}

    before = counts()
    with logging_of("uvicorn.error", caplog):
        host, port = urlsplit(server.url).netloc.split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n{{".encode())
            if rudely:
                # Closing it is a reset.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        eventually(lambda: counts() != before)
        assert counts() == {**before, "499": before.get("499", 0) + 1}
    assert not caplog.records
