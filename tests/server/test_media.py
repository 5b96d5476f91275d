"""Images that requests name: what is let through, and everything that must not be."""

import base64
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from mlx_qwen35.errors import MediaError, OptionError, PromptError
from mlx_qwen35.paths import shorten
from mlx_qwen35.prompts import sources
from mlx_qwen35.prompts.images import open_image
from mlx_qwen35.server import media
from mlx_qwen35.server.media import MediaPolicy, check_number, fetch_media
from tests.server.pictures import PICTURE, PLACE, refusal, take

# What is allowed at all


@pytest.mark.parametrize("url", ["http://example.com/a.png", "HTTPS://example.com/a.png"])
def test_the_network_is_closed_unless_opened(url: str, no_connections: None) -> None:
    message = refusal(url, MediaPolicy())
    assert f"expected a data: URL, found an {url[:5].lower().rstrip(':')}: URL" in message
    assert "--allow-remote-media" in message


def test_one_permission_is_not_the_other(no_connections: None, tmp_path: Path) -> None:
    found = refusal("https://example.com/a.png", MediaPolicy(local_directory=tmp_path))
    assert "expected a data: URL or a file of the allowed directory, found an https: URL" in found
    assert "--allow-local-media" in refusal("/etc/hostname", MediaPolicy(allow_remote=True))


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


def test_the_least_that_a_policy_may_allow() -> None:
    policy = MediaPolicy(max_bytes=1, max_images=0, max_redirects=0, timeout=0.001)
    check_number(0, policy)
    with pytest.raises(MediaError, match="expected at most 0 images in one request, found 1"):
        check_number(1, policy)


@pytest.mark.parametrize("url", ["http://example.com/a.png", "HTTPS://example.com/a.png"])
def test_an_open_network_is_asked_within_the_policy(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(media, "fetch_remote", lambda source, **limits: (asked.append((source, limits)), PICTURE)[1])
    assert take(url, MediaPolicy(allow_remote=True, max_bytes=7, timeout=2.5, max_redirects=4)) == PICTURE
    assert asked == [(url, {"max_bytes": 7, "timeout": 2.5, "max_redirects": 4, "place": PLACE, "kind": "image"})]


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
    monkeypatch.setattr(sources.binascii, "a2b_base64", None)
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
        assert shorten(source)[:80] in message or "\\x00" in message


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
    assert time.monotonic() - began < 10


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


# Messages

URL = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": URL}},
        {"type": "input_image", "image_url": URL},
        {"type": "image", "image": URL},
    ],
)
def test_images_of_messages_are_fetched_where_they_stand(part: dict[str, Any]) -> None:
    """All else is passed on as it is."""
    text = {"type": "text", "text": "hi"}
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [text, part, "no mapping", part], "name": "Ada"},
        {"role": "assistant"},
        {"role": "user", "content": [part]},
        "no message",
    ]
    image = {"type": "image", "image": PICTURE}
    assert fetch_media(messages, MediaPolicy(max_images=3)) == [
        messages[0],
        {"role": "user", "content": [text, image, "no mapping", image], "name": "Ada"},
        messages[2],
        {"role": "user", "content": [image]},
        "no message",
    ]


def test_what_a_part_says_of_its_image_is_kept_and_what_nobody_would_read_of_a_video_is_refused() -> None:
    part = {"type": "image_url", "image_url": {"url": URL}, "max_pixels": 9, "min_pixels": 4}
    (found,) = fetch_media([{"role": "user", "content": [part]}], MediaPolicy())
    assert found["content"] == [{"type": "image", "image": PICTURE, "max_pixels": 9, "min_pixels": 4}]
    with pytest.raises(PromptError, match=r"^messages\[0\]\.content\[0\]\.nframes: expected"):
        fetch_media([{"role": "user", "content": [{"video": URL, "nframes": 4}]}], MediaPolicy())


def test_images_are_counted_over_all_messages_and_none_too_many_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(media, "fetch", lambda source, policy, place: fetched.append(place))
    part = {"type": "image_url", "image_url": {"url": URL}}
    messages = [{"role": "user", "content": [part]}, {"role": "user", "content": [{"type": "text"}, part, part]}]
    expected = r"^messages\[1\].content\[2\]: expected at most 2 images in one request, found 3$"
    with pytest.raises(MediaError, match=expected):
        fetch_media(messages, MediaPolicy(max_images=2))
    assert fetched == ["messages[0].content[0]", "messages[1].content[1]"]


def test_an_image_that_may_not_be_fetched_is_named() -> None:
    part = {"type": "image_url", "image_url": {"url": "ftp://example.com/a.png"}}
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": [{"type": "text"}, part]}]
    with pytest.raises(MediaError, match=r"^messages\[1\].content\[1\]: expected a data: URL, found a URL with scheme"):
        fetch_media(messages, MediaPolicy())
