"""Videos as callers name them: a file wherever it lies, a list of pictures, or an array."""

import hashlib
import io
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mlx_qwen35.errors import MediaError
from mlx_qwen35.paths import expand, shorten
from mlx_qwen35.prompts.animations import AnimationClip
from mlx_qwen35.prompts.arrays import is_array
from mlx_qwen35.prompts.clips import ArrayClip, Clip, PictureClip
from mlx_qwen35.prompts.images import MAX_SOURCE_BYTES, ImageMemory, read_header
from mlx_qwen35.prompts.media_types import animation_format, image_brand, video_container
from mlx_qwen35.prompts.movies import MovieClip
from mlx_qwen35.prompts.sources import check_size, file_url_path, open_file, read_data_url, read_stream

# In a file on disk, which is not read into memory; what comes as bytes or as text has the images' limit.
MAX_FILE_BYTES = 2**34
FORMATS = ("MP4", "MOV", "M4V", "WebM", "MKV", "AVI", "GIF", "WebP", "APNG")
# Enough to tell a format by, and where an image's header ends.
_HEAD_BYTES = 64


@dataclass
class Opened:
    """A video that is at hand, not looked into yet.

    Args:
        place, label: For error messages.
        identity: Equal for what must be the same video; None where that cannot be said without looking.
        file: A file's bytes; None for what is in `frames`.
        frames: A list of pictures, or an array.
    """

    place: str
    label: str
    identity: Hashable | None = None
    file: BinaryIO | None = None
    frames: Any = None

    def clip(self, fps: float, check: Callable[[], None], memory: ImageMemory) -> Clip:
        """Look into it.

        Args:
            fps: Frames a second of a list or an array.
            check: Called now and then; ends the work by raising.
            memory: Asked before anything is decoded to look into it.
        Raises:
            MediaError: It is no video, or a damaged one.
        """
        if self.file is None:
            return (ArrayClip if is_array(self.frames) else PictureClip)(self.frames, fps, self.place)
        head = self.file.read(_HEAD_BYTES)
        self.file.seek(0)
        container = video_container(head)
        if container is not None:
            return MovieClip(self.file, container, self.place, self.label, check)
        data = self._whole_file() if head else b""
        if animation_format(head) is None:
            raise MediaError(
                f"{self.place}: {self.label}: expected a video file ({', '.join(FORMATS)}), found {_describe(data)}"
            )
        return AnimationClip(data, self.place, self.label, check, memory)

    def _whole_file(self) -> bytes:
        """The bytes of what Pillow reads from memory."""
        assert self.file is not None
        check_size(self.file.seek(0, os.SEEK_END), MAX_SOURCE_BYTES, self.place, self.label)
        self.file.seek(0)
        return self.file.read(MAX_SOURCE_BYTES)

    def close(self) -> None:
        """Close what was opened here."""
        if self.file is not None:
            self.file.close()


def _describe(data: bytes) -> str:
    if not data:
        return "an empty file"
    if data[4:12] == b"ftypavis":
        return "an AVIF animation; save it as MP4, WebM or WebP"
    if image_brand(data) is not None:
        return "a still picture; send it as an image"
    try:
        read_header(data, "", "")
    except MediaError:
        return f"{len(data)} bytes beginning {data[:8]!r}"
    return "a still picture; send it as an image"


def open_source(source: Any, place: str) -> Opened:
    """Find a video; what has to be told from its contents comes later.

    Args:
        source: A path, a `file:` or `data:` URL, a file's bytes, a file opened for reading them, a list of pictures as
            `open_image` takes them, or an array of shape (T, H, W, 3) with whole numbers from 0 to 255: numpy's, MLX's
            or torch's.
        place: Where it stands in the request, for error messages.
    Raises:
        MediaError: There is no such file, it is too large, on the network, or no source at all.
    """
    if is_array(source) or isinstance(source, list | tuple):
        return Opened(place, "frames", _identity_of_pictures(source), frames=source)
    if isinstance(source, bytes | bytearray | memoryview):
        return _of_bytes(bytes(source), place, f"{len(bytes(source))} bytes")
    if hasattr(source, "read"):
        data = read_stream(source, max_bytes=MAX_SOURCE_BYTES, place=place)
        return _of_bytes(data, place, f"{len(data)} bytes")
    scheme = source[:5].lower() if isinstance(source, str) else ""
    if scheme == "data:":
        data = read_data_url(source, max_bytes=MAX_SOURCE_BYTES, place=place, kind="video")
        return _of_bytes(data, place, "data URL")
    if scheme == "file:":
        source = file_url_path(source, place)
    elif isinstance(source, str) and "://" in source:
        raise MediaError(
            f"{place}: expected a path, file: or data: URL, found {shorten(source.partition('://')[0])}: URL; "
            "videos are not fetched from the network"
        )
    if not isinstance(source, str | Path):
        raise MediaError(
            f"{place}: expected a path, bytes, data URL, list of pictures or array of frames, "
            f"found {type(source).__name__}"
        )
    path = expand(source, MediaError, place)
    label = shorten(path)
    file = open_file(path, max_bytes=MAX_FILE_BYTES, place=place, label=label, kind="video")
    status = os.fstat(file.fileno())
    # A film takes longer to read than to know again; what was written since has other times.
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return Opened(place, label, identity, file=file)


def _of_bytes(data: bytes, place: str, label: str) -> Opened:
    check_size(len(data), MAX_SOURCE_BYTES, place, label)
    return Opened(place, label, hashlib.blake2b(data, digest_size=32).digest(), file=io.BytesIO(data))


def _identity_of_pictures(source: Any) -> Hashable | None:
    """Of a list of files' bytes or data: URLs, as clients send it again with every turn."""
    if is_array(source) or not isinstance(source, Sequence) or not source:
        return None
    digest = hashlib.blake2b(digest_size=32)
    for picture in source:
        if isinstance(picture, str) and picture[:5].lower() == "data:":
            picture = picture.encode("utf-8", "surrogatepass")
        if not isinstance(picture, bytes):
            return None
        digest.update(len(picture).to_bytes(8) + picture)
    return digest.digest()
