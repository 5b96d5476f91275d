"""Encoded images and videos as callers name them: the bytes behind a data: URL, a file: URL or a path.

Sizes are held against a limit before anything is decoded, copied or read; nothing but a regular file
is ever opened.
"""

import binascii
import math
import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import unquote_to_bytes

from mlx_qwen35.errors import MediaError
from mlx_qwen35.paths import shorten

# S3 says binary/octet-stream where others say application/octet-stream.
UNNAMED_TYPES = ("application/octet-stream", "binary/octet-stream")

# What base64 text may hold in percent-encoding; undoing every escape takes many times the text's memory.
ESCAPES = {"%2B": b"+", "%2F": b"/", "%3D": b"=", "%20": b"", "%09": b"", "%0A": b"", "%0D": b""}
CHUNK_BYTES = 2**20
# Pictures that may move, beside what is called video.
_ANIMATED_TYPES = ("image/gif", "image/webp", "image/png", "image/apng")

Kind = Literal["image", "video"]


def is_image_type(media_type: str) -> bool:
    """Whether a media type, in lower case and without parameters, may be an image's."""
    return media_type.startswith("image/") or media_type in UNNAMED_TYPES


def is_video_type(media_type: str) -> bool:
    """Whether a media type, in lower case and without parameters, may be a video's."""
    return media_type.startswith("video/") or media_type in (*_ANIMATED_TYPES, *UNNAMED_TYPES)


def check_size(size: int, max_bytes: int, place: str, label: str) -> None:
    """Hold the size of an encoded image or video against a limit.

    Raises:
        MediaError: It is larger.
    """
    if size > max_bytes:
        raise MediaError(f"{place}: {label}: expected at most {max_bytes} bytes, found {size}")


