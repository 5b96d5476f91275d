"""What all protocols share on the wire: strict JSON bodies, server-sent events, errors."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect

from mlx_qwen35.errors import (
    EngineFullError,
    GenerationCancelled,
    KitClosedError,
    Qwen35Error,
)
from mlx_qwen35.server.exchange import RequestTimeoutError

logger = logging.getLogger(__name__)

# A queue that is full now has moved by then.
RETRY_AFTER = 2


class Strict(BaseModel):
    """A JSON object whose every field is known: a field that would be ignored is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


B = TypeVar("B", bound=Strict)


class ApiError(Exception):
    """Something to tell the client, in the form of whichever protocol it speaks.

    Args:
        status: HTTP status.
        kind: OpenAI's and Anthropic's name for this kind of error.
        param: The field that it is about.
    """

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param

    @property
    def headers(self) -> dict[str, str]:
        """When to come again, for a server that is busy."""
        return {"Retry-After": str(RETRY_AFTER)} if self.status in (429, 503) else {}


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


def api_error(error: BaseException) -> ApiError:
    """What a client learns of an error: all about its own mistakes, nothing about the server's insides."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineFullError):
        return ApiError(429, "rate_limit_error", f"the server is busy: {error}")
    if isinstance(error, KitClosedError | GenerationCancelled):
        return ApiError(503, "overloaded_error", "the server is shutting down")
    if isinstance(error, RequestTimeoutError):
        return ApiError(504, "timeout_error", str(error))
    if isinstance(error, Qwen35Error):
        # Messages about a field begin with its place.
        place, colon, _ = str(error).partition(": ")
        return ApiError(400, "invalid_request_error", str(error), place if colon and " " not in place else None)
    logger.error("a request failed", exc_info=error)
    return ApiError(500, "api_error", "the server failed on this request")


def openai_error(error: ApiError) -> dict[str, Any]:
    """OpenAI's error object."""
    code = {401: "invalid_api_key", 429: "rate_limit_exceeded"}.get(error.status)
    return {"error": {"message": str(error), "type": error.kind, "param": error.param, "code": code}}


def anthropic_error(error: ApiError) -> dict[str, Any]:
    """Anthropic's error object."""
    return {"type": "error", "error": {"type": error.kind, "message": str(error)}}


def respond(error: ApiError, path: str) -> JSONResponse:
    """An error in the form of the protocol that the path belongs to."""
    form = anthropic_error if path.startswith("/v1/messages") else openai_error
    return JSONResponse(form(error), error.status, headers=error.headers)


async def body(request: Request, model: type[B]) -> B:
    """The request's JSON, every field known and of its type.

    Raises:
        ApiError: It is not; names every wrong field.
        ClientGoneError: The client went before the body was complete.
    """
    try:
        raw = await request.body()
    except ClientDisconnect:
        raise ClientGoneError from None
    try:
        data = json.loads(raw)
        if b"\\ud" in raw.lower():
            # Half of a character, which no answer could repeat.
            json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "invalid_request_error", f"body: expected a JSON object ({error})") from None
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [(".".join(str(part) for part in problem["loc"]), problem) for problem in error.errors()]
        lines = [
            f"{place}: unknown or unsupported field" if problem["type"] == "extra_forbidden"
            else f"{place or 'body'}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"
            for place, problem in problems[:20]
        ]  # fmt: skip
        raise ApiError(400, "invalid_request_error", "; ".join(lines), problems[0][0] or None) from None


def sse(data: Mapping[str, Any] | str, event: str | None = None) -> str:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"{f'event: {event}' + chr(10) if event else ''}data: {text}\n\n"


async def event_stream(
    request: Request, replies: AsyncIterator[Any], parts: AsyncIterator[str], failed: Callable[[ApiError], str]
) -> Response:
    """A streamed response that has begun: errors before its first part are ordinary responses.

    Args:
        replies: What `parts` are made of; closed with them, so that the work ends with the client.
        failed: An error as an event, once the status line is gone.
    Raises:
        Exception: What the first part raised.
    """
    first = await unless_gone(request, anext(parts))

    async def send() -> AsyncIterator[str]:
        try:
            yield first
            async for part in parts:
                yield part
        except (GeneratorExit, asyncio.CancelledError):
            raise
        except BaseException as error:
            yield failed(api_error(error))
        finally:
            await parts.aclose()  # type: ignore[attr-defined]
            await replies.aclose()  # type: ignore[attr-defined]

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(send(), media_type="text/event-stream", headers=headers)


T = TypeVar("T")


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Wait for work, and stop it when the client goes.

    Raises:
        ClientGoneError: The client went.
    """
    task = asyncio.ensure_future(work)

    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(0.2)
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await task
    except asyncio.CancelledError:
        if watcher.done():
            raise ClientGoneError from None
        raise
    finally:
        watcher.cancel()
        task.cancel()
