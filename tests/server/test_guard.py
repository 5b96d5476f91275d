"""What is refused before any route sees it."""

import asyncio
import json
from contextlib import suppress
from http.client import HTTPConnection
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_qwen35 import Engine, ModelKit
from mlx_qwen35.server.app import make_app
from mlx_qwen35.server.guard import Guard, is_own_host, is_same_origin, with_version
from mlx_qwen35.server.metrics import Metrics
from mlx_qwen35.server.settings import Settings
from tests.server.clients import SPELL, asgi, asgi_messages, logging_of, raw
from tests.server.conftest import Running, serving


def test_the_key(box: ModelKit) -> None:
    with serving(box, api_key="secret") as guarded:
        body = {"messages": SPELL, "max_tokens": 1}
        path = "/v1/chat/completions"
        assert raw(guarded.url, path, body)[0] == 401
        assert raw(guarded.url, path, body, {"Authorization": "Bearer wrong"})[0] == 401
        assert raw(guarded.url, "/v1/messages", body)[2].startswith('{"type":"error"')
        assert raw(guarded.url, path, body, {"Authorization": "Bearer secret"})[0] == 200
        assert raw(guarded.url, path, body, {"x-api-key": "secret"})[0] == 200
        # HTTP's schemes have no case.
        for scheme, status in (("bearer", 200), ("BEARER", 200), ("Basic", 401)):
            assert raw(guarded.url, "/v1/models", headers={"Authorization": f"{scheme} secret"})[0] == status
        assert raw(guarded.url, "/v1/models")[0] == raw(guarded.url, "/metrics")[0] == 401
        assert raw(guarded.url, "/health")[0] == 200


def test_the_body_has_a_limit(box: ModelKit) -> None:
    with serving(box, max_body=1000) as small:
        path, body = "/v1/chat/completions", json.dumps({"messages": [{"role": "user", "content": "a" * 2000}]})
        assert raw(small.url, path, body)[0] == 413
        connection = HTTPConnection(urlsplit(small.url).netloc, timeout=60)
        connection.request("POST", path, iter([body.encode()]), encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()


def test_a_page_of_another_origin_may_not_ask(server: Running) -> None:
    body = {"messages": SPELL, "max_tokens": 1}
    path = "/v1/chat/completions"
    address, port = server.url.rsplit(":", 1)
    for origin in ("https://example.com", address, f"{address}:{int(port) % 65535 + 1}", f"http://localhost:{port}"):
        assert raw(server.url, path, body, {"Origin": origin})[0] == 403
    assert raw(server.url, path, body, {"Origin": server.url})[0] == 200


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://",
        "://",
        "http://[::1",
        "http://]",
        "http://[v1.x]:80",
        "http://\xff\xfe",
        "http://127.0.0.1:many",
        "http://\xe2\x84\x80",  # an a/c in one character, which is no host's name once it is normalised
        "{url}, {url}",
        "{url}/",
        "ftp://{host}",
    ],
)
def test_an_origin_that_is_none_is_refused(server: Running, caplog: pytest.LogCaptureFixture, origin: str) -> None:
    host = server.url.removeprefix("http://")
    with logging_of("uvicorn.error", caplog):
        status, _, text = raw(
            server.url,
            "/v1/chat/completions",
            {"messages": SPELL, "max_tokens": 1},
            {"Origin": origin.format(url=server.url, host=host)},
        )
    assert status == 403
    assert json.loads(text)["error"]["type"] == "permission_error"
    assert not caplog.records


def test_every_origin_counts() -> None:
    own, other = b"http://127.0.0.1:8080", b"https://example.com"
    assert is_same_origin([], b"")
    assert is_same_origin([own, own.upper()], b"127.0.0.1:8080")
    assert is_same_origin([b"https://example.com"], b"Example.com")
    assert not is_same_origin([own, other], b"127.0.0.1:8080")
    assert not is_same_origin([other, own], b"127.0.0.1:8080")
    assert not is_same_origin([b"http://"], b"")
    # Another program of this machine has another port, and is another origin.
    for port in (b"", b":80", b":443", b":8081", b":808", b":80800"):
        for scheme in (b"http://", b"https://"):
            assert not is_same_origin([scheme + b"127.0.0.1" + port], b"127.0.0.1:8080")


