"""Bodies that are no requests, in every protocol."""

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest
from pydantic import Field
from starlette.responses import StreamingResponse

from mlx_qwen35.errors import (
    EngineFullError,
    GenerationCancelled,
    KitClosedError,
    MediaError,
    OptionError,
    PromptError,
)
from mlx_qwen35.server import wire
from mlx_qwen35.server.app import COUNTS
from mlx_qwen35.server.bodies import parse_body
from mlx_qwen35.server.generation import RequestTimeoutError
from mlx_qwen35.server.protocols import PROTOCOLS
from mlx_qwen35.server.protocols.chat_completions import ChatCompletionRequest
from mlx_qwen35.server.wire import (
    ApiError,
    ClientGoneError,
    Unused,
    WireObject,
    api_error,
    event_stream,
    sse,
    unless_gone,
    unused_fields,
)
from tests.server.clients import RED_CIRCLE, SPELL, eventually, logging_of, raw, seen
from tests.server.conftest import Running
from tools.load.attacks import make_attacks
from tools.load.malformed import Malformed


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/v1/chat/completions", {"messages": SPELL, "guided_json": {"a": 1}}, ["guided_json: expected none: send response_format"]),  # noqa: E501
        ("/v1/chat/completions", {"messages": SPELL, "functions": [{"name": "f"}]}, ["functions: expected none: send tools"]),  # noqa: E501
        ("/v1/chat/completions", {"messages": [*SPELL, {"role": "assistant", "function_call": {"name": "f"}}]}, ["messages.1.function_call"]),  # noqa: E501
        ("/v1/chat/completions", {"messages": []}, ["messages"]),
        ("/v1/chat/completions", {"messages": SPELL, "temperature": "hot"}, ["temperature"]),
        ("/v1/chat/completions", {"messages": SPELL, "temperature": -1}, ["temperature"]),
        ("/v1/chat/completions", {"messages": SPELL, "max_tokens": 0}, ["max_tokens"]),
        ("/v1/chat/completions", {"messages": SPELL, "top_logprobs": 3}, ["top_logprobs", "logprobs"]),
        ("/v1/chat/completions", {"messages": SPELL, "tool_choice": "required"}, ["tool_choice"]),
        ("/v1/chat/completions", {"messages": SPELL, "logit_bias": {"a": 1}}, ["logit_bias"]),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, ["suffix"]),
        ("/v1/chat/completions", {"messages": SPELL, "echo": True}, ["echo"]),
        ("/v1/completions", {"prompt": "a", "best_of": 2}, ["best_of"]),
        ("/v1/responses", {"input": "a", "background": True}, ["background"]),
        ("/v1/responses", {"input": [{"type": "video_call"}]}, ["input.0.type"]),
        ("/v1/chat/completions", {"messages": SPELL, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}}, ["response_format"]),  # noqa: E501
        ("/v1/chat/completions", {"messages": seen(RED_CIRCLE)[0]["content"]}, ["messages.0.role"]),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "audio_url"}]}]}, ["audio_url"]),
        ("/v1/chat/completions", {"messages": SPELL, "logit_bias": {"9" * 5000: 1}}, ["logit_bias"]),
        ("/v1/chat/completions", {"messages": SPELL, "chat_template_kwargs": {"chat_template": "x"}}, ["chat_template"]),  # noqa: E501
        ("/v1/chat/completions", {"messages": [*SPELL, {"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": '{"a":' * 500 + "1" + "}" * 500}}]}]}, ["arguments"]),  # noqa: E501
        ("/v1/responses", '{"input": "a", "metadata": {"a": "\\ud800"}}', ["body"]),
        ("/v1/completions", {"prompt": []}, ["prompt"]),
        ("/v1/responses", {"input": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "input_image", "image_url": "b"}]}]}, ["input[1].content[0]"]),  # noqa: E501
        ("/v1/messages", {"model": "box", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "image", "source": {"type": "url", "url": "b"}}]}], "max_tokens": 5}, ["image"]),  # noqa: E501
        ("/v1/messages", {"model": "box", "messages": SPELL}, ["max_tokens"]),
        ("/v1/messages", {"model": "box", "messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}}]}], "max_tokens": 5}, ["application/pdf"]),  # noqa: E501
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


@pytest.mark.parametrize("path", [*(protocol.path for protocol in PROTOCOLS), *COUNTS])
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


# The pieces, without a server


@pytest.mark.parametrize(
    ("error", "status", "kind", "message", "param"),
    [
        (ApiError(418, "teapot", "short and stout", "spout"), 418, "teapot", "short and stout", "spout"),
        (EngineFullError("3 wait"), 429, "rate_limit_error", "the server is busy: 3 wait", None),
        (KitClosedError("closed"), 503, "overloaded_error", "the server is shutting down", None),
        (GenerationCancelled("cancelled"), 503, "overloaded_error", "the server is shutting down", None),
        (RequestTimeoutError("too late"), 504, "timeout_error", "too late", None),
        (OptionError("top_p: too high: 2"), 400, "invalid_request_error", "top_p: too high: 2", "top_p"),
        (MediaError("messages[0].content[1]: no"), 400, "invalid_request_error", "messages[0].content[1]: no", "messages[0].content[1]"),  # noqa: E501
        (PromptError("no place: of a field"), 400, "invalid_request_error", "no place: of a field", None),
        (PromptError("no place at all"), 400, "invalid_request_error", "no place at all", None),
        (PromptError("alone"), 400, "invalid_request_error", "alone", None),
    ],
)  # fmt: skip
def test_what_a_client_is_told_of_an_error(
    caplog: pytest.LogCaptureFixture, error: Exception, status: int, kind: str, message: str, param: str | None
) -> None:
    found = api_error(error)
    assert (found.status, found.kind, str(found), found.param) == (status, kind, message, param)
    assert found.headers == ({"Retry-After": "2"} if status in (429, 503) else {})
    assert not caplog.records


def test_a_fault_of_the_server_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    fault = ZeroDivisionError("of this server's own making")
    found = api_error(fault)
    assert (found.status, found.kind, found.param) == (500, "api_error", None)
    assert str(found) == "the server failed on this request"
    (record,) = caplog.records
    assert (record.name, record.levelname, record.getMessage()) == (wire.__name__, "ERROR", "a request failed")
    assert record.exc_info is not None
    assert record.exc_info[1] is fault


@pytest.mark.parametrize(
    ("data", "event", "text"),
    [
        ({"a": "é", "b": [1, None]}, None, 'data: {"a":"é","b":[1,null]}\n\n'),
        ({}, "ping", "event: ping\ndata: {}\n\n"),
        ("[DONE]", None, "data: [DONE]\n\n"),
    ],
)
def test_a_server_sent_event(data: Any, event: str | None, text: str) -> None:
    assert sse(data, event) == text


class Inner(WireObject):
    text: str


class Body(WireObject):
    without_effect: ClassVar = frozenset({"label"})
    refused: ClassVar = {"echo": "not supported"}

    number: int
    inner: list[Inner] = Field(default_factory=list)
    names: dict[str, str] = Field(default_factory=dict)


class Asked:
    """A request, from a client that stays until it is told to leave."""

    def __init__(self) -> None:
        self.left = False

    async def is_disconnected(self) -> bool:
        return self.left


def parsed(body: bytes) -> Body:
    return parse_body(body, Body)


def test_a_body_is_what_its_model_says() -> None:
    body = '{"number": 3, "inner": [{"text": "é"}], "names": {"a": "\\uD83D\\uDE00"}}'
    assert parsed(body.encode()) == Body(number=3, inner=[Inner(text="é")], names={"a": "😀"})


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (b'{"number": "3"}', "number: input should be a valid integer", "number"),
        (b'{"number": 3, "inner": [{"text": 4}]}', "inner.0.text: input should be a valid string", "inner.0.text"),
        (b'{"inner": 5, "other": 4}', "number: field required; inner: input should be a valid list", "number"),
        (b"[]", "body: input should be a valid dictionary or instance of Body", None),
        (b"{", "body: expected a JSON object (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))", None),  # noqa: E501
        (b"\xff", "body: expected a JSON object ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte)", None),  # noqa: E501
    ],
)  # fmt: skip
def test_a_body_that_is_no_request_is_refused_with_every_place(body: bytes, message: str, param: str | None) -> None:
    with pytest.raises(ApiError) as error:
        parsed(body)
    assert (error.value.status, error.value.kind) == (400, "invalid_request_error")
    assert (str(error.value), error.value.param) == (message, param)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stop": [5]}, "stop.0: input should be a valid string"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name: field required"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function: field required"),
    ],
)
def test_of_the_alternatives_of_a_value_the_nearest_is_told_by_its_place(fields: dict[str, Any], message: str) -> None:
    """As the client wrote it, without the names that alternatives have here."""
    with pytest.raises(ApiError) as error:
        parse_body(json.dumps({"messages": SPELL, **fields}).encode(), ChatCompletionRequest)
    assert str(error.value) == message


