"""Bodies of requests: read within bounds of size, time and memory, then held against the model of their protocol."""

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect

from mlx_qwen35.errors import InsufficientMemoryError
from mlx_qwen35.paths import shorten
from mlx_qwen35.runtime.ledger import Ledger
from mlx_qwen35.server.preparing import PreparingThreads
from mlx_qwen35.server.settings import Settings
from mlx_qwen35.server.wire import OTHER, ApiError, ClientGoneError, WireObject, invalid_request

# Of the JSON in a body. Texts have commas and braces too: about as many as a context has tokens, at most.
MAX_SEPARATORS = 400_000
MAX_KEYS = 20_000
MAX_LEVELS = 100
# Of the errors that a client is told.
MAX_PROBLEMS = 5
# Bytes that a body takes while it is parsed, for each of its own: pieces, the whole, its text, and its values.
PARSED_SIZE = 5

B = TypeVar("B", bound=WireObject)


class BodyReader:
    """Reads the bodies of requests.

    Args:
        ledger: Where bodies that are being read and parsed are entered.
    """

    def __init__(self, settings: Settings, ledger: Ledger, threads: PreparingThreads) -> None:
        self._settings, self._ledger, self._threads = settings, ledger, threads

    async def read(self, request: Request, model: type[B], deadline: float) -> B:
        """The body of a request.

        Args:
            deadline: Of `time.monotonic`.
        Raises:
            ApiError: It is not of this model, and names the wrong fields; or it is too large or too slow.
            ClientGoneError: The client left before the end of the body.
        """
        coding = request.headers.get("content-encoding", "identity")
        if coding.strip().lower() not in ("", "identity"):
            message = f"Content-Encoding: expected a body that is not compressed, found {shorten(coding)}"
            raise ApiError(415, "invalid_request_error", message)
        with ExitStack() as stack:
            raw = await self._raw(request, stack)
            return await self._threads.run(parse_body, raw, model, deadline=deadline)

    async def _raw(self, request: Request, stack: ExitStack) -> bytes:
        """The bytes, and their memory for as long as the stack is not closed."""
        seconds, most = self._settings.body_seconds, self._settings.max_body
        pieces: list[bytes] = []
        size = 0
        lease = self._ledger.open("request bodies")
        stack.callback(lease.release)
        try:
            async with asyncio.timeout(seconds):
                async for piece in request.stream():
                    size += len(piece)
                    if size > most:
                        raise ApiError(413, "request_too_large", f"body: expected at most {most} bytes")
                    if not lease.resize(PARSED_SIZE * size):
                        raise InsufficientMemoryError("body: expected memory for it, found none left")
                    pieces.append(piece)
        except TimeoutError:
            raise ApiError(408, "timeout_error", f"body: expected all of it within {seconds:g} seconds") from None
        except InsufficientMemoryError as error:
            raise ApiError(503, "overloaded_error", str(error)) from None
        except ClientDisconnect:
            raise ClientGoneError from None
        return b"".join(pieces)


def parse_body(raw: bytes, model: type[B]) -> B:
    """A body's JSON as an object of its model.

    Raises:
        ApiError: It is not of this model; names the wrong fields.
    """
    data = read_json(raw)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
    # Of the alternatives of one value, those that came furthest say what is wrong.
    places = [_said(problem, data) for problem in found]
    told: dict[str, str] = {}
    for place, message in sorted(places, key=lambda problem: -problem[0].count(".")):
        if not any(f"{other}.".startswith(f"{place}.") for other in told):
            told[place] = message
        if len(told) == MAX_PROBLEMS:
            break
    lines = [f"{place or 'body'}: {message}" for place, message in told.items()]
    raise invalid_request("; ".join(lines), next(iter(told)) or None)


def _said(problem: ErrorDetails, data: Any) -> tuple[str, str]:
    """The place of what is wrong, and what is."""
    kind, message = problem["type"], problem["msg"]
    place = _place(problem["loc"], data, kind == "missing")
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        # Of a union whose members are told by their `type`: those that are only left out are not what is wanted here.
        place = f"{place}.type".removeprefix(".")
        if kind == "union_tag_not_found":
            return place, "field required"
        wanted = problem["ctx"]["expected_tags"].replace(f", '{OTHER}'", "")
        return place, f"expected {' or '.join(wanted.rsplit(', ', 1))}, found {shorten(problem['ctx']['tag'])!r}"
    return place, shorten(f"{message[:1].lower()}{message[1:]}", 200)


def _place(location: Sequence[str | int], data: Any, missing: bool) -> str:
    """The path of a wrong value, or of a missing field: pydantic's, without its names for a union's alternatives."""
    path: list[str] = []
    node = data
    for at, part in enumerate(location):
        if (isinstance(node, dict) and part in node) or (isinstance(node, list) and isinstance(part, int)):
            path.append(str(part))
            node = node[part]  # type: ignore[index]
        elif missing and at == len(location) - 1 and isinstance(node, dict) and isinstance(part, str):
            path.append(part)
    return ".".join(path)


def read_json(raw: bytes) -> Any:
    """JSON of a bounded number of values, which are not nested deeply and hold valid Unicode only.

    Raises:
        ApiError: It is not.
    """
    # Before anything is made of it: a value takes many times the memory of its text.
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_SEPARATORS:
        raise invalid_request(f"body: expected at most {MAX_SEPARATORS} values, found more")
    try:
        data = json.loads(raw, parse_float=_finite, parse_constant=_no_number)
        if b"\\ud" in raw or b"\\uD" in raw:
            # An escaped half of a surrogate pair, which cannot be encoded again.
            json.dumps(data, ensure_ascii=False).encode()
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise invalid_request(f"body: expected a JSON object ({error})") from None
    pending = [(data, 1)]
    while pending:
        node, level = pending.pop()
        if level > MAX_LEVELS:
            raise _too_deep()
        if isinstance(node, Mapping):
            if len(node) > MAX_KEYS:
                raise invalid_request(f"body: expected at most {MAX_KEYS} keys in one object, found {len(node)}")
            node = list(node.values())
        if isinstance(node, list):
            pending += [(child, level + 1) for child in node if isinstance(child, list | dict)]
    return data


def _finite(text: str) -> float:
    """A number that can be written again: JSON has no infinity, and bodies of /v1/responses hold what was sent."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{shorten(text)} is beyond the largest number, 1.8e308")
    return value


def _no_number(text: str) -> None:
    """NaN, Infinity and -Infinity are no JSON, though Python reads and writes them."""
    raise ValueError(f"{text} is no JSON")


def _too_deep() -> ApiError:
    return invalid_request(f"body: expected at most {MAX_LEVELS} levels of values inside each other, found more")
