"""The server: its routes, and what guards them."""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_qwen35 import __version__
from mlx_qwen35.errors import Qwen35Error
from mlx_qwen35.runtime.engine import Engine
from mlx_qwen35.server import chat_completions, completions, messages, responses
from mlx_qwen35.server.chat_completions import SamplingFields
from mlx_qwen35.server.exchange import Ask, Exchange, Prepared, Reply
from mlx_qwen35.server.metrics import Metrics
from mlx_qwen35.server.wire import (
    ApiError,
    ClientGoneError,
    anthropic_error,
    api_error,
    body,
    event_stream,
    openai_error,
    respond,
    sse,
    unless_gone,
)

MAX_BODY = 64 * 2**20
PAGE = Path(__file__).parent / "page.html"
# Anyone may see that the server is there; the page asks for the key itself.
OPEN_PATHS = ("/", "/health")


@dataclass(frozen=True)
class Settings:
    """What the operator decides.

    Args:
        names: Of the model, for requests; the first is the one that is shown.
        api_key: Expected in every request; None lets everyone in.
        max_body: Bytes of a request's body.
    """

    names: Sequence[str]
    api_key: str | None = None
    max_body: int = MAX_BODY


def make_app(exchange: Exchange, settings: Settings) -> FastAPI:
    """The application over an exchange; the caller closes engine and kit.

    Args:
        exchange: Over the engine that runs the requests.
    """

    app = FastAPI(title="mlx_qwen35", version=__version__, docs_url=None, redoc_url=None)
    metrics = Metrics(exchange.engine)
    created = int(time.time())
    served = settings.names[0]

    def check_model(name: str | None) -> str:
        if name is not None and name not in settings.names:
            message = f"model: expected one of {', '.join(settings.names)}, found {name!r}"
            raise ApiError(404, "not_found_error", message, "model")
        return served

    async def prepare(ask: Ask) -> Prepared:
        return await asyncio.to_thread(exchange.prepare, ask)

    def run(prepared: Prepared) -> AsyncIterator[Reply]:
        return metrics.watch(exchange.run(prepared))

    async def reply(
        request: Request,
        prepared: Prepared,
        streamed: bool | None,
        parts: Callable[[AsyncIterator[Reply]], AsyncIterator[str]],
        whole: Callable[[AsyncIterator[Reply]], Awaitable[dict[str, Any]]],
        failed: Callable[[ApiError], str],
    ) -> Response:
        replies = run(prepared)
        if streamed:
            return await event_stream(request, replies, parts(replies), failed)
        return JSONResponse(await unless_gone(request, whole(replies)))

    async def complete(request: Request, asked: SamplingFields, protocol: Any) -> Response:
        """Either of OpenAI's completions: `protocol` is its module."""
        model = check_model(asked.model)
        prepared = Prepared.join([await prepare(ask) for ask in asked.asks()])
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        return await reply(
            request,
            prepared,
            asked.stream,
            lambda replies: protocol.stream(replies, prepared, exchange, model, include_usage=usage),
            lambda replies: protocol.whole(replies, prepared, exchange, model),
            lambda error: sse(openai_error(error)),
        )

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = await body(request, chat_completions.ChatCompletionRequest)
        return await complete(request, asked, chat_completions)

    @app.post("/v1/completions")
    async def plain(request: Request) -> Response:
        return await complete(request, await body(request, completions.CompletionRequest), completions)

    @app.post("/v1/responses")
    async def respond_to(request: Request) -> Response:
        asked = await body(request, responses.ResponsesRequest)
        model = check_model(asked.model)
        prepared = await prepare(asked.ask())
        return await reply(
            request,
            prepared,
            asked.stream,
            lambda replies: responses.stream(replies, asked, model),
            lambda replies: responses.whole(replies, asked, model),
            lambda error: sse({"type": "error", **openai_error(error)["error"]}, "error"),
        )

    @app.post("/v1/messages")
    async def message(request: Request) -> Response:
        asked = await body(request, messages.MessagesRequest)
        model = check_model(asked.model)
        prepared = await prepare(asked.ask())
        return await reply(
            request,
            prepared,
            asked.stream,
            lambda replies: messages.stream(replies, prepared, model),
            lambda replies: messages.whole(replies, prepared, model),
            lambda error: sse(anthropic_error(error), "error"),
        )

    @app.post("/v1/messages/count_tokens")
    async def count_tokens(request: Request) -> Response:
        asked = await body(request, messages.CountRequest)
        check_model(asked.model)
        prepared = await prepare(asked.ask())
        return JSONResponse({"input_tokens": len(prepared.prompt.input_ids)})

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        context = exchange.kit.context_length
        data = [
            {"id": name, "object": "model", "created": created, "owned_by": "mlx_qwen35", "max_model_len": context}
            for name in settings.names
        ]
        return {"object": "list", "data": data, "first_id": data[0]["id"], "last_id": data[-1]["id"], "has_more": False}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        check_model(name)
        return {"id": name, "object": "model", "created": created, "owned_by": "mlx_qwen35"}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        engine = exchange.engine
        return {"status": "ok", "model": served, "running": engine.running, "waiting": engine.waiting}

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(
            PAGE, media_type="text/html", headers={"Cache-Control": "no-cache", "X-Frame-Options": "DENY"}
        )

    @app.exception_handler(ApiError)
    @app.exception_handler(Qwen35Error)
    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return respond(api_error(error), request.url.path)

    @app.exception_handler(ClientGoneError)
    async def gone(request: Request, error: Exception) -> Response:
        # Nobody reads it; the number is what web servers log for this.
        return Response(status_code=499)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
        return respond(ApiError(error.status_code, kind, str(error.detail)), request.url.path)

    app.add_middleware(_Guard, settings=settings, metrics=metrics)
    return app


