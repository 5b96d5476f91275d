"""Headers of image files take a moment, and nobody waits for another's."""

import io
import struct
import threading
import warnings
import zlib
from typing import Any

import pytest
from PIL import Image

from mlx_qwen35.errors import MediaError
from mlx_qwen35.prompts import image_headers
from mlx_qwen35.prompts.images import open_image


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, kind)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def padded(kind: str, pieces: int) -> bytes:
    """A picture with so many pieces before its pixels that say nothing."""
    data = encoded(kind)
    at, piece = {
        "PNG": (33, chunk(b"tEXt", b"a\0")), "JPEG": (2, b"\xff\xe3\0\2"), "GIF": (data.find(b","), b"!\xfe\1a\0"),
    }[kind]  # fmt: skip
    return data[:at] + piece * pieces + data[at:]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_a_header_of_many_pieces_is_refused(kind: str) -> None:
    """A million of them took half a minute."""
    assert open_image(padded(kind, 1000), "image").size == (4, 4)
    with pytest.raises(MediaError, match="image: .*damaged .more than 50000 pieces before its pixels"):
        open_image(padded(kind, 50_000), "image")


def test_a_jpeg_of_many_scans_is_refused_whatever_stands_behind_its_end() -> None:
    """Of 64 million pixels, 210 of them took half a minute, in a file of 400 kB; a motion photo's film is no scan."""
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    own, last = data.count(b"\xff\xda"), data.rindex(b"\xff\xda")
    assert own > 5
    film = b"\xff\xda\0\2" * 200

    def repeated(count: int, between: bytes = b"") -> bytes:
        return data[:-2] + (between + data[last:-2]) * count + data[-2:] + film

    assert open_image(repeated(100 - own), "image").size == (64, 64)
    with pytest.raises(MediaError, match="image: .*damaged .more than 100 scans"):
        open_image(repeated(101 - own), "image")
    # A marker without a length, behind which none may be taken for one.
    with pytest.raises(MediaError, match="image: .*damaged .more than 100 scans"):
        open_image(repeated(101 - own, between=b"\xff\x01\xff"), "image")


def strips(count: int) -> bytes:
    """A grey TIFF file of so many rows, each a strip."""
    entries = [
        (256, 3, 1, 1), (257, 4, 1, count), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, count, 128),
        (277, 3, 1, 1), (278, 4, 1, 1), (279, 3, count, 128 + 4 * count),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    header = b"II*\0" + struct.pack("<I", 8) + directory + bytes(4)
    return header.ljust(128, b"\0") + struct.pack("<I", 0) * count + struct.pack("<H", 1) * count


def test_a_tiff_of_many_strips_is_refused() -> None:
    assert open_image(strips(1000), "image").size == (1, 1000)
    with pytest.raises(MediaError, match="image: .*damaged .more than 100000 strips or tiles"):
        open_image(strips(100_001), "image")


def test_what_stands_behind_the_header_is_read_however_many_pieces_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_headers, "MAX_READS", 50)
    data = encoded("PNG")
    assert open_image(data[:-12] + chunk(b"tEXt", b"a\0") * 50 + data[-12:], "image").size == (4, 4)


def test_nobody_waits_for_the_header_of_another_and_warnings_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters of warnings are the process's: a lock around them kept every picture waiting for the slowest."""
    real, slow, entered, go_on = Image.open, encoded("PNG"), threading.Event(), threading.Event()

    def opened(file: Any, **options: Any) -> Any:
        if file.getvalue() == slow:
            entered.set()
            assert go_on.wait(20)
        return real(file, **options)

    monkeypatch.setattr(Image, "open", opened)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # beyond which Pillow warns, and twice of which it refuses
    before = list(warnings.filters)
    thread = threading.Thread(target=open_image, args=(slow, "image"))
    thread.start()
    assert entered.wait(20)
    assert image_headers.open_header(encoded("JPEG"), ("JPEG",)).size == (4, 4)
    go_on.set()
    thread.join()
    assert list(warnings.filters) == before
    with pytest.warns(Image.DecompressionBombWarning):
        real(io.BytesIO(slow)).close()