def test_what_changes_nothing_is_named_whatever_it_holds() -> None:
    """But for null, which is as good as nothing; and only what the protocol has is known."""
    body = Body(number=3, colour=0, label=False, shape=None, inner=[Inner(text="a", size=""), Inner(text="b", size=1)])  # type: ignore[call-arg]
    assert unused_fields(body) == [Unused("colour", False), Unused("inner.size", False), Unused("label", True)]


def test_the_type_of_a_tool_is_what_a_client_says() -> None:
    """So it is no label of a count, of which there would be more and more."""
    asked = {"messages": SPELL, "tools": [{"type": "web_search_20991231"}]}
    body = parse_body(json.dumps(asked).encode(), ChatCompletionRequest)
    assert unused_fields(body) == [Unused("tools.web_search_20991231", False)]


@pytest.mark.parametrize("nothing", [None, False, [], {}, ""])
def test_a_field_that_is_refused_may_say_that_it_is_not_wanted(nothing: Any) -> None:
    unused_fields(Body(number=3, echo=nothing))  # type: ignore[call-arg]
    with pytest.raises(ApiError, match="^echo: expected none: not supported$") as error:
        unused_fields(Body(number=3, echo=True))  # type: ignore[call-arg]
    assert error.value.param == "echo"


@pytest.mark.parametrize("half", ["\\ud800", "\\uDC00", "\\uD83D\\u0041"])
def test_half_a_surrogate_pair_is_refused(half: str) -> None:
    """It could be read, and never be written again."""
    with pytest.raises(ApiError, match=r"^body: expected a JSON object \("):
        parsed(f'{{"number": 3, "names": {{"a": "{half}"}}}}'.encode())