def read_data_url(url: str, *, max_bytes: int, place: str, kind: Kind = "image") -> bytes:
    """The bytes of a base64 data: URL with the media type of an image or a video, or none.

    Args:
        place: Where it stands in the request, for error messages.
    Raises:
        MediaError: It is too large, or written in another way.
    """
    comma = url.find(",", 0, 1024)
    media_type, *parameters = (part.strip().lower() for part in url[len("data:") : max(comma, 0)].split(";"))
    known = is_image_type if kind == "image" else is_video_type
    if comma < 0 or parameters[-1:] != ["base64"] or not (media_type == "" or known(media_type)):
        raise MediaError(f"{place}: data URL: expected 'data:{kind}/...;base64,...', found {url[:60].split(',')[0]!r}")
    # Twice the base64 leaves room for line breaks and escapes; anything longer is not even copied.
    if len(url) - comma > 1024 + 2 * 4 * math.ceil(max_bytes / 3):
        raise MediaError(
            f"{place}: data URL: expected at most {max_bytes} bytes, found {len(url) - comma - 1} characters"
        )
    try:
        text = url[comma + 1 :].encode("ascii")
        if b"%" in text:
            for escape, plain in ESCAPES.items():
                text = text.replace(escape.encode(), plain).replace(escape.lower().encode(), plain)
        text = text.translate(None, b" \t\r\n")
        check_size(len(text) * 3 // 4 - text[-2:].count(b"="), max_bytes, place, "data URL")
        return binascii.a2b_base64(text, strict_mode=True)
    except UnicodeEncodeError as error:
        raise MediaError(f"{place}: data URL: expected base64, found {error.object[error.start]!r}") from error
    except binascii.Error as error:
        raise MediaError(f"{place}: data URL: expected base64 ({error})") from error


def read_stream(stream: Any, *, max_bytes: int, place: str) -> bytes:
    """What a file that is open for reading holds, from its beginning where it can go back there.

    Raises:
        MediaError: It holds text, is closed or larger than the limit.
    """
    try:
        if getattr(stream, "seekable", bool)():
            stream.seek(0)
        data = stream.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise MediaError(f"{place}: the open file cannot be read ({shorten(error)})") from error
    if not isinstance(data, bytes):
        raise MediaError(f"{place}: expected a file opened for reading bytes ('rb'), found {type(data).__name__}")
    check_size(len(data), max_bytes, place, "open file")
    return data


def file_url_path(url: str, place: str) -> str:
    """The path that a file: URL names on this machine.

    Raises:
        MediaError: It names another machine, a relative path, or holds a query or a fragment.
    """
    rest = url[len("file:") :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise MediaError(f"{place}: expected a file: URL without a host, found host {shorten(host)!r}")
        rest = slash + path
    if not rest.startswith("/"):
        raise MediaError(f"{place}: expected a file: URL with an absolute path, found {shorten(url)!r}")
    if "?" in rest or "#" in rest:
        raise MediaError(f"{place}: expected ? and # of a file's name as %3F and %23, found {shorten(url)!r}")
    try:
        return os.fsdecode(unquote_to_bytes(rest))
    except UnicodeError as error:
        raise MediaError(f"{place}: expected a file: URL in UTF-8, found {shorten(url)!r}") from error


def open_file(path: Path, *, max_bytes: int, place: str, label: str, kind: Kind) -> BinaryIO:
    """A regular file, open for reading, links followed; see `read_file`."""
    try:
        return _open_regular(str(path), None, max_bytes, place, label, kind)[0]
    except UnicodeEncodeError as error:
        raise MediaError(f"{place}: expected a file's name, found {label}") from error
    except OSError as error:
        raise MediaError(f"{place}: {label}: {error.strerror or error}") from error


def read_file(path: Path, *, max_bytes: int, place: str, label: str) -> bytes:
    """A regular file, links followed.

    Args:
        label: What error messages call it.
    Raises:
        MediaError: There is no such file, it is something else, or it is too large.
    """
    try:
        return _read_regular(str(path), None, max_bytes, place, label)
    except UnicodeEncodeError as error:
        raise MediaError(f"{place}: expected a file's name, found {label}") from error
    except OSError as error:
        raise MediaError(f"{place}: {label}: {error.strerror or error}") from error


def read_file_below(
    name: str, directory: Path, *, max_bytes: int, place: str, label: str, option: str, kind: Kind = "image"
) -> bytes:
    """A regular file below a directory; links are followed only to what lies below it too.

    Nothing outside is looked at before the refusal, except at the end of a link that stands inside:
    messages, and the time until they come, say nothing about the rest of the disk.

    Args:
        name: Absolute, or relative to the directory.
        label: What error messages call the file; they never tell the directory.
        option: What allows the directory, for error messages.
    Raises:
        MediaError: It is not below the directory, or see `read_file`.
    """
    outside = MediaError(f"{place}: expected a file below the directory of {option}, found {label}")
    path = Path(name)
    try:
        os.fsencode(name)
        real = directory.resolve(strict=True)
        bases = [base for base in (directory.absolute(), real) if path.is_relative_to(base)]
        if "\0" in name or ".." in path.parts or (path.is_absolute() and not bases):
            raise outside
        below = path.relative_to(bases[0]) if bases else path
        # A loop of links is a RuntimeError before Python 3.13.
        target = (real / below).resolve()
        if not target.is_relative_to(real):
            raise outside
        return _read_without_links(real, target.relative_to(real).parts, max_bytes, place, label, kind)
    except UnicodeEncodeError as error:
        raise MediaError(f"{place}: expected a file's name, found {label}") from error
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "cannot be read"
        raise MediaError(f"{place}: {label}: {reason}") from error


def _read_without_links(
    directory: Path, parts: tuple[str, ...], max_bytes: int, place: str, label: str, kind: Kind
) -> bytes:
    """A regular file, by a way that is free of links.

    Each name is opened relative to the directory before it, so that a link put there since the path
    was checked is an error and no way out.
    """
    if not parts:
        raise _no_file(place, label, kind)
    with ExitStack() as stack:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, folder)
        for name in parts[:-1]:
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            stack.callback(os.close, folder)
        return _read_regular(parts[-1], folder, max_bytes, place, label, kind)


def _read_regular(name: str, folder: int | None, max_bytes: int, place: str, label: str, kind: Kind = "image") -> bytes:
    """The bytes of a regular file; see `_open_regular`."""
    file, size = _open_regular(name, folder, max_bytes, place, label, kind)
    with file:
        data = file.read(size + 1)
        # A file that grows meanwhile, or one of the system's that says no size.
        while len(data) <= max_bytes and (more := file.read(min(CHUNK_BYTES, max_bytes + 1 - len(data)))):
            data += more
        check_size(len(data), max_bytes, place, label)
        return data


def _open_regular(
    name: str, folder: int | None, max_bytes: int, place: str, label: str, kind: Kind = "image"
) -> tuple[BinaryIO, int]:
    """A regular file, open for reading, and its size.

    Args:
        folder: The open directory that `name` stands in, and then `name` may be no link; None for any path.
    """
    link = 0 if folder is None else os.O_NOFOLLOW
    # To open a device may set it going; to open a pipe waits for its other end.
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=folder is None).st_mode):
        raise _no_file(place, label, kind)
    file = os.fdopen(os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | link, dir_fd=folder), "rb")
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _no_file(place, label, kind)
        check_size(status.st_size, max_bytes, place, label)
    except BaseException:
        file.close()
        raise
    return file, status.st_size


def _no_file(place: str, label: str, kind: Kind = "image") -> MediaError:
    article = "an" if kind == "image" else "a"
    return MediaError(f"{place}: {label}: expected {article} {kind} file, found a directory or a device")
