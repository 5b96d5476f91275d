"""Encoded images as callers name them, where Python and the server read alike; the server's own are in test_media."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from mlx_qwen35.errors import MediaError
from mlx_qwen35.prompts import sources
from mlx_qwen35.prompts.images import read_image_bytes
from mlx_qwen35.prompts.sources import read_data_url, read_file, read_file_below


def read(path: Path, max_bytes: int = 100) -> bytes:
    return read_file(path, max_bytes=max_bytes, place="image", label="it")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(b"0123456789")
    return path


def test_a_file_is_read_through_links(file: Path) -> None:
    link = file.with_name("link.png")
    link.symlink_to(file)
    assert read(link) == read(file, max_bytes=10) == b"0123456789"
    with pytest.raises(MediaError, match="^image: it: expected at most 9 bytes, found 10$"):
        read(file, max_bytes=9)


def test_a_large_file_is_refused_unread(file: Path) -> None:
    os.truncate(file, 2**40)
    with pytest.raises(MediaError, match=f"expected at most 100 bytes, found {2**40}"):
        read(file)


def grow(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the file longer between the look at its size and the reading."""
    real = os.fstat

    def fstat(number: int) -> os.stat_result:
        found = real(number)
        with path.open("ab") as more:
            more.write(b"x" * 50)
        return found

    monkeypatch.setattr(sources.os, "fstat", fstat)


def test_a_file_that_grows_is_held_to_the_limit(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        grow(file, patch)
        assert read(file) == b"0123456789" + b"x" * 50
    with monkeypatch.context() as patch:
        grow(file, patch)
        with pytest.raises(MediaError, match="expected at most 100 bytes, found 101"):
            read(file)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("below", [False, True])
def test_nothing_but_a_regular_file_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, below: bool
) -> None:
    make(tmp_path / "it")
    opened: list[Any] = []
    real = os.open
    monkeypatch.setattr(sources.os, "open", lambda name, *args, **kw: opened.append(name) or real(name, *args, **kw))
    arguments: dict[str, Any] = {"max_bytes": 100, "place": "image", "label": "it"}
    with pytest.raises(MediaError, match="it: expected an image file, found a directory or a device"):
        read_file_below("it", tmp_path, option="DIR", **arguments) if below else read_file(tmp_path / "it", **arguments)
    assert opened == ([tmp_path.resolve()] if below else [])


def test_a_pipe_put_there_after_the_look_holds_nobody(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was opened is looked at again; opening waits for no other end."""
    os.mkfifo(tmp_path / "pipe")
    regular = file.stat()
    assert stat.S_ISREG(regular.st_mode)
    monkeypatch.setattr(sources.os, "stat", lambda *_, **__: regular)
    with pytest.raises(MediaError, match="expected an image file, found a directory or a device"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("DATA:text/html;base64,YWJj", "data URL: expected 'data:image/...;base64,...', found 'DATA:text/html;base64'"),
        ("data:image/png;base64,YWJj%41", "data URL: expected base64"),
        ("file://example.com/a.png", "expected a file: URL without a host, found host 'example.com'"),
        ("file:a.png", "expected a file: URL with an absolute path, found 'file:a.png'"),
        ("file:///a.png?b", "expected ? and # of a file's name as %3F and %23"),
        (
            "http://[::1/a.png",
            "expected a path, file: or data: URL, found http: URL; images are not fetched from the network",
        ),
        ("\ud800.png", "expected a file's name"),
    ],
)
def test_callers_in_python_get_the_server_s_errors(source: str, message: str) -> None:
    with pytest.raises(MediaError) as caught:
        read_image_bytes(source, "image")
    assert str(caught.value).startswith(f"image: {message}")


def test_a_data_url_is_held_to_its_limit_before_it_is_copied() -> None:
    class Url(str):
        """Whose text may be looked at, and not taken out."""

        def __getitem__(self, key: Any) -> str:
            assert key.stop is not None
            return super().__getitem__(key)

    with pytest.raises(MediaError, match="expected at most 100 bytes, found 5000 characters"):
        read_data_url(Url("data:;base64," + "A" * 5000), max_bytes=100, place="image")
