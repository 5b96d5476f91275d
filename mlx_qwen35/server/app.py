"""The application: its routes, what they do, and how errors are told."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.routing import Route

from mlx_qwen35 import Engine, __version__
from mlx_qwen35.errors import Qwen35Error
from mlx_qwen35.paths import shorten
from mlx_qwen35.server.bodies import BodyReader
from mlx_qwen35.server.connections import BoundedConnection
from mlx_qwen35.server.guard import Guard
from mlx_qwen35.server.metrics import Metrics
from mlx_qwen35.server.page_files import page, page_file
from mlx_qwen35.server.protocols import PROTOCOLS, error_response
from mlx_qwen35.server.protocols.base import AnswerContext, ApiProtocol, PromptBody
from mlx_qwen35.server.protocols.messages import CountRequest
from mlx_qwen35.server.protocols.response_items import listed
from mlx_qwen35.server.protocols.responses import ResponsesRequest
from mlx_qwen35.server.rendering import RENDER_PATH, RenderProcess, RenderRequest
from mlx_qwen35.server.service import GenerationService, PreparedRequest
from mlx_qwen35.server.settings import Settings
from mlx_qwen35.server.stored import StoredResponses, page_of
from mlx_qwen35.server.wire import (
    ApiError,
    ClientGoneError,
    WireObject,
    api_error,
    event_stream,
    invalid_request,
    unless_gone,
    unused_fields,
)

# Where a prompt's tokens are counted: the body, and what stands beside the number.
COUNTS: dict[str, tuple[type[PromptBody], dict[str, str]]] = {
    "/v1/messages/count_tokens": (CountRequest, {}),
    "/v1/responses/input_tokens": (ResponsesRequest, {"object": "response.input_tokens"}),
}
UNUSED_HEADER = "X-Unused-Fields"
# What is wrong most often where a path is.
BASE_URLS = "the base URL of OpenAI's clients ends with /v1, that of Anthropic's does not"
# Ollama and LM Studio have /api beside OpenAI's paths, and clients that speak nothing else.
OTHERS = "Ollama's and LM Studio's own APIs are not served: choose OpenAI-compatible, whose base URL ends with /v1"
SERVED = "here are chat completions, completions, responses, messages and models, and no embeddings, sound or files"
# Of a request, in the header.
MAX_NAMED = 30
_NO_CONTROL = dict.fromkeys((*range(32), 127), "?")


def make_app(service: GenerationService, settings: Settings) -> FastAPI:
    """The application over a generation service; the caller closes engine and kit."""
    renderer = RenderProcess()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(renderer.close)

    app = FastAPI(title="mlx_qwen35", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    metrics = Metrics(service.engine)
    endpoints = Endpoints(service, settings, metrics, renderer)
    for protocol in PROTOCOLS:
        app.post(protocol.path)(endpoints.generation(protocol))
    for path in COUNTS:
        app.post(path)(endpoints.counting(path))
    app.get("/v1/responses/{name}")(endpoints.stored)
    app.get("/v1/responses/{name}/input_items")(endpoints.stored_items)
    app.delete("/v1/responses/{name}")(endpoints.forget)
    app.get("/v1/models")(endpoints.models)
    app.get("/v1/models/{name:path}")(endpoints.one_model)
    app.get("/health")(endpoints.health)
    app.get("/metrics")(endpoints.show_metrics)
    app.post(RENDER_PATH)(endpoints.render)
    app.get("/", include_in_schema=False)(page)
    app.get("/page/{name}", include_in_schema=False)(page_file)
    bodies: dict[str, type[WireObject]] = {protocol.path: protocol.body for protocol in PROTOCOLS}
    bodies |= {path: body for path, (body, _) in COUNTS.items()} | {RENDER_PATH: RenderRequest}
    app.openapi = lambda: describe(app, bodies)  # type: ignore[method-assign]
    for kind in (ApiError, Qwen35Error):
        app.add_exception_handler(kind, _tell)
    app.add_exception_handler(HTTPException, _tell_no_route)
    app.add_exception_handler(ClientGoneError, _tell_nobody)
    app.add_middleware(Guard, settings=settings, metrics=metrics, routes=app.routes)
    return app


def describe(app: FastAPI, bodies: Mapping[str, type[WireObject]]) -> dict[str, Any]:
    """What `/openapi.json` tells: the routes, and the models of their bodies, which the routes parse themselves."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, routes=app.routes)
        references, definitions = models_json_schema(
            [(model, "validation") for model in bodies.values()], ref_template="#/components/schemas/{model}"
        )
        for path, model in bodies.items():
            content = {"application/json": {"schema": references[model, "validation"]}}
            found["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
        found.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
        app.openapi_schema = found
    return app.openapi_schema


class Endpoints:
    """What the routes do."""

    def __init__(
        self, service: GenerationService, settings: Settings, metrics: Metrics, renderer: RenderProcess
    ) -> None:
        self._service, self._settings, self._metrics, self._renderer = service, settings, metrics, renderer
        self._bodies = BodyReader(settings, service.kit.ledger, service.threads)
        self._stored = StoredResponses(settings.max_stored, settings.max_stored_bytes)
        self._created = int(time.time())

    def generation(self, protocol: ApiProtocol[Any]) -> Callable[[Request], Awaitable[Response]]:
        """Answers requests of one protocol."""

        async def generate(request: Request) -> Response:
            deadline = self._service.deadline()
            body = await self._bodies.read(request, protocol.body, deadline)
            self._check_model(body.model)
            headers = self._unused(body, protocol.path)
            body.resolve(self._stored)
            wanted = body.generation_requests()
            places = self._service.reserve(sum(one.n for one in wanted))
            try:
                found = [await unless_gone(request, self._service.prepare_soon(one, deadline)) for one in wanted]
                prepared = PreparedRequest.join(found, places, deadline)
            except BaseException:
                for place in places:
                    place.release()
                raise
            context = AnswerContext(body, prepared, self._settings.names[0], self._service.kit.tokenizer, self._stored)
            events = self._metrics.watch(self._service.run(prepared))
            if body.stream:
                parts = protocol.stream(events, context)
                return await event_stream(request, events, parts, protocol.error_event, headers)
            return JSONResponse(await unless_gone(request, protocol.whole(events, context)), headers=headers)

        return generate

    def counting(self, path: str) -> Callable[[Request], Awaitable[Response]]:
        """Counts a prompt's tokens, for one protocol."""
        model, beside = COUNTS[path]

        async def count(request: Request) -> Response:
            deadline = self._service.deadline()
            body = await self._bodies.read(request, model, deadline)
            self._check_model(body.model)
            headers = self._unused(body, path)
            body.resolve(self._stored)
            (wanted,) = body.generation_requests()
            prepared = await unless_gone(request, self._service.prepare_soon(wanted, deadline))
            return JSONResponse({**beside, "input_tokens": len(prepared.prompt.input_ids)}, headers=headers)

        return count

    def _unused(self, body: WireObject, path: str) -> dict[str, str]:
        """The header that names the fields which change nothing; they are counted too.

        Raises:
            ApiError: One may not be ignored, or none may.
        """
        found = unused_fields(body)
        for field in found:
            # What a client invents is no label.
            self._metrics.unused.labels(path, field.place if field.known else "unknown").inc()
        if not found:
            return {}
        names = ", ".join(field.place for field in found[:MAX_NAMED])
        if self._settings.strict:
            raise invalid_request(f"{names}: no effect here, and refused because of --strict", found[0].place)
        return {UNUSED_HEADER: names.encode("ascii", "backslashreplace").decode().translate(_NO_CONTROL)}

    async def stored(self, name: str, request: Request) -> Response:
        """A response that was stored."""
        if request.query_params.get("stream", "false") not in ("false", "0"):
            # A client that waits for events would read a whole response as none.
            raise invalid_request("stream: expected none: what is stored is complete; read it without stream", "stream")
        return JSONResponse(self._stored.get(name).response)

    async def stored_items(self, name: str, request: Request) -> Response:
        """The conversation before it."""
        page = page_of(self._stored.get(name).items, request.query_params)
        return JSONResponse({**page, "data": [listed(item) for item in page["data"]]})

    async def forget(self, name: str) -> Response:
        """Forget a response."""
        self._stored.remove(name)
        return JSONResponse({"id": name, "object": "response.deleted", "deleted": True})

    def _check_model(self, name: str | None) -> None:
        """Any name is answered by the one model that there is, unless the operator wants it otherwise."""
        names = self._settings.names
        if self._settings.strict_model and name is not None and name not in names:
            message = f"model: expected one of {', '.join(names)}, found {name!r}"
            raise ApiError(404, "not_found_error", message, "model")

    async def models(self) -> dict[str, Any]:
        """The names of the model, with the fields of OpenAI's and of Anthropic's list."""
        data = [self._model(name) for name in self._settings.names]
        return {"object": "list", "data": data, "first_id": data[0]["id"], "last_id": data[-1]["id"], "has_more": False}

    async def one_model(self, name: str) -> dict[str, Any]:
        """Whether a name is one of the model's."""
        self._check_model(name)
        return self._model(name)

    def _model(self, name: str) -> dict[str, Any]:
        context, vision = self._service.kit.context_length, self._service.kit.vision
        created = datetime.fromtimestamp(self._created, UTC).isoformat().replace("+00:00", "Z")
        return {
            "id": name, "object": "model", "created": self._created, "owned_by": "mlx_qwen35",
            "type": "model", "display_name": name, "created_at": created,
            "max_model_len": context, "context_length": context, "max_input_tokens": context,
            "input_modalities": ["text", *(["image"] if vision.unavailable is None else []),
                                 *(["video"] if vision.sees_videos else [])],
        }  # fmt: skip

    async def health(self) -> dict[str, Any]:
        """That the server is there, and how busy it is."""
        engine = self._service.engine
        names = self._settings.names
        return {"status": "ok", "model": names[0], "running": engine.running, "waiting": engine.waiting}

    async def show_metrics(self) -> Response:
        """What Prometheus reads."""
        return PlainTextResponse(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def render(self, request: Request) -> Response:
        """Markdown as HTML, for the page."""
        body = await self._bodies.read(request, RenderRequest, self._service.deadline())
        blocks = await unless_gone(request, self._renderer.render(body))
        return JSONResponse({"blocks": blocks}, headers=self._unused(body, RENDER_PATH))


async def _tell(request: Request, error: Exception) -> Response:
    return error_response(api_error(error), request.url.path)


async def _tell_no_route(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        path = request.url.path
        # An address that is right already is not to be doubted: a program wants what is not here, like embeddings.
        right = path.startswith("/v1/") and not path.startswith("/v1/v1/")
        hint = OTHERS if path.startswith("/api/") else SERVED if right else BASE_URLS
        message = f"no such path: {shorten(path)}; {hint}"
        return error_response(ApiError(404, "not_found_error", message), request.url.path)
    if error.status_code != 405:
        return error_response(ApiError(error.status_code, "invalid_request_error", str(error.detail)), request.url.path)
    # Starlette looks no further than the first route of a path.
    there = [route for route in request.app.routes if isinstance(route, Route)]
    found = {name for route in there if route.path_regex.match(request.scope["path"]) for name in route.methods or ()}
    # What is asked for its headers is answered too; see `guard.as_get`.
    methods = ", ".join(sorted(found | {"HEAD"} if "GET" in found else found))
    message = f"method: expected {methods}, found {shorten(request.method, 20)}: {shorten(request.url.path)}"
    response = error_response(ApiError(405, "invalid_request_error", message), request.url.path)
    response.headers["Allow"] = methods
    return response


async def _tell_nobody(request: Request, error: Exception) -> Response:
    # 499 is what web servers log for a client that has left.
    return Response(status_code=499)


class Server(uvicorn.Server):
    """Takes no more requests when it is stopped, finishes what is running, and after a time cancels what is left.

    Args:
        patience: Seconds until it ends, whatever still runs.
        on_ready: Called once requests are answered.
    """

    def __init__(
        self, app: FastAPI, engine: Engine, *, patience: float = 30.0, on_ready: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> None:  # fmt: skip
        config = uvicorn.Config(
            app, http=BoundedConnection, ws="none", timeout_graceful_shutdown=max(1, int(patience)), **options
        )
        super().__init__(config)
        # The rest is for cancelled answers to tell their clients.
        self._engine, self._patience, self._on_ready = engine, 0.75 * patience, on_ready

    async def startup(self, sockets: Any = None) -> None:
        """As uvicorn's, and whoever waits for it is told."""
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: Any = None) -> None:
        """As uvicorn's, and the engine's."""
        closing = asyncio.create_task(asyncio.to_thread(self._engine.close, self._patience))
        await super().shutdown(sockets)
        await closing