def counts(app: ASGIApp) -> dict[tuple[str, str], float]:
    """Requests by path and status, as Prometheus reads them."""
    _, text = asyncio.run(asgi(app, "GET", "/metrics", {"x-api-key": "secret"}))
    families = {family.name: family for family in text_string_to_metric_families(text.decode())}
    return {
        (sample.labels["path"], sample.labels["status"]): sample.value
        for sample in families["mlx_qwen35_requests"].samples
        if sample.name.endswith("_total")
    }


@pytest.fixture
def guarded(server: Running) -> ASGIApp:
    """A second application over the same service, with a key and little room for bodies."""
    return make_app(server.service, Settings(("box",), api_key="secret", max_body=1000, strict_model=True))


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (401, {}),
        (403, {"x-api-key": "secret", "origin": "https://example.com"}),
        (413, {"x-api-key": "secret", "content-length": "1001"}),
        (404, {"x-api-key": "secret"}),
    ],
)
def test_a_path_that_a_client_invents_is_no_label(guarded: ASGIApp, status: int, headers: dict[str, str]) -> None:
    places = ("", "/v1", "/v1/models", "/v1/chat/completions", "/v1/messages")

    async def refusals() -> list[int]:
        paths = [f"{place}/{number}" for place in places for number in range(100)]
        return [(await asgi(guarded, "GET", path, headers))[0] for path in paths]

    assert asyncio.run(refusals()) == [status] * 500
    assert counts(guarded) == {("other", str(status)): 400, ("/v1/models/{name}", str(status)): 100}


def test_refusals_are_counted_at_their_route(guarded: ASGIApp) -> None:
    async def ask() -> None:
        await asgi(guarded, "POST", "/v1/chat/completions")
        await asgi(guarded, "POST", "/v1/messages", {"x-api-key": "secret", "content-length": "1001"})
        await asgi(guarded, "GET", "/v1/responses", {"x-api-key": "secret"})
        await asgi(guarded, "POST", "/v1/completions", {"x-api-key": "secret"}, b'{"prompt": 5}')

    asyncio.run(ask())
    assert counts(guarded) == {
        ("/v1/chat/completions", "401"): 1,
        ("/v1/messages", "413"): 1,
        ("/v1/responses", "405"): 1,
        ("/v1/completions", "400"): 1,
    }


@pytest.mark.parametrize(
    ("host", "names", "own"),
    [
        ("localhost", (), True),
        ("localhost:8080", (), True),
        ("LOCALHOST.:8080", (), True),
        ("page.localhost:8080", (), True),
        ("mac.local:8080", (), True),
        ("host.docker.internal:8080", (), True),
        ("127.0.0.1:8080", (), True),
        ("192.168.1.20", (), True),
        ("[::1]:8080", (), True),
        ("[::1]", (), True),
        ("", (), True),
        ("evil.example:8080", (), False),
        ("evil.example", (), False),
        ("localhost.evil.example:8080", (), False),
        ("127.0.0.1.evil.example", (), False),
        ("evil.example:127.0.0.1", (), False),
        ("[evil.example]:8080", (), False),
        ("local", (), True),
        ("notlocal:8080", (), False),
        ("models.example:8080", ("models.example",), True),
        ("MODELS.example", ("models.EXAMPLE",), True),
        ("other.models.example", ("models.example",), False),
        ("evil.example", ("*",), True),
        ("\xff\xfe:8080", (), False),
    ],
)
def test_only_own_names_are_hosts(host: str, names: tuple[str, ...], own: bool) -> None:
    assert is_own_host(host.encode("latin-1"), names) is own


def test_a_name_that_was_made_to_lead_here_is_refused(server: Running) -> None:
    """The browser sees one origin: evil.example, which leads to this machine now (DNS rebinding)."""
    headers = {"Host": "evil.example:8080", "Origin": "http://evil.example:8080"}
    for path, body in (("/", None), ("/health", None), ("/v1/chat/completions", {"messages": SPELL, "max_tokens": 1})):
        status, _, text = raw(server.url, path, body, headers)
        assert status == 403
        assert (
            "Host: expected a name of this server's, found 'evil.example:8080'" in json.loads(text)["error"]["message"]
        )


