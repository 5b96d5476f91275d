"""Images that requests name: what is let through, and everything that must not be."""

import base64
import io
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpcore2
import pytest
from PIL import Image

from mlx_qwen35.errors import MediaError, OptionError
from mlx_qwen35.prompts.images import open_image
from mlx_qwen35.server import media
from mlx_qwen35.server.media import MediaPolicy, check_number, fetch

PLACE = "messages[0].content[1]"
# Seconds: what holds a request would hold it for longer, and no busy machine takes as long.
SOON = 40.0


def remote(**options: Any) -> MediaPolicy:
    return MediaPolicy(allow_remote=True, timeout=SOON, **options)


REMOTE = remote()


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = picture()


def take(source: Any, policy: MediaPolicy = REMOTE) -> bytes:
    return fetch(source, policy, place=PLACE)


def refusal(source: Any, policy: MediaPolicy = REMOTE) -> str:
    """The text of a refusal, which is short and says the place."""
    with pytest.raises(MediaError) as caught:
        fetch(source, policy, place=PLACE)
    text = str(caught.value)
    assert text.startswith(f"{PLACE}: ")
    assert len(text) < 400
    text.encode()
    return text


# What is allowed at all


@pytest.mark.parametrize("url", ["http://example.com/a.png", "HTTPS://example.com/a.png"])
def test_the_network_is_closed_unless_opened(url: str, no_connections: None) -> None:
    message = refusal(url, MediaPolicy())
    assert f"expected a data: URL, found an {url[:5].lower().rstrip(':')}: URL" in message
    assert "--allow-remote-media" in message


@pytest.mark.parametrize("source", ["/etc/hostname", "picture.png", "file:///etc/hostname", "~/a.png", "A" * 300_000])
def test_files_are_closed_unless_opened(source: str) -> None:
    message = refusal(source)
    assert "expected a data: URL or an http: or https: URL, found" in message
    assert "--allow-local-media DIR" in message


@pytest.mark.parametrize("scheme", ["ftp", "gopher", "ws", "dict", "javascript", "unix", "x" * 500])
def test_other_schemes_are_refused(scheme: str, no_connections: None, tmp_path: Path) -> None:
    message = refusal(f"{scheme}://example.com/a.png", MediaPolicy(True, tmp_path))
    assert "or a file of the allowed directory, found a URL with scheme" in message


@pytest.mark.parametrize("source", [None, 42, b"abc", {"url": "a"}, ["a"]])
def test_only_text_is_a_source(source: Any) -> None:
    assert f"found {type(source).__name__}" in refusal(source)


def test_the_number_of_images_is_held_against_the_policy() -> None:
    check_number(3, MediaPolicy(max_images=3))
    with pytest.raises(MediaError, match=r"^messages: expected at most 3 images in one request, found 4$"):
        check_number(4, MediaPolicy(max_images=3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 0}, "max_bytes: expected a whole number of at least 1, found 0"),
        ({"max_images": -1}, "max_images: expected a whole number of at least 0"),
        ({"max_redirects": -1}, "max_redirects: expected a whole number of at least 0"),
        ({"timeout": 0}, "timeout: expected a number of seconds above 0"),
        ({"timeout": float("inf")}, "timeout: expected a number of seconds above 0"),
        ({"local_directory": Path("/nowhere/at/all")}, "--allow-local-media DIR: expected a directory"),
    ],
)
def test_a_policy_without_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        MediaPolicy(**options)


# data: URLs


@pytest.mark.parametrize(
    "header",
    [
        "data:image/png;base64,",
        "DATA:Image/PNG;Base64,",
        "data:;base64,",
        "data:image/png;name=a.png;base64,",
        "data:application/octet-stream;base64,",
    ],
)
def test_data_urls_always_work(header: str) -> None:
    data = take(header + base64.b64encode(PICTURE).decode(), MediaPolicy())
    assert data == PICTURE
    assert open_image(data, PLACE).size == (6, 4)


