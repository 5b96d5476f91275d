"""What makes a protocol one of the server's."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.types import ASGIApp

from mlx_qwen35 import ModelKit
from mlx_qwen35.server import app as application
from mlx_qwen35.server import protocols
from mlx_qwen35.server.generation import DeltaEvent, GenerationRequest, StreamEvent
from mlx_qwen35.server.media import MediaPolicy
from mlx_qwen35.server.protocols.base import AnswerContext, ApiProtocol, GenerationBody
from mlx_qwen35.server.service import GenerationService
from mlx_qwen35.server.settings import Settings
from tests.server.clients import asgi
from tests.server.test_service import Scripted, script


class EchoBody(GenerationBody):
    """A protocol of one field."""

    say: str

    def generation_requests(self) -> list[GenerationRequest]:
        return [GenerationRequest([{"role": "user", "content": self.say}])]


async def whole(events: AsyncIterator[StreamEvent], context: AnswerContext[EchoBody]) -> dict[str, Any]:
    text = "".join([event.text async for event in events if isinstance(event, DeltaEvent)])
    return {"asked": context.body.say, "said": text, "by": context.model}


async def stream(events: AsyncIterator[StreamEvent], context: AnswerContext[EchoBody]) -> AsyncIterator[str]:
    async for event in events:
        if isinstance(event, DeltaEvent):
            yield f"{event.text};"


ECHO = ApiProtocol("/echo", EchoBody, whole, stream, lambda error: {"wrong": str(error)}, lambda error: f"!{error}")


@pytest.fixture
def app(box: ModelKit, monkeypatch: pytest.MonkeyPatch) -> ASGIApp:
    for module in (application, protocols):
        monkeypatch.setattr(module, "PROTOCOLS", (*protocols.PROTOCOLS, ECHO))
    engine = Scripted(box, script("One", "two"))
    return application.make_app(GenerationService(engine, MediaPolicy()), Settings(("box",)))  # type: ignore[arg-type]


def test_one_object_is_a_protocol(app: ASGIApp) -> None:
    async def ask() -> list[tuple[int, bytes]]:
        bodies = ({"say": "Hi"}, {"say": "Hi", "stream": True}, {"say": "Hi", "model": "other"}, {"shout": "Hi"})
        return [await asgi(app, "POST", "/echo", body=json.dumps(body).encode()) for body in bodies]

    answered, streamed, unknown, malformed = asyncio.run(ask())
    assert (answered[0], json.loads(answered[1])) == (200, {"asked": "Hi", "said": "Onetwo", "by": "box"})
    assert streamed == (200, b"One;two;")
    assert (unknown[0], json.loads(unknown[1])) == (404, {"wrong": "model: expected one of box, found 'other'"})
    assert malformed[0] == 400
    assert "shout: unknown or unsupported field" in json.loads(malformed[1])["wrong"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/messages", "type"),
        ("/v1/messages/count_tokens", "type"),
        ("/v1/chat/completions", "error"),
        ("/v1/messages-of-mine", "error"),
        ("/", "error"),
        ("/echo", "wrong"),
        ("/echo/more", "wrong"),
    ],
)
def test_an_error_has_the_form_of_its_path(app: ASGIApp, path: str, field: str) -> None:
    status, text = asyncio.run(asgi(app, "DELETE", path))
    assert status in (404, 405)
    assert next(iter(json.loads(text))) == field