class Server(uvicorn.Server):
    """Takes no more requests when it is stopped, finishes what is running, and after a time cancels what is left.

    Args:
        patience: Seconds that running answers have.
    """

    def __init__(self, app: FastAPI, engine: Engine, *, patience: float = 30.0, **options: Any) -> None:
        # Cancelled answers have time to say so.
        super().__init__(uvicorn.Config(app, timeout_graceful_shutdown=int(patience) + 10, **options))
        self._engine, self._patience = engine, patience

    async def shutdown(self, sockets: Any = None) -> None:
        """As uvicorn's, and the engine's."""
        closing = asyncio.create_task(asyncio.to_thread(self._engine.close, self._patience))
        await super().shutdown(sockets)
        await closing


class _Guard:
    """In front of every route: the key, the size of the body, and the count of answers by status."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, headers = scope["path"], dict(scope["headers"])
        status = 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if not _same_origin(headers):
                await self._refuse(
                    403, "permission_error", "a page of another origin may not ask", scope, receive, counted
                )
            elif path not in OPEN_PATHS and not self._knows_key(headers):
                await self._refuse(401, "authentication_error", "expected the API key", scope, receive, counted)
            elif int(headers.get(b"content-length", b"0") or 0) > self._settings.max_body:
                await self._refuse(413, "request_too_large", self._too_large(), scope, receive, counted)
            else:
                await self._app(scope, self._limited(receive), counted)
        except _TooLargeError:
            await self._refuse(413, "request_too_large", self._too_large(), scope, receive, counted)
        finally:
            # Paths that do not exist are one label, or anyone could fill the memory with them.
            known = path if path in OPEN_PATHS or (path.startswith("/v1/") and status != 404) else "other"
            self._metrics.requests.labels(known.rsplit("/models/", 1)[0], str(status)).inc()

    def _knows_key(self, headers: dict[bytes, bytes]) -> bool:
        key = self._settings.api_key
        if key is None:
            return True
        bearer = headers.get(b"authorization", b"")
        given = bearer[7:] if bearer[:7].lower() == b"bearer " else headers.get(b"x-api-key", b"")
        return hmac.compare_digest(given, key.encode())

    def _too_large(self) -> str:
        return f"body: expected at most {self._settings.max_body} bytes"

    def _limited(self, receive: Receive) -> Receive:
        """A body without Content-Length is counted as it comes."""
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._settings.max_body:
                raise _TooLargeError
            return message

        return limited

    async def _refuse(self, status: int, kind: str, text: str, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(ApiError(status, kind, text), scope["path"])(scope, receive, send)


def _same_origin(headers: dict[bytes, bytes]) -> bool:
    """Browsers say which page sends a request: any page on the web could otherwise use a server without a key."""
    origin = headers.get(b"origin")
    return origin is None or urlsplit(origin).netloc == headers.get(b"host")


class _TooLargeError(Exception):
    """The body went over the limit while it was read."""
