"""Media that a request names: data: URLs, and what the operator allows of the network and of one directory."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_qwen35.errors import MediaError, OptionError
from mlx_qwen35.paths import shorten
from mlx_qwen35.prompts.media_parts import (
    IMAGE_PARTS,
    VIDEO_PARTS,
    image_source,
    options_of,
    part_kind,
    video_source,
)
from mlx_qwen35.prompts.sources import Kind, file_url_path, read_data_url, read_file_below
from mlx_qwen35.server.remote_media import fetch_remote

REMOTE_OPTION = "--allow-remote-media"
LOCAL_OPTION = "--allow-local-media DIR"


@dataclass(frozen=True)
class MediaPolicy:
    """What images and videos a request may name.

    Args:
        allow_remote: Fetch http: and https: URLs, from public addresses only.
        local_directory: Read files below this directory; None for no files.
        max_bytes: Of one encoded image.
        max_images: Of one request.
        timeout: Seconds for one file from the network: name, connections, redirects and body together.
        max_redirects: Followed for one file.
        max_video_bytes: Of one encoded video, or of all pictures of one.
        max_videos: Of one request.
        max_frames: That a request may ask for of one video, or send of one as pictures.
    Raises:
        OptionError: A number is out of range, or there is no such directory.
    """

    allow_remote: bool = False
    local_directory: Path | None = None
    max_bytes: int = 20 * 2**20
    max_images: int = 16
    timeout: float = 10.0
    max_redirects: int = 3
    max_video_bytes: int = 100 * 2**20
    max_videos: int = 4
    max_frames: int = 768

    def __post_init__(self) -> None:
        for name, value, least in (
            ("max_bytes", self.max_bytes, 1),
            ("max_images", self.max_images, 0),
            ("max_redirects", self.max_redirects, 0),
            ("max_video_bytes", self.max_video_bytes, 1),
            ("max_videos", self.max_videos, 0),
            ("max_frames", self.max_frames, 1),
        ):
            if value < least:
                raise OptionError(f"{name}: expected a whole number of at least {least}, found {value}")
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise OptionError(f"timeout: expected a number of seconds above 0, found {self.timeout}")
        if self.local_directory is not None and not self.local_directory.is_dir():
            raise OptionError(f"{LOCAL_OPTION}: expected a directory, found {shorten(self.local_directory)!r}")


def check_number(count: int, policy: MediaPolicy, *, place: str = "messages", kind: Kind = "image") -> None:
    """Hold the number of images or videos of one request against the policy.

    Raises:
        MediaError: There are too many.
    """
    most = policy.max_images if kind == "image" else policy.max_videos
    if count > most:
        raise MediaError(f"{place}: expected at most {most} {kind}s in one request, found {count}")


def fetch(source: str, policy: MediaPolicy, *, place: str, kind: Kind = "image", max_bytes: int | None = None) -> bytes:
    """The encoded image or video that a request names; blocks for up to `policy.timeout` seconds.

    Args:
        source: A data: URL; if the policy allows them an http(s): URL, a file: URL, or a path, which
            is taken below the allowed directory if it is relative.
        place: Where it stands in the request, for error messages.
        max_bytes: None for the policy's.
    Returns:
        Bytes that `ModelKit` takes as an image or a video; whether they are one is not looked at.
    Raises:
        MediaError: It is refused, missing, too large, too slow, or badly written.
    """
    if max_bytes is None:
        max_bytes = policy.max_bytes if kind == "image" else policy.max_video_bytes
    if not isinstance(source, str):
        raise MediaError(f"{place}: expected {_kinds(policy)}, found {type(source).__name__}")
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", source)
    scheme = match[1].lower() if match else ""
    if scheme == "data":
        return read_data_url(source, max_bytes=max_bytes, place=place, kind=kind)
    if scheme in ("http", "https"):
        if not policy.allow_remote:
            raise MediaError(
                f"{place}: expected {_kinds(policy)}, found an {scheme}: URL; "
                f"{kind}s are fetched from the network only by a server started with {REMOTE_OPTION}"
            )
        return fetch_remote(
            source,
            max_bytes=max_bytes,
            timeout=policy.timeout,
            max_redirects=policy.max_redirects,
            place=place,
            kind=kind,
        )
    if scheme in ("file", ""):
        if policy.local_directory is None:
            raise MediaError(
                f"{place}: expected {_kinds(policy)}, found {shorten(source)!r}; "
                f"files are read only by a server started with {LOCAL_OPTION}"
            )
        return read_file_below(
            file_url_path(source, place) if scheme else source,
            policy.local_directory,
            max_bytes=max_bytes,
            place=place,
            label=repr(shorten(source)),
            option=LOCAL_OPTION,
            kind=kind,
        )
    raise MediaError(f"{place}: expected {_kinds(policy)}, found a URL with scheme {shorten(scheme)!r}")


def _kinds(policy: MediaPolicy) -> str:
    kinds = ["a data: URL"]
    if policy.allow_remote:
        kinds.append("an http: or https: URL")
    if policy.local_directory is not None:
        kinds.append("a file of the allowed directory")
    return " or ".join(kinds)


def names_media(messages: Any) -> bool:
    """Whether a prompt has images or videos."""
    if isinstance(messages, str):
        return False
    contents = [found.get("content") for found in messages if isinstance(found, Mapping)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(isinstance(part, Mapping) and part_kind(part) in (*IMAGE_PARTS, *VIDEO_PARTS) for part in parts)


def fetch_media(messages: Sequence[Any], policy: MediaPolicy) -> list[Any]:
    """The messages with the encoded bytes of each image and video in place of where it is.

    Raises:
        MediaError: One may not be fetched, or there are too many.
        PromptError: One says what it cannot have here.
    """
    out: list[Any] = []
    counts: dict[Kind, int] = {"image": 0, "video": 0}
    for number, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, list):
            out.append(message)
            continue
        parts = []
        for at, part in enumerate(content):
            place = f"messages[{number}].content[{at}]"
            name = part_kind(part) if isinstance(part, Mapping) else None
            if name not in (*IMAGE_PARTS, *VIDEO_PARTS):
                parts.append(part)
                continue
            kind: Kind = "image" if name in IMAGE_PARTS else "video"
            counts[kind] += 1
            check_number(counts[kind], policy, place=place, kind=kind)
            if kind == "image":
                data = fetch(image_source(part, place), policy, place=place)
                parts.append({"type": "image", "image": data, **options_of(part, place)})
            else:
                parts.append(_fetch_video(part, policy, place))
        out.append({**message, "content": parts})
    return out


def _fetch_video(part: Mapping[str, Any], policy: MediaPolicy, place: str) -> dict[str, Any]:
    """A video part with its bytes, or with those of the pictures that it lists."""
    options = options_of(part, place)
    for name in ("min_frames", "max_frames"):
        wanted = options.get(name, 1)
        if not isinstance(wanted, int) or wanted > policy.max_frames:
            raise MediaError(f"{place}: {name}: expected at most {policy.max_frames}, found {shorten(repr(wanted))}")
    source = video_source(part, place)
    if not isinstance(source, list):
        return {"type": "video", "video": fetch(source, policy, place=place, kind="video"), **options}
    if len(source) > policy.max_frames:
        raise MediaError(f"{place}: expected at most {policy.max_frames} pictures of a video, found {len(source)}")
    pictures: list[bytes] = []
    left = policy.max_video_bytes
    for number, url in enumerate(source):
        here = f"{place}.video[{number}]"
        pictures.append(fetch(url, policy, place=here, max_bytes=max(0, min(policy.max_bytes, left))))
        left -= len(pictures[-1])
    return {"type": "video", "video": pictures, **options}