def test_wrapped_and_escaped_base64_is_read() -> None:
    data = bytes(range(256)) * 4
    text = base64.encodebytes(data).decode()
    escaped = text.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D").replace("\n", "%0d%0A")
    assert "%2B" in escaped
    for form in (text, text.replace("\n", "\r\n"), escaped):
        assert take(f"data:image/png;base64,{form}", MediaPolicy(max_bytes=len(data))) == data


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:image/png;base64,a", "expected base64"),
        ("data:image/png;base64,abc", "expected base64 (Incorrect padding)"),
        ("data:image/png;base64,ab-_", "expected base64"),
        ("data:image/png;base64,YQ==YQ==", "expected base64"),
        ("data:image/png;base64,YWJj%41", "expected base64"),
        ("data:image/png;base64,YWJ\N{LATIN SMALL LETTER E WITH ACUTE}", "expected base64, found 'é'"),
        ("data:image/png;base64,YWJ\ud800", r"expected base64, found '\ud800'"),
        ("data:image/png,abc", "expected 'data:image/...;base64,...', found 'data:image/png'"),
        ("data:image/png;base64", "expected 'data:image/...;base64,...'"),
        ("data:,", "expected 'data:image/...;base64,...', found 'data:'"),
        ("data:", "expected 'data:image/...;base64,...', found 'data:'"),
        ("data:text/html;base64,YWJj", "expected 'data:image/...;base64,...', found 'data:text/html;base64'"),
        ("data:image/svg+xml,%3Csvg/%3E", "expected 'data:image/...;base64,...', found 'data:image/svg+xml'"),
        (f"data:image/png;{'a' * 5000};base64,YWJj", "expected 'data:image/...;base64,...'"),
        (f"data:{'a' * 300_000}", "expected 'data:image/...;base64,...'"),
    ],
)
def test_bad_data_urls_are_refused(url: str, message: str) -> None:
    assert f"data URL: {message}" in refusal(url)


def test_the_size_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = MediaPolicy(max_bytes=3000)
    for size in (2999, 3000):
        assert len(take(f"data:;base64,{base64.b64encode(bytes(size)).decode()}", policy)) == size
    monkeypatch.setattr(media.binascii, "a2b_base64", None)
    for size in (3001, 3002, 5000):
        message = refusal(f"data:;base64,{base64.b64encode(bytes(size)).decode()}", policy)
        assert f"expected at most 3000 bytes, found {size}" in message
    message = refusal(f"data:;base64,{' ' * 100_000}", policy)
    assert "expected at most 3000 bytes, found 100000 characters" in message


