"""Headers of image files, read by Pillow: in bounded time, and without anybody else having to wait.

A file that would take minutes to decode, for its size in pixels, is refused here too.
"""

import io
import re
import threading
import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

# Before the pixels, of a few bytes each as a rule: markers, chunks and blocks, of which files have some dozen.
MAX_READS = 50_000
# Of a JPEG file: each goes over all pixels once more. Progressive files have some ten.
MAX_SCANS = 100
# In the data behind a scan's header, 0xff is followed by 0 or by the number of a restart; 0xff 0x01 has no length.
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
_SCAN, _END = b"\xda", b"\xd9"
# Of a TIFF file: strips or tiles, of which large ones have some thousand.
MAX_TILES = 100_000


def open_header(data: bytes, formats: tuple[str, ...]) -> "Image":
    """The image of a file's bytes, not decoded yet.

    Args:
        formats: Pillow's names of what it may be.
    Raises:
        Exception: Pillow's, and whatever a decoder stumbles over.
    """
    from PIL import Image

    file = _BoundedFile(data)
    with _QUIET:
        image = Image.open(file, formats=formats)
    if image.format in ("JPEG", "MPO"):
        _check_scans(data)
    if len(getattr(image, "tile", ())) > MAX_TILES:
        raise OSError(f"more than {MAX_TILES} strips or tiles")
    file.left = None
    return image


def _check_scans(data: bytes) -> None:
    """Of a JPEG file up to its end; behind that may stand anything, such as a film."""
    at, scans, segments = 2, 0, 0
    while (marker := _MARKER.search(data, at)) and marker[1] != _END:
        scans += marker[1] == _SCAN
        segments += 1
        if scans > MAX_SCANS or segments > MAX_READS:
            raise OSError(f"more than {MAX_SCANS} scans or {MAX_READS} segments")
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")


class _BoundedFile(io.BytesIO):
    """A file that is read so many times only: a million empty pieces before the pixels take Python many seconds."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.left: int | None = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise OSError(f"more than {MAX_READS} pieces before its pixels")
        return super().read(size)


class _Quiet:
    """Pillow's warning of files that are half as large as what it refuses is not given.

    The filters of warnings are the whole process's: the first one that comes sets them, and the last one that goes sets
    them back.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._filters = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        from PIL import Image

        with self._lock:
            if not self._inside:
                self._filters.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.close()


_QUIET = _Quiet()
