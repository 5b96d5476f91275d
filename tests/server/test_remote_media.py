"""Images from the network: whose answers are taken, and for how long they are waited for."""

import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import httpcore2
import pytest

from mlx_qwen35.server import remote_media
from mlx_qwen35.server.media import MediaPolicy
from tests.server.pictures import PICTURE, Handler, PictureServer, refusal, take


def test_an_image_is_fetched(pictures: PictureServer, loopback: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the proxies that the environment names."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    pictures.answers["/a%20b.png?c=%C3%A9"] = Handler.answer
    assert take(f"{pictures.url}/a b.png?c=é#d") == PICTURE
    (path, headers), *rest = pictures.requests
    assert not rest
    assert path == "/a%20b.png?c=%C3%A9"
    assert headers.pop("user-agent").startswith("mlx-qwen35/")
    assert headers == {
        "host": f"pictures.example:{pictures.port}",
        "accept": "image/*",
        "accept-encoding": "identity",
        "connection": "close",
    }


@pytest.mark.parametrize(
    "kind", ["image/jpeg", "Image/PNG; charset=x", "application/octet-stream", "binary/octet-stream"]
)
@pytest.mark.parametrize("encoding", ["", "identity"])
def test_types_that_may_be_images_are_taken(pictures: PictureServer, loopback: None, kind: str, encoding: str) -> None:
    pictures.answers["/a.png"] = lambda handler: handler.answer(Content_Type=kind, Content_Encoding=encoding)
    assert take(f"{pictures.url}/a.png") == PICTURE


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Content_Type": "text/html"}, "expected content type image/..., found 'text/html'"),
        ({"Content_Type": "imagination/png"}, "expected content type image/..., found 'imagination/png'"),
        ({"Content_Type": "x" * 5000}, "expected content type image/..., found 'xxx"),
        ({"Content_Type": ""}, "expected content type image/..., found ''"),
        ({"Content_Encoding": "gzip"}, "expected no content encoding, found 'gzip'"),
        ({"Content_Encoding": "identity, br"}, "expected no content encoding, found 'identity, br'"),
        ({"status": 404}, "pictures.example: expected status 200, found 404"),
        ({"status": 206}, "expected status 200, found 206"),
        ({"status": 302}, "expected status 200, found 302"),
        ({"status": 304}, "expected status 200, found 304"),
        ({"Content_Length": "1000"}, "expected an image, found no answer (peer closed connection"),
        ({"Content_Length": "-5"}, "expected an image, found no answer (bad Content-Length"),
        ({"X": "x" * 500_000}, "expected an image, found no answer"),
    ],
)
def test_other_answers_are_refused(
    pictures: PictureServer, loopback: None, headers: dict[str, Any], message: str
) -> None:
    pictures.answers["/a.png"] = lambda handler: handler.answer(**headers)
    assert message in refusal(f"{pictures.url}/a.png")


def test_no_answer_is_refused(pictures: PictureServer, loopback: None) -> None:
    pictures.answers["/nothing"] = lambda handler: None
    pictures.answers["/noise"] = lambda handler: handler.wfile.write(b"\0" * 1000)
    pictures.answers["/switch"] = lambda handler: handler.wfile.write(b"HTTP/1.1 101 Other\r\nUpgrade: x\r\n\r\n")
    for path in ("/nothing", "/noise", "/switch"):
        assert "pictures.example: expected an image, found no answer" in refusal(pictures.url + path)


def test_closed_ports_are_no_secret_of_public_addresses(loopback: None) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        message = refusal(f"http://pictures.example:{free.getsockname()[1]}/")
    assert "expected an image, found no answer" in message


# Sizes and times


def chunked(handler: Handler, body: bytes, size: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "image/png")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for at in range(0, len(body), size):
        part = body[at : at + size]
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
    handler.wfile.write(b"0\r\n\r\n")


def until_closed(handler: Handler, body: bytes) -> None:
    handler.answer(body=body, Content_Length="", Connection="close")


def test_bodies_of_any_form_are_read_up_to_the_limit(pictures: PictureServer, loopback: None) -> None:
    body = bytes(100_000)
    pictures.answers["/length"] = lambda handler: handler.answer(body=body)
    pictures.answers["/chunked"] = lambda handler: chunked(handler, body, 999)
    pictures.answers["/closed"] = lambda handler: until_closed(handler, body)
    for path in pictures.answers.keys() - {"/a.png"}:
        assert take(pictures.url + path, MediaPolicy(True, max_bytes=100_000)) == body
        message = refusal(pictures.url + path, MediaPolicy(True, max_bytes=99_999))
        found = "100000" if path == "/length" else "more"
        assert f"pictures.example: expected at most 99999 bytes, found {found}" in message


def test_a_body_that_is_announced_too_large_is_not_read(pictures: PictureServer, loopback: None) -> None:
    pictures.answers["/a.png"] = lambda handler: handler.answer(Content_Length=str(10**15))
    assert f"expected at most {20 * 2**20} bytes, found {10**15}" in refusal(f"{pictures.url}/a.png")


