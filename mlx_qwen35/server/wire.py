"""What all protocols share on the wire: strict JSON objects, errors, server-sent events, clients that leave."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field

from mlx_qwen35.errors import ContextLengthError, EngineFullError, GenerationCancelled, KitClosedError, Qwen35Error
from mlx_qwen35.paths import shorten
from mlx_qwen35.server.generation import RequestTimeoutError

logger = logging.getLogger(__name__)

# Seconds after which a client may try again when the queue is full.
RETRY_AFTER = 2
# The tag, in a union, of what is left out.
OTHER = "other"


class WireObject(BaseModel):
    """A JSON object of a protocol; a value that would have to be converted is an error.

    Its fields are honoured. Others are taken along, and without effect, but for those without which the answer would
    not be what is asked for: these are refused.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    # Fields that are known to change nothing here: hints, labels, and services that are not there.
    without_effect: ClassVar[frozenset[str]] = frozenset()
    # Fields that are refused, with what to do; whatever says "not wanted" (null, false, an empty list) is accepted.
    refused: ClassVar[Mapping[str, str]] = {}


class Dropped(WireObject):
    """A part of a request for which nothing here stands; it is left out, and named."""

    type: str


class HostedTool(Dropped):
    """A tool that the servers of a protocol's makers run, such as web_search, or that their models know: not here."""


def kind_of(types: Sequence[str], default: str, other: str, others: Sequence[str] = ()) -> Discriminator:
    """Tells the members of a union by their `type`.

    Args:
        types: Each is the tag of a member.
        default: Where the type is missing.
        other: The tag of the member that any other type belongs to.
        others: The types that do, where not every one does. What is neither is refused with the tags of all members.
    """

    def kind(value: Any) -> str:
        found = value.get("type", default) if isinstance(value, dict) else getattr(value, "type", default)
        if found in types:
            return str(found)
        return shorten(found) if others and found not in others else other

    return Discriminator(kind)


@dataclass(frozen=True)
class Unused:
    """A field that came and changes nothing.

    Args:
        place: Its path in the body, without the places in lists.
        known: Whether it is one that the protocol has.
    """

    place: str
    known: bool


def unused_fields(body: WireObject) -> list[Unused]:
    """The fields of a body, and of everything in it, that change nothing.

    Raises:
        ApiError: One may not be ignored.
    """
    found: dict[str, Unused] = {}
    pending: list[tuple[Any, tuple[str | int, ...]]] = [(body, ())]
    while pending:
        node, path = pending.pop()
        if isinstance(node, list):
            pending += [(item, (*path, at)) for at, item in enumerate(node) if isinstance(item, WireObject)]
        if not isinstance(node, WireObject):
            continue
        if isinstance(node, Dropped):
            plain = ".".join([*(part for part in path if isinstance(part, str)), node.type])
            # The types of tools have dates in them, and are whatever a client says.
            found[plain] = Unused(shorten(plain, 60), known=not isinstance(node, HostedTool))
            continue
        for name, value in (node.model_extra or {}).items():
            place = ".".join(map(str, (*path, name)))
            if name in node.refused and value not in (None, False, [], {}, ""):
                raise invalid_request(f"{place}: expected none: {node.refused[name]}", place)
            if value is not None:
                plain = ".".join([*(part for part in path if isinstance(part, str)), name])
                found[plain] = Unused(shorten(plain, 60), name in node.without_effect)
        own = node.model_fields_set - set(node.model_extra or ())
        pending += [(getattr(node, name), (*path, name)) for name in own]
    return [found[place] for place in sorted(found)]


T = TypeVar("T")
# A list of a body: its first wrong item is enough to refuse it, and there may be many.
Items = Annotated[list[T], Field(fail_fast=True)]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# An integer as JSON's numbers have it: programs whose numbers are all floats (Gson, Lua) write 20.0.
Whole = Annotated[int, BeforeValidator(_whole)]