CHAT = "/v1/chat/completions"
PAGE = "https://chat.example"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}


def answer(app: ASGIApp, method: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
    """Status and headers."""
    start = asyncio.run(asgi_messages(app, method, path, headers, b"{}" if method == "POST" else b""))[0]
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}


@pytest.fixture
def shared(server: Running) -> ASGIApp:
    """A third application, which pages of one other origin may use, with the key."""
    return make_app(server.service, Settings(("box",), api_key="secret", origins=(PAGE,)))


def test_a_preflight_brings_no_key_and_says_what_a_page_may_send(shared: ASGIApp) -> None:
    status, headers = answer(shared, "OPTIONS", CHAT, {"origin": PAGE, **PREFLIGHT})
    assert status == 204
    assert headers["access-control-allow-origin"] == PAGE
    assert {"GET", "POST", "DELETE"} <= set(headers["access-control-allow-methods"].split(", "))
    assert headers["access-control-allow-headers"] == PREFLIGHT["access-control-request-headers"]
    assert int(headers["access-control-max-age"]) > 0
    assert "origin" in headers["vary"].lower().split(", ")
    assert "access-control-allow-private-network" not in headers
    local = {"origin": PAGE, **PREFLIGHT, "access-control-request-private-network": "true"}
    assert answer(shared, "OPTIONS", CHAT, local)[1]["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("GET", "/v1/models", "secret", 200),
        ("GET", "/health", "", 200),
        ("POST", CHAT, "secret", 400),
        ("GET", "/v1/models", "wrong", 401),
        ("GET", "/nowhere", "secret", 404),
    ],
)
def test_a_page_that_is_let_in_may_read_answers_and_errors(
    shared: ASGIApp, method: str, path: str, key: str, status: int
) -> None:
    found, headers = answer(shared, method, path, {"origin": PAGE.upper(), "x-api-key": key})
    assert found == status
    assert headers["access-control-allow-origin"] == PAGE.upper()
    assert headers["access-control-expose-headers"] == "*"
    assert headers["vary"] == "Origin"


def test_a_page_that_is_let_in_may_read_that_the_server_failed(
    shared: ASGIApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Engine, "running", property(lambda _: 1 / 0))
    found, headers = answer(shared, "GET", "/health", {"origin": PAGE})
    assert (found, headers["access-control-allow-origin"]) == (500, PAGE)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": PAGE + ".evil.example"},
        {"origin": "http://chat.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": PAGE, "host": "evil.example"},
    ],
)
@pytest.mark.parametrize("method", ["OPTIONS", "GET"])
def test_every_other_page_stays_outside(shared: ASGIApp, method: str, headers: dict[str, str]) -> None:
    extra = PREFLIGHT if method == "OPTIONS" else {"x-api-key": "secret"}
    status, found = answer(shared, method, "/v1/models", headers | extra)
    assert status == 403
    assert not [name for name in found if name.startswith("access-control")]
    assert found["vary"] == "Origin"


def test_a_star_lets_in_every_page_under_a_name_of_this_server(server: Running) -> None:
    app = make_app(server.service, Settings(("box",), origins=("*",)))
    assert answer(app, "GET", "/v1/models", {"origin": "null"})[1]["access-control-allow-origin"] == "null"
    assert answer(app, "OPTIONS", CHAT, {"origin": PAGE, **PREFLIGHT})[0] == 204
    assert answer(app, "GET", "/v1/models", {"origin": PAGE, "host": "evil.example"})[0] == 403


def test_paths_of_clients_may_lack_their_version() -> None:
    for path, found in (
        ("/chat/completions", "/v1/chat/completions"),
        ("/models/box", "/v1/models/box"),
        ("/v1/models", "/v1/models"),
        ("/modelsx", "/modelsx"),
        ("/", "/"),
    ):
        assert with_version({"type": "http", "path": path})["path"] == found


def test_without_origins_no_header_speaks_of_them(guarded: ASGIApp) -> None:
    for headers in ({"origin": PAGE, **PREFLIGHT}, {"x-api-key": "secret"}):
        _, found = answer(guarded, "OPTIONS", CHAT, headers)
        assert not [name for name in found if name.startswith("access-control") or name == "vary"]


