"""A file's kind by its first bytes."""

import pytest

from mlx_qwen35.prompts.media_types import animation_format, image_brand, video_container
from tests.prompts.clips import animated, movie, pictures, still

KINDS = {
    ("mp4", "libx264"): "mov", ("mov", "libx264"): "mov", ("matroska", "libx264"): "matroska",
    ("webm", "libvpx-vp9"): "matroska", ("avi", "mpeg4"): "avi",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_containers_are_told_apart(kind: tuple[str, str]) -> None:
    data = movie(2, *kind)
    assert video_container(data) == KINDS[kind]
    assert animation_format(data) is None
    assert image_brand(data) is None


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_pictures_that_may_move_are_known(kind: str) -> None:
    for data in (animated(pictures(2), kind), still(pictures(1)[0], kind)):
        assert animation_format(data) == kind
        assert video_container(data) is None


@pytest.mark.parametrize("data", [b"", b"ftyp", b"RIFF", b"RIFF\0\0\0\0WAVE", b"GIF", b"\xff\xd8\xff\xe0", b"%PDF-1.7"])
def test_other_files_are_neither(data: bytes) -> None:
    assert video_container(data) is None
    assert animation_format(data) is None
    assert image_brand(data) is None


def test_pictures_in_a_videos_container_are_pictures() -> None:
    for brand, name in ((b"heic", "HEIC"), (b"avif", "AVIF"), (b"avis", "AVIF"), (b"mif1", "HEIC")):
        data = b"\0\0\0\x18ftyp" + brand + bytes(40)
        assert image_brand(data) == name
        assert video_container(data) is None
    assert image_brand(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf" + bytes(40)) == "AVIF"
    assert image_brand(b"\0\0\0\x14ftypmif1\0\0\0\0mif1" + b"avif" * 9) == "HEIC", "behind the box"
    for brand in (b"isom", b"qt  ", b"M4V ", b"mp42"):
        assert video_container(b"\0\0\0\x18ftyp" + brand) == "mov"
    assert video_container(b"\0\0\0\x08wide\0\0\0\0mdat") == "mov"