# Files


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An allowed directory beside a secret."""
    allowed = tmp_path / "allowed"
    (allowed / "inner").mkdir(parents=True)
    (allowed / "a b.png").write_bytes(PICTURE)
    (allowed / "inner" / "c.png").write_bytes(PICTURE)
    (tmp_path / "secret.png").write_bytes(PICTURE)
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "allowed-not" / "d.png").write_bytes(PICTURE)
    return allowed


def local(directory: Path, **options: Any) -> MediaPolicy:
    return MediaPolicy(local_directory=directory, **options)


def test_files_of_the_directory_are_read(directory: Path) -> None:
    path = directory / "a b.png"
    (directory / "link.png").symlink_to(path)
    (directory / "short").symlink_to("inner")
    sources = [
        str(path),
        "a b.png",
        "./a b.png",
        "inner/c.png",
        "link.png",
        "short/c.png",
        path.as_uri(),
        f"file://localhost{path.as_posix().replace(' ', '%20')}",
        f"file:{path}",
        f"FILE://{directory}/inner%2Fc.png",
    ]
    for source in sources:
        assert take(source, local(directory)) == PICTURE, source


def test_the_directory_may_be_named_through_a_link(directory: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(directory)
    for source in (link / "a b.png", directory / "a b.png"):
        assert take(str(source), local(link)) == PICTURE


def test_nothing_outside_is_read_nor_found_out(directory: Path, tmp_path: Path) -> None:
    """Also by names that begin alike; what is there and what is not is refused in the same words."""
    (directory / "out.png").symlink_to(tmp_path / "secret.png")
    (directory / "up").symlink_to(tmp_path)
    (directory / "gone").symlink_to(tmp_path / "missing")
    (directory / "zero").symlink_to("/dev/zero")
    sources = [
        tmp_path / "secret.png",
        tmp_path / "missing.png",
        tmp_path / "missing" / "missing.png",
        "/etc/passwd",
        "//etc/passwd",
        "../secret.png",
        "../missing.png",
        "inner/../../secret.png",
        "inner/../a b.png",
        "missing/../../secret.png",
        f"{directory}/../secret.png",
        f"file://{directory}/../secret.png",
        f"file://{directory}/%2e%2e/secret.png",
        f"file://{directory}/%2E%2E%2Fsecret.png",
        f"file://{directory}/inner%2f..%2f..%2fsecret.png",
        f"file://{tmp_path}/secret.png",
        "file:////etc/passwd",
        tmp_path / "allowed-not" / "d.png",
        "out.png",
        "up/secret.png",
        "up/missing.png",
        "gone",
        "gone/a.png",
        "zero",
        "/dev/zero",
        "/proc/self/environ",
        "a b.png\0",
        f"file://{directory}/a%20b.png%00",
    ]
    for source in map(str, sources):
        message = refusal(source, local(directory))
        expected = "expected a file below the directory of --allow-local-media DIR, found"
        assert message.startswith(f"{PLACE}: {expected} "), source
        assert media.shorten(source)[:80] in message or "\\x00" in message


def test_the_directory_itself_is_not_told(directory: Path, tmp_path: Path) -> None:
    for source in ("missing.png", "../secret.png", "", "inner"):
        assert str(tmp_path) not in refusal(source, local(directory))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.png", "'missing.png': No such file or directory"),
        ("inner/missing/a.png", "No such file or directory"),
        ("a b.png/c.png", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("", "expected an image file, found a directory or a device"),
        ("inner", "expected an image file, found a directory or a device"),
        ("pipe", "expected an image file, found a directory or a device"),
        ("socket", "expected an image file, found a directory or a device"),
        ("loop", "loop"),
        ("\ud800.png", "expected a file's name"),
        ("file:///a\ud800.png", "expected a file: URL in UTF-8"),
        ("file:a.png", "expected a file: URL with an absolute path, found 'file:a.png'"),
        ("file://", "expected a file: URL with an absolute path"),
        ("file://localhost", "expected a file: URL with an absolute path"),
        ("file://example.com/a.png", "expected a file: URL without a host, found host 'example.com'"),
        ("file:///a.png?b", "expected ? and # of a file's name as %3F and %23"),
        ("file:///a.png#b", "expected ? and # of a file's name as %3F and %23"),
    ],
)
def test_what_is_no_file_is_refused_at_once(
    directory: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    os.mkfifo(directory / "pipe")
    (directory / "loop").symlink_to("loop")
    monkeypatch.chdir(directory)  # the whole path is longer than the address of a socket may be
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        began = time.monotonic()
        assert message in refusal(source, local(directory))
    assert time.monotonic() - began < SOON


def test_large_files_are_refused_unread(directory: Path) -> None:
    with (directory / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    assert f"expected at most {20 * 2**20} bytes, found {2**40}" in refusal("sparse.png", local(directory))
    size = len(PICTURE)
    assert take("a b.png", local(directory, max_bytes=size)) == PICTURE
    assert f"expected at most {size - 1} bytes, found {size}" in refusal(
        "a b.png", local(directory, max_bytes=size - 1)
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs files that are longer than they say")
def test_the_limit_holds_for_files_that_say_no_size() -> None:
    """As one that grows while it is read."""
    policy = local(Path(f"/proc/{os.getpid()}"), max_bytes=10)
    assert "expected at most 10 bytes, found 11" in refusal("status", policy)


@pytest.mark.parametrize("parts", [("up", "secret.png"), ("out.png",)])
def test_a_link_put_there_after_the_check_is_not_followed(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...]
) -> None:
    (directory / "up").symlink_to(tmp_path)
    (directory / "out.png").symlink_to(tmp_path / "secret.png")
    monkeypatch.setattr(Path, "resolve", lambda path, strict=False: path)
    with pytest.raises(MediaError):
        take("/".join(parts), local(directory))


# The network


class Handler(BaseHTTPRequestHandler):
    """Answers from the server's table: a function of the handler for each path."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        self.server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.close_connection = True
        self.server.answers[self.path](self)

    def answer(self, status: int = 200, body: bytes = PICTURE, **headers: str) -> None:
        lines = {"Content-Type": "image/png", "Content-Length": str(len(body))}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        self.send_response(status)
        for name, value in lines.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Callable[[Handler], object]] = {"/a.png": Handler.answer}
        self.requests: list[tuple[str, dict[str, str]]] = []

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def url(self) -> str:
        return f"http://pictures.example:{self.port}"

    def handle_error(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A resolver: addresses by name, taken from the front if there are several answers; counts as `asked`."""
    table = {"pictures.example": ["127.0.0.1"]}
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **options: Any) -> Any:
        if host[-1:].isdigit() or ":" in host:
            return real(host, port, *args, **options)
        table.setdefault("asked", []).append(host)
        if host not in table:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [info for address in table[host] for info in real(address, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return table


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]]) -> None:
    """Takes 127.0.0.1 for an address of the internet; every other one stays what it is."""
    real = media._is_public
    monkeypatch.setattr(media, "_is_public", lambda address: address == "127.0.0.1" or real(address))


@pytest.fixture
def no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: Any, **__: Any) -> None:
        raise AssertionError("connected")

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect)


def test_an_image_is_fetched(server: Server, loopback: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the proxies that the environment names."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.answers["/a%20b.png?c=%C3%A9"] = Handler.answer
    assert take(f"{server.url}/a b.png?c=é#d") == PICTURE
    (path, headers), *rest = server.requests
    assert not rest
    assert path == "/a%20b.png?c=%C3%A9"
    assert headers.pop("user-agent").startswith("mlx-qwen35/")
    assert headers == {
        "host": f"pictures.example:{server.port}",
        "accept": "image/*",
        "accept-encoding": "identity",
        "connection": "close",
    }


@pytest.mark.parametrize(
    "kind", ["image/jpeg", "Image/PNG; charset=x", "application/octet-stream", "binary/octet-stream"]
)
@pytest.mark.parametrize("encoding", ["", "identity"])
def test_types_that_may_be_images_are_taken(server: Server, loopback: None, kind: str, encoding: str) -> None:
    server.answers["/a.png"] = lambda handler: handler.answer(Content_Type=kind, Content_Encoding=encoding)
    assert take(f"{server.url}/a.png") == PICTURE


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
def test_other_answers_are_refused(server: Server, loopback: None, headers: dict[str, Any], message: str) -> None:
    server.answers["/a.png"] = lambda handler: handler.answer(**headers)
    assert message in refusal(f"{server.url}/a.png")


def test_no_answer_is_refused(server: Server, loopback: None) -> None:
    server.answers["/nothing"] = lambda handler: None
    server.answers["/noise"] = lambda handler: handler.wfile.write(b"\0" * 1000)
    server.answers["/switch"] = lambda handler: handler.wfile.write(b"HTTP/1.1 101 Other\r\nUpgrade: x\r\n\r\n")
    for path in ("/nothing", "/noise", "/switch"):
        assert "pictures.example: expected an image, found no answer" in refusal(server.url + path)


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


def test_bodies_of_any_form_are_read_up_to_the_limit(server: Server, loopback: None) -> None:
    body = bytes(100_000)
    server.answers["/length"] = lambda handler: handler.answer(body=body)
    server.answers["/chunked"] = lambda handler: chunked(handler, body, 999)
    server.answers["/closed"] = lambda handler: until_closed(handler, body)
    for path in server.answers.keys() - {"/a.png"}:
        assert take(server.url + path, remote(max_bytes=100_000)) == body
        message = refusal(server.url + path, remote(max_bytes=99_999))
        found = "100000" if path == "/length" else "more"
        assert f"pictures.example: expected at most 99999 bytes, found {found}" in message


def test_a_body_that_is_announced_too_large_is_not_read(server: Server, loopback: None) -> None:
    server.answers["/a.png"] = lambda handler: handler.answer(Content_Length=str(10**15))
    assert f"expected at most {20 * 2**20} bytes, found {10**15}" in refusal(f"{server.url}/a.png")


def test_an_endless_body_is_cut_off(server: Server, loopback: None) -> None:
    sent: list[int] = []
    broken = threading.Event()

    def endless(handler: Handler) -> None:
        handler.answer(body=b"", Content_Length="", Connection="close")
        try:
            while True:
                sent.append(handler.wfile.write(bytes(2**16)))
        finally:
            broken.set()

    server.answers["/a.png"] = endless
    message = refusal(f"{server.url}/a.png", remote(max_bytes=2**20))
    assert "expected at most 1048576 bytes, found more" in message
    assert broken.wait(SOON)
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
def test_a_dripping_server_holds_nobody(server: Server, loopback: None, before: bytes, part: bytes) -> None:
    server.answers["/a.png"] = lambda handler: drip(handler, before, part)
    began = time.monotonic()
    message = refusal(f"{server.url}/a.png", MediaPolicy(True, timeout=0.2))
    assert time.monotonic() - began < SOON
    assert "pictures.example: expected the image within 0.2 seconds" in message


def test_redirects_share_one_time(server: Server, loopback: None) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.05)
        handler.answer(302, b"", Location="/slow")

    server.answers["/slow"] = slow
    began = time.monotonic()
    assert "expected the image within 0.2 seconds" in refusal(
        f"{server.url}/slow", MediaPolicy(True, timeout=0.2, max_redirects=1000)
    )
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_silent_server_holds_nobody(loopback: None, scheme: str) -> None:
    """Also in the middle of the TLS handshake."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        url = f"{scheme}://pictures.example:{silent.getsockname()[1]}/"
        assert "expected the image within 0.2 seconds" in refusal(url, MediaPolicy(True, timeout=0.2))
        assert time.monotonic() - began < SOON


def test_a_connection_is_closed_if_the_time_ends_before_its_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    stream = httpcore2.MockStream([])
    monkeypatch.setattr(stream, "close", lambda: closed.append(True))
    with pytest.raises(httpcore2.TimeoutException):
        media._TimedStream(stream, time.monotonic()).start_tls(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    assert closed == [True]


def test_a_slow_resolver_holds_nobody(monkeypatch: pytest.MonkeyPatch, no_connections: None) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: (release.wait(60), [])[1])
    began = time.monotonic()
    assert "expected the image within 0.2 seconds" in refusal("http://slow.example/", MediaPolicy(True, timeout=0.2))
    assert time.monotonic() - began < SOON
    release.set()


# Addresses


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.8.9.1",
        "127.1",
        "0",
        "0.0.0.0",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "2852039166",
        "100.64.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "168.63.129.16",
        "198.18.0.1",
        "203.0.113.5",
        "224.0.0.251",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:169.254.169.254]",
        "[::ffff:0:127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::808:808]",
        "[2002:7f00:1::]",
        "[2002:808:808::1]",
        "[2001:0:7f00:1::]",
        "[2001:db8::1]",
        "[3fff::1]",
        "[100::1]",
        "[5f00::1]",
        "[4000::1]",
        "[fe80::1]",
        "[fe80::1%25lo]",
        "[fe80::1%1]",
        "[fec0::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "localhost",
        "\N{FULLWIDTH DIGIT ONE}\N{FULLWIDTH DIGIT TWO}\N{FULLWIDTH DIGIT SEVEN}.0.0.1",
    ],
)
def test_only_public_addresses_are_connected_to(no_connections: None, host: str) -> None:
    message = refusal(f"http://{host}/a.png")
    assert "has public addresses" in message or "malformed URL" in message or "host name" in message


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::e000:1", False),
        ("2606:4700:4700::1111%2", False),
        ("::ffff:8.8.8.8%2", False),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    assert media._is_public(address) is public