def test_what_asks_for_no_permission_is_no_preflight(shared: ASGIApp) -> None:
    assert answer(shared, "OPTIONS", CHAT, {"origin": PAGE})[0] == 401
    assert answer(shared, "OPTIONS", CHAT, {"origin": PAGE, "x-api-key": "secret"})[0] == 405


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_what_is_no_question_is_no_preflight(shared: ASGIApp, method: str) -> None:
    """Whatever headers it brings, it brings the key."""
    assert answer(shared, method, CHAT, {"origin": PAGE, **PREFLIGHT})[0] == 401


def test_preflights_are_counted_at_their_route(shared: ASGIApp) -> None:
    answer(shared, "OPTIONS", CHAT, {"origin": PAGE, **PREFLIGHT})
    assert counts(shared) == {(CHAT, "204"): 1}


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/health", 200), ("/v1/models", 401), ("/v1/messages", 401)])
def test_whether_somebody_is_there_can_be_asked_without_a_key(box: ModelKit, path: str, status: int) -> None:
    """With HEAD, which gets the headers of what GET gets."""
    with serving(box, api_key="secret") as running:
        connection = HTTPConnection(urlsplit(running.url).netloc, timeout=60)
        connection.request("HEAD", path)
        response = connection.getresponse()
        assert (response.status, response.read()) == (status, b"")
        assert int(response.headers["content-length"]) == len(raw(running.url, path)[2].encode())
        connection.close()


class Behind:
    """What stands behind a guard, without a server: it answers, or fails before or in its answer."""

    def __init__(self, *sent: Message, fails: BaseException | None = None) -> None:
        self.sent, self.fails = sent, fails

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for message in self.sent:
            await send(message)
        if self.fails is not None:
            raise self.fails


def behind(app: Behind, *headers: tuple[bytes, bytes], origins: tuple[str, ...] = ()) -> tuple[list[Message], Metrics]:
    """What one request is answered, and what is counted of it."""
    metrics, sent = Metrics(SimpleNamespace(kit=SimpleNamespace())), []  # type: ignore[arg-type]
    guard = Guard(app, Settings(("box",), max_body=1000, origins=origins), metrics, [])
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [(b"host", b"localhost"), *headers]}

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    with suppress(ZeroDivisionError, asyncio.CancelledError):
        asyncio.run(guard(scope, receive, send))
    return sent, metrics


START = {"type": "http.response.start", "status": 200, "headers": []}


def counted(metrics: Metrics) -> dict[str, float]:
    return {
        sample.labels["status"]: sample.value
        for family in metrics.requests.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }


def test_what_fails_in_the_middle_of_its_answer_is_answered_once() -> None:
    sent, metrics = behind(Behind(dict(START), fails=ZeroDivisionError()))
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert counted(metrics) == {"200": 1}


def test_what_ends_without_an_answer_counts_as_a_failure() -> None:
    sent, metrics = behind(Behind(fails=asyncio.CancelledError()))
    assert (sent, counted(metrics)) == ([], {"500": 1})


def test_a_body_may_be_as_large_as_that_and_no_larger() -> None:
    for size, status in ((1000, 200), (1001, 413)):
        sent, _ = behind(Behind(dict(START)), (b"content-length", str(size).encode()))
        assert sent[0]["status"] == status


def test_who_names_two_origins_is_let_in_as_none_of_them() -> None:
    origins = [(b"origin", b"https://chat.example"), (b"origin", b"https://other.example")]
    for named, status in ((origins[:1], 200), (origins, 403), (origins[::-1], 403)):
        sent, _ = behind(Behind({**START, "headers": []}), *named, origins=("https://chat.example",))
        assert sent[0]["status"] == status


def test_nothing_is_read_behind_a_body_with_two_lengths() -> None:
    length, chunks = (b"content-length", b"5"), (b"transfer-encoding", b"chunked")
    for named, closes in (([length], False), ([chunks], False), ([length, chunks], True)):
        sent, _ = behind(Behind({**START, "headers": []}), *named)
        assert ((b"connection", b"close") in sent[0]["headers"]) is closes