class Source:
    """Parts and the events that they are made of; what was closed is remembered."""

    def __init__(self, *parts: str | BaseException) -> None:
        self.parts = parts
        self.closed: list[str] = []

    async def _iterate(self, name: str) -> AsyncIterator[Any]:
        try:
            for part in self.parts:
                if isinstance(part, BaseException):
                    raise part
                yield part
        finally:
            self.closed.append(name)

    def respond(self, use: "Callable[[StreamingResponse], Any]") -> Any:
        async def run() -> Any:
            events = self._iterate("events")
            await anext(events)
            parts = self._iterate("parts")
            response = await event_stream(
                Asked(),
                events,
                parts,
                lambda error, sent: f"! {error.status} {error} after {sent}",  # type: ignore[arg-type]
                {"X-Unused-Fields": "a, b"},
            )
            assert isinstance(response, StreamingResponse)
            return await use(response)

        return asyncio.run(run())


async def read_all(response: StreamingResponse) -> tuple[dict[str, str], list[Any]]:
    return dict(response.headers), [part async for part in response.body_iterator]


def test_a_stream_is_sent_part_by_part_and_closed() -> None:
    source = Source("a", "b", "c")

    async def read(response: StreamingResponse) -> Any:
        # As it is when the last part was read, not when everything ends.
        return *await read_all(response), list(source.closed)

    headers, parts, closed = source.respond(read)
    assert (parts, closed) == (["a", "b", "c"], ["parts", "events"])
    assert headers["content-type"].startswith("text/event-stream")
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")
    assert headers["x-unused-fields"] == "a, b"
    assert source.closed == ["parts", "events"]


def test_an_error_after_the_first_part_is_one_more_part() -> None:
    source = Source(": a comment", "a", ": another", "b", OptionError("b: no"))
    assert source.respond(read_all)[1][-1] == "! 400 b: no after 2"
    assert source.closed == ["parts", "events"]


def test_an_error_before_the_first_part_is_raised() -> None:
    async def no_parts() -> AsyncIterator[str]:
        raise OptionError("b: no")
        yield ""

    async def run() -> None:
        await event_stream(Asked(), no_parts(), no_parts(), str, {})  # type: ignore[arg-type]

    with pytest.raises(OptionError, match="^b: no$"):
        asyncio.run(run())


def test_a_reader_that_leaves_closes_the_work_and_is_told_nothing() -> None:
    source = Source("a", "b", "c")

    async def read_one(response: StreamingResponse) -> Any:
        body = response.body_iterator
        part = await anext(aiter(body))
        await body.aclose()  # type: ignore[attr-defined]
        return part

    assert source.respond(read_one) == "a"
    assert source.closed == ["parts", "events"]


def test_work_is_waited_for_while_the_client_stays() -> None:
    async def run() -> tuple[int, int]:
        before = len(asyncio.all_tasks())

        async def work() -> int:
            await asyncio.sleep(0)
            return 7

        found = await unless_gone(Asked(), work())  # type: ignore[arg-type]
        await asyncio.sleep(0)
        return found, len(asyncio.all_tasks()) - before

    assert asyncio.run(run()) == (7, 0)


def test_work_is_cancelled_when_the_client_leaves() -> None:
    """Soon after it did: the connection is looked at five times a second."""
    cancelled: list[bool] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def run() -> None:
        asked = Asked()
        asyncio.get_running_loop().call_later(0.05, setattr, asked, "left", True)
        await asyncio.wait_for(unless_gone(asked, work()), 30)  # type: ignore[arg-type]

    with pytest.raises(ClientGoneError):
        asyncio.run(run())
    assert cancelled == [True]


def test_who_is_cancelled_while_the_client_stays_is_cancelled() -> None:
    cancelled: list[bool] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.append(True)

    async def run() -> None:
        task = asyncio.create_task(unless_gone(Asked(), work()))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    asyncio.run(run())
    assert cancelled == [True]