@pytest.mark.parametrize("addresses", [["10.1.2.3"], ["8.8.8.8", "10.1.2.3"], ["8.8.8.8", "::1"], ["fe80::1%1"]])
def test_one_private_address_is_enough_and_missing_names_look_the_same(
    names: dict[str, list[str]], no_connections: None, addresses: list[str]
) -> None:
    names["inside.example"] = addresses
    found = refusal("http://inside.example/")
    assert found == f"{PLACE}: expected a host that has public addresses, and no others, found 'inside.example'"
    assert refusal("http://nobody.example/") == found.replace("inside", "nobody")


def test_the_connection_goes_to_the_address_that_was_checked(
    names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that answers with loopback the second time is not asked a second time."""
    connected: list[tuple[str, int]] = []

    def connect(_: Any, host: str, port: int, *__: Any) -> None:
        connected.append((host, port))
        raise httpcore2.ConnectError("recorded")

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect)
    answers = iter([["8.8.8.8"], ["127.0.0.1"], ["127.0.0.1"]])
    monkeypatch.setattr(media.socket, "getaddrinfo", rebinding(names, answers))
    assert "recorded" in refusal("http://rebinding.example:8080/a.png")
    assert connected == [("8.8.8.8", 8080)]
    assert names["asked"] == ["rebinding.example"]
    assert "has public addresses" in refusal("http://rebinding.example:8080/a.png")
    assert connected == [("8.8.8.8", 8080)]


def rebinding(names: dict[str, list[str]], answers: Iterator[list[str]]) -> Callable[..., Any]:
    resolver = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **options: Any) -> Any:
        if host == "rebinding.example":
            names[host] = next(answers)
        return resolver(host, *args, **options)

    return getaddrinfo


def test_a_dead_address_leaves_time_for_the_next(
    server: Server, loopback: None, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = httpcore2.SyncBackend.connect_tcp
    waited: list[float] = []

    def connect(backend: Any, host: str, port: int, timeout: float, *rest: Any) -> Any:
        if host != "127.0.0.1":
            waited.append(timeout)
            raise httpcore2.ConnectTimeout
        return real(backend, host, port, timeout, *rest)

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect)
    names["pictures.example"] = ["8.8.8.8", "8.8.8.8", "1.1.1.1", "127.0.0.1"]
    assert take(f"{server.url}/a.png", MediaPolicy(True, timeout=600)) == PICTURE
    # A third, and half of what is left, but for what a busy machine takes meanwhile.
    assert waited == [pytest.approx(200, abs=SOON), pytest.approx(300, abs=SOON)]


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


def move(server: Server, path: str, location: str, status: int = 302, **headers: str) -> None:
    server.answers[path] = lambda handler: handler.answer(status, b"", Location=location, **headers)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_without_cookies(server: Server, loopback: None, status: int) -> None:
    move(server, "/1", f"{server.url}/2", status, Set_Cookie="a=b")
    move(server, "/2", "sub/../3?x#y", status)
    move(server, "/3?x", f"//pictures.example:{server.port}/a.png", status)
    assert take(f"{server.url}/1") == PICTURE
    assert [path for path, _ in server.requests] == ["/1", "/2", "/3?x", "/a.png"]
    assert all("cookie" not in headers for _, headers in server.requests)


def test_redirects_come_to_an_end(server: Server, loopback: None) -> None:
    move(server, "/loop", "/loop")
    for most in (0, 1, 3):
        server.requests.clear()
        message = refusal(f"{server.url}/loop", remote(max_redirects=most))
        assert f"expected at most {most} redirects, found one more" in message
        assert len(server.requests) == most + 1


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
    server: Server, loopback: None, names: dict[str, list[str]], tmp_path: Path, location: str, message: str
) -> None:
    names["inside.example"] = ["192.168.0.1"]
    move(server, "/a.png", location)
    text = refusal(f"{server.url}/a.png", remote(local_directory=tmp_path))
    assert message in text
    assert "geheim" not in text
    assert len(server.requests) == 1


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
def secured(server: Server, loopback: None, tmp_path: Path) -> list[str | None]:
    """Turns the server to TLS; the names that clients ask it for."""
    (tmp_path / "key.pem").write_text(KEY)
    (tmp_path / "certificate.pem").write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    plain = server.get_request

    def get_request() -> Any:
        connection, address = plain()
        connection.settimeout(SOON)
        try:
            return context.wrap_socket(connection, server_side=True), address
        except OSError:
            connection.close()
            raise

    server.get_request = get_request  # type: ignore[method-assign]
    return asked


def trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=CERTIFICATE)
    return context


def test_the_certificate_is_asked_for_by_name(
    server: Server, secured: list[str | None], names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connected by address; the name is the server's, and its certificate must be for it."""
    names["other.example"] = ["127.0.0.1"]
    monkeypatch.setattr(media, "_tls", trusting)
    assert take(f"https://pictures.example:{server.port}/a.png") == PICTURE
    assert secured == ["pictures.example"]
    for host in ("other.example", "127.0.0.1"):
        message = refusal(f"https://{host}:{server.port}/a.png")
        assert f"{host}: expected an image, found no answer" in message
        assert "CERTIFICATE_VERIFY_FAILED" in message
    assert len(server.requests) == 1


def test_unknown_certificates_are_refused(server: Server, secured: list[str | None]) -> None:
    assert "CERTIFICATE_VERIFY_FAILED" in refusal(f"https://pictures.example:{server.port}/a.png")
    assert not server.requests