def test_an_endless_body_is_cut_off(pictures: PictureServer, loopback: None) -> None:
    sent: list[int] = []
    broken = threading.Event()

    def endless(handler: Handler) -> None:
        handler.answer(body=b"", Content_Length="", Connection="close")
        try:
            while True:
                sent.append(handler.wfile.write(bytes(2**16)))
        finally:
            broken.set()

    pictures.answers["/a.png"] = endless
    message = refusal(f"{pictures.url}/a.png", MediaPolicy(True, max_bytes=2**20))
    assert "expected at most 1048576 bytes, found more" in message
    assert broken.wait(10)
    assert sum(sent) < 32 * 2**20  # what the system's buffers take is sent as well


def drip(handler: Handler, before: bytes, part: bytes) -> None:
    """For two minutes, or until the other side has enough."""
    handler.wfile.write(before)
    for _ in range(6000):
        handler.wfile.write(part)
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("before", "part"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 10000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    ],
    ids=["status", "headers", "early hints", "length", "until closed", "chunks", "chunk length"],
)
def test_a_dripping_server_holds_nobody(pictures: PictureServer, loopback: None, before: bytes, part: bytes) -> None:
    pictures.answers["/a.png"] = lambda handler: drip(handler, before, part)
    began = time.monotonic()
    message = refusal(f"{pictures.url}/a.png", MediaPolicy(True, timeout=0.2))
    assert time.monotonic() - began < 10
    assert "pictures.example: expected the image within 0.2 seconds" in message


