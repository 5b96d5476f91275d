"""What stands in front of every route: origin, key and size of a request, and the count of responses by status."""

import hmac
from collections.abc import Sequence

from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_qwen35.server.metrics import Metrics
from mlx_qwen35.server.protocols import error_response
from mlx_qwen35.server.settings import Settings
from mlx_qwen35.server.wire import ApiError

# Without a key: whether the server is there, and the page, which asks for the key itself.
OPEN_PATHS = ("/", "/health")
# The label of requests that no route matches.
NO_ROUTE = "other"


class Guard:
    """ASGI middleware that refuses what may not come in, and counts every response.

    Args:
        routes: Of the application, for the labels of the counts.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, routes: Sequence[BaseRoute]) -> None:
        self._app, self._settings, self._metrics, self._routes = app, settings, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        label, status = route_label(self._routes, scope), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refusal = self._refusal(scope)
        app = self._app if refusal is None else error_response(refusal, scope["path"])
        try:
            await app(scope, self._limited(receive), counted)
        finally:
            self._metrics.requests.labels(label, str(status)).inc()

    def _refusal(self, scope: Scope) -> ApiError | None:
        """Why a request may not come in, as far as its headers tell."""
        headers = dict(scope["headers"])
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        if not is_same_origin(origins, headers.get(b"host", b"")):
            return ApiError(403, "permission_error", "a page of another origin may not ask")
        if scope["path"] not in OPEN_PATHS and not self._has_key(headers):
            return ApiError(401, "authentication_error", "expected the API key")
        if int(headers.get(b"content-length") or 0) > self._settings.max_body:
            return self._too_large()
        return None

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        key = self._settings.api_key
        if key is None:
            return True
        bearer = headers.get(b"authorization", b"")
        given = bearer[7:] if bearer[:7].lower() == b"bearer " else headers.get(b"x-api-key", b"")
        return hmac.compare_digest(given, key.encode())

    def _too_large(self) -> ApiError:
        return ApiError(413, "request_too_large", f"body: expected at most {self._settings.max_body} bytes")

    def _limited(self, receive: Receive) -> Receive:
        """Counts a body as it comes, since not every one says its length; raises in the route that reads it."""
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._settings.max_body:
                raise self._too_large()
            return message

        return limited


def is_same_origin(origins: Sequence[bytes], host: bytes) -> bool:
    """Whether a request comes from this server's own page, or from no page at all.

    Browsers send the origin of the page that makes a request; without this check any page on the web could use
    a server that has no key.

    Args:
        origins: The values of all Origin headers, as they came.
        host: The Host header.
    """
    # Compared as text: a browser writes both alike, and what cannot be parsed is another origin.
    own = (b"http://" + host.lower(), b"https://" + host.lower())
    return all(host and origin.lower() in own for origin in origins)


def route_label(routes: Sequence[BaseRoute], scope: Scope) -> str:
    """The path of the route that a request matches, as it was declared: what a client invents is no label."""
    for route in routes:
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
            return route.path_format
    return NO_ROUTE