def agreed(name: str, value: T | None, other_name: str, other: T | None) -> T | None:
    """What two fields say that mean the same.

    Raises:
        ApiError: They say different things.
    """
    if None not in (value, other) and value != other:
        raise invalid_request(f"{name}: found another {other_name}", name)
    return other if value is None else value


class ApiError(Exception):
    """An error that the client is told, in the form of the protocol that it speaks.

    Args:
        status: HTTP status.
        kind: The error's `type`, as OpenAI and Anthropic name it.
        param: The field that is wrong, if it is one.
        code: OpenAI's, where programs go by it.
    """

    def __init__(self, status: int, kind: str, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code

    @property
    def headers(self) -> dict[str, str]:
        """When to try again, if the server is busy or shutting down."""
        return {"Retry-After": str(RETRY_AFTER)} if self.status in (429, 503) else {}


class ClientGoneError(Exception):
    """The client closed its connection before it had an answer."""


def invalid_request(message: str, param: str | None = None) -> ApiError:
    """What a client did wrong, as an error; see `ApiError`."""
    return ApiError(400, "invalid_request_error", message, param)


def api_error(error: BaseException) -> ApiError:
    """What a client is told of an error: everything about a mistake of its own, nothing about a fault of the server.

    Faults of the server are logged.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineFullError):
        return ApiError(429, "rate_limit_error", f"the server is busy: {error}")
    if isinstance(error, KitClosedError | GenerationCancelled):
        return ApiError(503, "overloaded_error", "the server is shutting down")
    if isinstance(error, RequestTimeoutError):
        return ApiError(504, "timeout_error", str(error))
    if isinstance(error, ContextLengthError):
        # The words of Anthropic's API, and those of OpenAI's: by them, or by the code, agents know that they have to
        # shorten the conversation, and to what.
        told = f"prompt is too long: {error.found} tokens > {error.fits} maximum; "
        told += f"this model's maximum context length is {error.fits} tokens here ({error})"
        return ApiError(400, "invalid_request_error", told, "prompt", "context_length_exceeded")
    if isinstance(error, Qwen35Error):
        # Messages of this package about a field begin with its name and a colon.
        place, colon, _ = str(error).partition(": ")
        return invalid_request(str(error), place if colon and " " not in place else None)
    logger.error("a request failed", exc_info=error)
    return ApiError(500, "api_error", "the server failed on this request")


def sse(data: Mapping[str, Any] | str, event: str | None = None) -> str:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"{f'event: {event}' + chr(10) if event else ''}data: {text}\n\n"


async def event_stream(
    request: Request,
    events: AsyncIterator[Any],
    parts: AsyncIterator[str],
    error_event: Callable[[ApiError, int], str],
    headers: Mapping[str, str],
) -> Response:
    """A streamed response, once its first part is there: until then an error can still have a status of its own.

    Args:
        events: What `parts` are made of; closed with them, which cancels the work when the client leaves.
        error_event: An error that comes later, as one more part, given the number of events before it.
        headers: Further ones.
    Raises:
        Exception: Whatever the first part raised.
    """
    first = await unless_gone(request, anext(parts))

    async def send() -> AsyncIterator[str]:
        sent = 0
        try:
            yield first
            sent += not first.startswith(":")
            async for part in parts:
                yield part
                sent += not part.startswith(":")
        except (GeneratorExit, asyncio.CancelledError):
            raise
        except BaseException as error:
            yield error_event(api_error(error), sent)
        finally:
            await parts.aclose()  # type: ignore[attr-defined]
            await events.aclose()  # type: ignore[attr-defined]

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers}
    return StreamingResponse(send(), media_type="text/event-stream", headers=headers)


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Wait for work, and cancel it if the client leaves.

    Raises:
        ClientGoneError: The client left.
    """
    task = asyncio.ensure_future(work)

    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(0.2)
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        # Whoever is cancelled in here cancels the work.
        return await task
    except asyncio.CancelledError:
        if watcher.done():
            raise ClientGoneError from None
        raise
    finally:
        watcher.cancel()
