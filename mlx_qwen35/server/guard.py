"""What stands in front of every route: host, origin and key of a request, and the count of responses by status."""

import hmac
import ipaddress
from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_qwen35.paths import shorten
from mlx_qwen35.server import page_files
from mlx_qwen35.server.metrics import Metrics
from mlx_qwen35.server.protocols import error_response
from mlx_qwen35.server.settings import Settings
from mlx_qwen35.server.wire import ApiError, api_error

# Without a key: whether the server is there, and the page, which asks for the key itself.
OPEN_PATHS = (*page_files.PATHS, "/health")
# The label of requests that no route matches.
NO_ROUTE = "other"
# Names that nobody can register: of this machine, of its network, and of what runs beside it in containers.
LOCAL_NAMES = ("localhost", "local", "internal")
# Answered without /v1 too, as by mlx-lm's and mlx-vlm's servers: clients are told an address with or without it.
UNVERSIONED = ("/chat/completions", "/responses", "/messages", "/models")
# What the routes take from a page of an origin that is let in, and for how many seconds a browser may remember that.
METHODS = "GET, POST, DELETE, OPTIONS"
MAX_AGE = 7200


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
        scope = as_get(with_version(scope))
        label, status = route_label(self._routes, scope), 0
        refusal = self._foreign(scope)
        origin = None if refusal else self._let_in(scope)

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._mark(MutableHeaders(scope=message), origin)
                if has_two_lengths(scope):
                    MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        app = self._app
        if origin and is_preflight(scope):
            app = preflight_response(scope)
        elif refusal := refusal or self._refusal(scope):
            app = error_response(refusal, scope["path"])
        try:
            await app(scope, receive, counted)
        except Exception as error:
            # Here, and not by Starlette's outermost handler: a page that is let in may read this error too.
            if status:
                raise
            await error_response(api_error(error), scope["path"])(scope, receive, counted)
        finally:
            self._metrics.requests.labels(label, str(status or 500)).inc()

    def _foreign(self, scope: Scope) -> ApiError | None:
        """Why a request's host or origin may not ask."""
        headers = dict(scope["headers"])
        if not is_own_host(headers.get(b"host", b""), self._settings.hosts):
            name = headers[b"host"].decode("latin-1")
            return ApiError(
                403,
                "permission_error",
                f"Host: expected a name of this server's, found {shorten(name)!r}; "
                "a server that has other names is started with --allowed-hosts",
            )
        if not is_same_origin(origins_of(scope), headers.get(b"host", b"")) and self._let_in(scope) is None:
            message = "a page of another origin may not ask, unless --allowed-origins names it"
            return ApiError(403, "permission_error", message)
        return None

    def _let_in(self, scope: Scope) -> str | None:
        """The origin of a page elsewhere that the operator has named; the only one that a request names."""
        found, allowed = origins_of(scope), self._settings.origins
        if len(found) != 1 or not found[0]:
            return None
        origin = found[0].decode("latin-1")
        return origin if "*" in allowed or origin.lower() in allowed else None

    def _mark(self, headers: MutableHeaders, origin: str | None) -> None:
        """Let the browser hand a response to the page, and caches keep it for no other."""
        if self._settings.origins:
            headers.add_vary_header("Origin")
        if origin:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = "*"

    def _refusal(self, scope: Scope) -> ApiError | None:
        """Why a request may not come in, as far as its key and size tell."""
        headers = dict(scope["headers"])
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


def with_version(scope: Scope) -> Scope:
    """A request of a path that lacks its /v1, with it."""
    path = scope["path"]
    if any(f"{path}/".startswith(f"{known}/") for known in UNVERSIONED):
        return {**scope, "path": f"/v1{path}", "raw_path": b"/v1" + scope.get("raw_path", path.encode())}
    return scope


def as_get(scope: Scope) -> Scope:
    """A question for the headers of an answer only, as one for all of it: uvicorn leaves the rest out.

    Every server has to take it (RFC 9110, 9.1); Claude Code looks with it whether somebody is there.
    """
    return {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope


def origins_of(scope: Scope) -> list[bytes]:
    """The values of all Origin headers, as they came."""
    return [value for name, value in scope["headers"] if name == b"origin"]


def has_two_lengths(scope: Scope) -> bool:
    """Whether a body has a length and comes in chunks: the length is ignored.

    A proxy in front may have believed it, and then takes what stands behind the body for another request's: nothing
    more is read from the connection (RFC 9112, 6.1).
    """
    names = [name for name, _ in scope["headers"]]
    return b"transfer-encoding" in names and b"content-length" in names


def is_preflight(scope: Scope) -> bool:
    """Whether a browser asks what a page may send, before it sends anything; no key comes with that."""
    return scope["method"] == "OPTIONS" and any(
        name == b"access-control-request-method" for name, _ in scope["headers"]
    )


def preflight_response(scope: Scope) -> Response:
    """That a page may send what it means to; the origin is named by who sends this."""
    asked = dict(scope["headers"])
    # Named one by one: the browser takes "*" for everything but Authorization.
    names = asked.get(b"access-control-request-headers", b"Authorization, Content-Type, X-API-Key").decode("latin-1")
    headers = {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": names,
        "Access-Control-Max-Age": str(MAX_AGE),
        "Vary": "Access-Control-Request-Method, Access-Control-Request-Headers",
    }
    if b"access-control-request-private-network" in asked:
        headers["Access-Control-Allow-Private-Network"] = "true"
    return Response(status_code=204, headers=headers)


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
