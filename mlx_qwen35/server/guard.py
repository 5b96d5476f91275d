"""What stands in front of every route: host, origin and key of a request, and the count of responses by status."""

import hmac
import ipaddress
from collections.abc import Sequence

from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_qwen35.paths import shorten
from mlx_qwen35.server.metrics import Metrics
from mlx_qwen35.server.protocols import error_response
from mlx_qwen35.server.settings import Settings
from mlx_qwen35.server.wire import ApiError

# Without a key: whether the server is there, and the page, which asks for the key itself.
OPEN_PATHS = ("/", "/health")
# The label of requests that no route matches.
NO_ROUTE = "other"
# Names that nobody can register: of this machine, of its network, and of what runs beside it in containers.
LOCAL_NAMES = ("localhost", "local", "internal")


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
            await app(scope, receive, counted)
        finally:
            self._metrics.requests.labels(label, str(status)).inc()

    def _refusal(self, scope: Scope) -> ApiError | None:
        """Why a request may not come in, as far as its headers tell."""
        headers = dict(scope["headers"])
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        if not is_own_host(headers.get(b"host", b""), self._settings.hosts):
            name = headers[b"host"].decode("latin-1")
            return ApiError(
                403,
                "permission_error",
                f"Host: expected a name of this server's, found {shorten(name)!r}; "
                "a server that has other names is started with --allowed-hosts",
            )
        if not is_same_origin(origins, headers.get(b"host", b"")):
            return ApiError(403, "permission_error", "a page of another origin may not ask")
        if scope["path"] not in OPEN_PATHS and not self._has_key(headers):
            return ApiError(401, "authentication_error", "expected the API key")
        most = self._settings.max_body
        if int(headers.get(b"content-length") or 0) > most:
            return ApiError(413, "request_too_large", f"body: expected at most {most} bytes")
        return None

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        key = self._settings.api_key
        if key is None:
            return True
        bearer = headers.get(b"authorization", b"")
        given = bearer[7:] if bearer[:7].lower() == b"bearer " else headers.get(b"x-api-key", b"")
        return hmac.compare_digest(given, key.encode())


def is_own_host(host: bytes, names: Sequence[str]) -> bool:
    """Whether a Host header names this server.

    A page whose own name was made to lead to this machine asks, for the browser, its own origin: only the name in the
    Host header tells (DNS rebinding). An address cannot be made to lead elsewhere.

    Args:
        host: The header's value, with or without a port.
        names: What else it may be; "*" for anything.
    """
    text = host.decode("latin-1").lower()
    name, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or (name.count(":") and not name.endswith("]")):
        name = text
    name = name.removesuffix(".")
    if not text or "*" in names or name in (own.lower() for own in names) or name.split(".")[-1] in LOCAL_NAMES:
        # No page has asked without a Host: browsers send one.
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


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
