"""Where a video may come from, and what is said of everything that is none."""

import base64
import io
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_qwen35.errors import MediaError
from mlx_qwen35.prompts import video_sources
from mlx_qwen35.prompts.images import ImageMemory, open_image
from mlx_qwen35.prompts.video_sources import open_source
from tests.prompts.clips import animated, movie, near, pictures, shades, still


def shown(source: Any) -> list[int]:
    opened = open_source(source, "video")
    clip = opened.clip(2.0, lambda: None, ImageMemory())
    found = shades(list(clip.frames([0, 3], lambda: None)))
    clip.close()
    opened.close()
    return found


@pytest.mark.parametrize("make", [lambda: movie(4), lambda: animated(pictures(4))], ids=["MP4", "GIF"])
def test_every_kind_of_source_is_read(tmp_path: Path, make: Callable[[], bytes]) -> None:
    data = make()
    path = tmp_path / "a clip"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    sources = [data, bytearray(data), memoryview(data), io.BytesIO(data), path, str(path), path.as_uri()]
    sources += [f"data:{kind};base64,{text}" for kind in ("video/mp4", "image/gif", "application/octet-stream", "")]
    for source in sources:
        assert near(shown(source), [0, 3])
    with path.open("rb") as file:
        assert near(shown(file), [0, 3])
    assert near(shown(pictures(4)), [0, 3])
    assert near(shown(tuple(pictures(4))), [0, 3])
    assert near(shown(np.stack([np.asarray(image) for image in pictures(4)])), [0, 3])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            b"",
            r"0 bytes: expected a video file \(MP4, MOV, M4V, WebM, MKV, AVI, GIF, WebP, APNG\), found an empty file",
        ),
        (b"not a video at all", r"18 bytes: expected a video file .*, found 18 bytes beginning b'not a vi'"),
        (still(pictures(1)[0], "JPEG"), r"expected a video file .*, found a still picture; send it as an image"),
        (still(pictures(1)[0], "BMP"), r"found a still picture; send it as an image"),
        (still(pictures(1)[0], "PNG"), r"expected a video, found a still picture; send it as an image"),
        (b"\0\0\0\x18ftypheic" + bytes(40), r"found a still picture; send it as an image"),
        (b"\0\0\0\x18ftypavis" + bytes(40), r"found an AVIF animation; save it as MP4, WebM or WebP"),
        ("/nowhere/clip.mp4", r"/nowhere/clip.mp4: No such file or directory"),
        ("/dev/null", r"/dev/null: expected a video file, found a directory or a device"),
        ("/tmp", r"/tmp: expected a video file, found a directory or a device"),
        ("https://example.com/a.mp4", r"found https: URL; videos are not fetched from the network"),
        ("data:text/plain;base64,AAAA", r"data URL: expected 'data:video/...;base64,...', found 'data:text/plain"),
        ("a\0b.mp4", r"expected a path, found a zero byte"),
        (io.StringIO("text"), r"expected a file opened for reading bytes \('rb'\), found str"),
        (42, r"expected a path, bytes, data URL, list of pictures or array of frames, found int"),
        (None, r"found NoneType"),
        (pictures(1)[0], r"found Image"),
    ],
)
def test_what_is_no_video_is_refused_with_its_place(source: Any, message: str) -> None:
    with pytest.raises(MediaError, match=rf"^messages\[0\].content\[1\]: .*{message}") as caught:
        open_source(source, "messages[0].content[1]").clip(2.0, lambda: None, ImageMemory())
    assert len(str(caught.value)) < 300


def test_a_video_is_no_image() -> None:
    for container, codec in (("mp4", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mpeg4")):
        with pytest.raises(MediaError, match=r"expected an image file \(.*\), found a video; send it as one"):
            open_image(movie(2, container, codec), "image")
    with pytest.raises(MediaError, match="found an animation; send it as a video"):
        open_image(animated(pictures(3)), "image")


def test_a_file_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "sparse.mp4"
    with path.open("wb") as file:
        file.truncate(2**34 + 1)
    with pytest.raises(MediaError, match="expected at most 17179869184 bytes, found 17179869185"):
        open_source(path, "video")
    with path.open("wb") as file:
        file.write(b"GIF89a")
        file.truncate(2**29 + 1)
    message = "expected at most 536870912 bytes, found 536870913"
    with closing(open_source(path, "video")) as opened, pytest.raises(MediaError, match=message):
        opened.clip(2.0, lambda: None, ImageMemory())


def test_bytes_have_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    data = animated(pictures(4))
    monkeypatch.setattr(video_sources, "MAX_SOURCE_BYTES", len(data) - 1)
    for source in (data, io.BytesIO(data), f"data:video/mp4;base64,{base64.b64encode(data).decode()}"):
        with pytest.raises(MediaError, match=f"expected at most {len(data) - 1} bytes, found {len(data)}"):
            open_source(source, "video")


def test_a_file_is_known_by_where_it_lies_and_when_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(animated(pictures(4)))

    def identity(source: Any) -> Any:
        opened = open_source(source, "video")
        opened.close()
        return opened.identity

    first = identity(path)
    assert identity(str(path)) == first
    (tmp_path / "b.gif").symlink_to(path)
    assert identity(tmp_path / "b.gif") == first
    os.utime(path, ns=(1, 1))
    assert identity(path) != first
    assert identity(path.read_bytes()) == identity(bytearray(path.read_bytes())) != identity(b"GIF89a")


def test_pictures_are_known_by_their_bytes_where_they_have_any() -> None:
    files = [still(image) for image in pictures(3)]
    known = open_source(files, "video").identity
    assert known is not None
    assert open_source(tuple(files), "video").identity == known
    assert open_source(files[:2], "video").identity != known
    assert open_source([b"".join(files[:2]), files[2]], "video").identity != known
    for unknown in ([*files, Image.new("RGB", (2, 2))], [*files, "a.png"], [], np.zeros((2, 4, 4, 3), np.uint8)):
        assert open_source(unknown, "video").identity is None


def test_the_file_is_closed_with_what_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(b"nothing")
    opened = open_source(path, "video")
    opened.close()
    assert opened.file is not None
    assert opened.file.closed