def test_redirects_share_one_time(pictures: PictureServer, loopback: None) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.05)
        handler.answer(302, b"", Location="/slow")

    pictures.answers["/slow"] = slow
    began = time.monotonic()
    assert "expected the image within 0.2 seconds" in refusal(
        f"{pictures.url}/slow", MediaPolicy(True, timeout=0.2, max_redirects=1000)
    )
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_silent_server_holds_nobody(loopback: None, scheme: str) -> None:
    """Also in the middle of the TLS handshake."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        url = f"{scheme}://pictures.example:{silent.getsockname()[1]}/"
        assert "expected the image within 0.2 seconds" in refusal(url, MediaPolicy(True, timeout=0.2))
        assert time.monotonic() - began < 10


def test_a_connection_is_closed_if_the_time_ends_before_its_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    stream = httpcore2.MockStream([])
    monkeypatch.setattr(stream, "close", lambda: closed.append(True))
    with pytest.raises(httpcore2.TimeoutException):
        remote_media._TimedStream(stream, time.monotonic()).start_tls(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    assert closed == [True]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://user@example.com/", "expected a URL without user name and password"),
        ("http://user:geheim@example.com/", "expected a URL without user name and password"),
        ("http://example.com\\@127.0.0.1/", "expected a URL without user name and password"),
        ("http://:geheim@example.com/", "expected a URL without user name and password"),
        ("http://", "expected a URL with a host name, found ''"),
        ("http:example.com/a.png", "expected a URL with a host name, found ''"),
        ("http:///a.png", "expected a URL with a host name, found ''"),
        ("http://exa mple.com/", "expected a URL with a host name"),
        ("http://%6c%6fcalhost/", "expected a URL with a host name"),
        ("http://.example.com/", "expected a URL with a host name"),
        ("http://a..b/", "expected a URL with a host name"),
        ("http://example.com\t/", "found a malformed URL"),
        ("http://example.com/\r\nX: y", "found a malformed URL"),
        ("http://[::1/", "found a malformed URL"),
        ("http://[1:2]/", "found a malformed URL"),
        ("http://example.com:abc/", "found a malformed URL"),
        ("http://example.com:0/", "expected a URL with a port between 1 and 65535, found 0"),
        ("http://example.com:-1/", "expected a URL with a port between 1 and 65535, found -1"),
        ("http://example.com:65536/", "expected a URL with a port between 1 and 65535, found 65536"),
        ("http://example.com/\ud800", "found a malformed URL"),
        ("http://\ud800.example.com/", "found a malformed URL"),
        (f"http://example.com/{'a' * 70_000}", "found a malformed URL"),
        (f"http://{'a' * 64}.example/", "has public addresses"),
    ],
)
def test_bad_urls_are_refused(no_connections: None, url: str, message: str) -> None:
    text = refusal(url)
    assert message in text
    assert "geheim" not in text


# Redirects


def move(pictures: PictureServer, path: str, location: str, status: int = 302, **headers: str) -> None:
    pictures.answers[path] = lambda handler: handler.answer(status, b"", Location=location, **headers)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_without_cookies(pictures: PictureServer, loopback: None, status: int) -> None:
    move(pictures, "/1", f"{pictures.url}/2", status, Set_Cookie="a=b")
    move(pictures, "/2", "sub/../3?x#y", status)
    move(pictures, "/3?x", f"//pictures.example:{pictures.port}/a.png", status)
    assert take(f"{pictures.url}/1") == PICTURE
    assert [path for path, _ in pictures.requests] == ["/1", "/2", "/3?x", "/a.png"]
    assert all("cookie" not in headers for _, headers in pictures.requests)


def test_redirects_come_to_an_end(pictures: PictureServer, loopback: None) -> None:
    move(pictures, "/loop", "/loop")
    for most in (0, 1, 3):
        pictures.requests.clear()
        message = refusal(f"{pictures.url}/loop", MediaPolicy(True, max_redirects=most))
        assert f"expected at most {most} redirects, found one more" in message
        assert len(pictures.requests) == most + 1


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://10.0.0.1/a.png", "has public addresses, and no others, found '10.0.0.1'"),
        ("http://169.254.169.254/latest/meta-data/", "has public addresses, and no others, found '169.254.169.254'"),
        ("http://[::1]/", "has public addresses, and no others, found '::1'"),
        ("//2130706434/", "has public addresses, and no others, found '2130706434'"),
        ("http://inside.example/", "has public addresses, and no others, found 'inside.example'"),
        ("file:///etc/passwd", "expected an http: or https: URL, found a redirect to 'file'"),
        ("data:image/png;base64,YWJj", "expected an http: or https: URL, found a redirect to 'data'"),
        ("ftp://example.com/", "expected an http: or https: URL, found a redirect to 'ftp'"),
        ("http://user:geheim@example.com/", "expected a redirect without user name and password"),
        ("http://[1:2]/", "found a malformed redirect"),
        ("http://exa\xadmple.com\x7f/", "found a malformed redirect"),
        ("", "found 302"),
    ],
)
def test_each_redirect_is_checked(
    pictures: PictureServer, loopback: None, names: dict[str, list[str]], tmp_path: Path, location: str, message: str
) -> None:
    names["inside.example"] = ["192.168.0.1"]
    move(pictures, "/a.png", location)
    text = refusal(f"{pictures.url}/a.png", MediaPolicy(True, tmp_path))
    assert message in text
    assert "geheim" not in text
    assert len(pictures.requests) == 1


# TLS

# Only for pictures.example, and only in these tests.
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgVNUywgsbvJ/gbP6m
p51AKfwWPYzJYw6aIHU4/GY4ZIOhRANCAARVaT0uU4gD6QGrmpm4pBCBAAYqMCnL
qzwv7emxZ8RWUASg3ga9SF2oTRcL7xZnZtVef6eaTQ2kGZv9F8KsJ296
-----END PRIVATE KEY-----
"""
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBqTCCAU6gAwIBAgIBATAKBggqhkjOPQQDAjAbMRkwFwYDVQQDDBBwaWN0dXJl
cy5leGFtcGxlMCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAbMRkw
FwYDVQQDDBBwaWN0dXJlcy5leGFtcGxlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcD
QgAEVWk9LlOIA+kBq5qZuKQQgQAGKjApy6s8L+3psWfEVlAEoN4GvUhdqE0XC+8W
Z2bVXn+nmk0NpBmb/RfCrCdveqOBgDB+MBsGA1UdEQQUMBKCEHBpY3R1cmVzLmV4
YW1wbGUwDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAoQwHQYDVR0OBBYE
FN5giPnV/hMJMwS0yrL7rKYydsqdMB8GA1UdIwQYMBaAFN5giPnV/hMJMwS0yrL7
rKYydsqdMAoGCCqGSM49BAMCA0kAMEYCIQDgH8WWwTJh4wesmJl114/EYBUWRfih
dQaTWp+S8rhBHAIhAOxKOjmNFDcI+SDBF/Lc0evfAaNZW9orQvjA0fqrdcwA
-----END CERTIFICATE-----
"""


@pytest.fixture
def secured(pictures: PictureServer, loopback: None, tmp_path: Path) -> list[str | None]:
    """Turns the server to TLS; the names that clients ask it for."""
    (tmp_path / "key.pem").write_text(KEY)
    (tmp_path / "certificate.pem").write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    plain = pictures.get_request

    def get_request() -> Any:
        connection, address = plain()
        connection.settimeout(5)
        try:
            return context.wrap_socket(connection, server_side=True), address
        except OSError:
            connection.close()
            raise

    pictures.get_request = get_request  # type: ignore[method-assign]
    return asked


def trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=CERTIFICATE)
    return context


def test_the_certificate_is_asked_for_by_name(
    pictures: PictureServer, secured: list[str | None], names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connected by address; the name is the server's, and its certificate must be for it."""
    names["other.example"] = ["127.0.0.1"]
    monkeypatch.setattr(remote_media, "_tls", trusting)
    assert take(f"https://pictures.example:{pictures.port}/a.png") == PICTURE
    assert secured == ["pictures.example"]
    for host in ("other.example", "127.0.0.1"):
        message = refusal(f"https://{host}:{pictures.port}/a.png")
        assert f"{host}: expected an image, found no answer" in message
        assert "CERTIFICATE_VERIFY_FAILED" in message
    assert len(pictures.requests) == 1


def test_unknown_certificates_are_refused(pictures: PictureServer, secured: list[str | None]) -> None:
    assert "CERTIFICATE_VERIFY_FAILED" in refusal(f"https://pictures.example:{pictures.port}/a.png")
    assert not pictures.requests
