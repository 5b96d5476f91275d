"""Images that a request names: data: URLs, and what the operator allows of the network and of one directory."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_qwen35.errors import MediaError, OptionError
from mlx_qwen35.paths import shorten
from mlx_qwen35.prompts.messages import IMAGE_PARTS, image_source, part_kind
from mlx_qwen35.prompts.sources import file_url_path, read_data_url, read_file_below
from mlx_qwen35.server.remote_media import fetch_remote

REMOTE_OPTION = "--allow-remote-media"
LOCAL_OPTION = "--allow-local-media DIR"


@dataclass(frozen=True)
class MediaPolicy:
    """What images a request may name.

    Args:
        allow_remote: Fetch http: and https: URLs, from public addresses only.
        local_directory: Read files below this directory; None for no files.
        max_bytes: Of one encoded image.
        max_images: Of one request.
        timeout: Seconds for one image from the network: name, connections, redirects and body together.
        max_redirects: Followed for one image.
    Raises:
        OptionError: A number is out of range, or there is no such directory.
    """

    allow_remote: bool = False
    local_directory: Path | None = None
    max_bytes: int = 20 * 2**20
    max_images: int = 16
    timeout: float = 10.0
    max_redirects: int = 3

    def __post_init__(self) -> None:
        for name, value, least in (
            ("max_bytes", self.max_bytes, 1),
            ("max_images", self.max_images, 0),
            ("max_redirects", self.max_redirects, 0),
        ):
            if value < least:
                raise OptionError(f"{name}: expected a whole number of at least {least}, found {value}")
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise OptionError(f"timeout: expected a number of seconds above 0, found {self.timeout}")
        if self.local_directory is not None and not self.local_directory.is_dir():
            raise OptionError(f"{LOCAL_OPTION}: expected a directory, found {shorten(self.local_directory)!r}")


def check_number(count: int, policy: MediaPolicy, *, place: str = "messages") -> None:
    """Hold the number of images of one request against the policy.

    Raises:
        MediaError: There are too many.
    """
    if count > policy.max_images:
        raise MediaError(f"{place}: expected at most {policy.max_images} images in one request, found {count}")


def fetch(source: str, policy: MediaPolicy, *, place: str) -> bytes:
    """The encoded image that a request names; blocks for up to `policy.timeout` seconds.

    Args:
        source: A data: URL; if the policy allows them an http(s): URL, a file: URL, or a path, which
            is taken below the allowed directory if it is relative.
        place: Where it stands in the request, for error messages.
    Returns:
        Bytes that `ModelKit` takes as an image; whether they are one is not looked at.
    Raises:
        MediaError: It is refused, missing, too large, too slow, or badly written.
    """
    if not isinstance(source, str):
        raise MediaError(f"{place}: expected {_kinds(policy)}, found {type(source).__name__}")
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", source)
    scheme = match[1].lower() if match else ""
    if scheme == "data":
        return read_data_url(source, max_bytes=policy.max_bytes, place=place)
    if scheme in ("http", "https"):
        if not policy.allow_remote:
            raise MediaError(
                f"{place}: expected {_kinds(policy)}, found an {scheme}: URL; "
                f"images are fetched from the network only by a server started with {REMOTE_OPTION}"
            )
        return fetch_remote(
            source,
            max_bytes=policy.max_bytes,
            timeout=policy.timeout,
            max_redirects=policy.max_redirects,
            place=place,
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
            max_bytes=policy.max_bytes,
            place=place,
            label=repr(shorten(source)),
            option=LOCAL_OPTION,
        )
    raise MediaError(f"{place}: expected {_kinds(policy)}, found a URL with scheme {shorten(scheme)!r}")


def _kinds(policy: MediaPolicy) -> str:
    kinds = ["a data: URL"]
    if policy.allow_remote:
        kinds.append("an http: or https: URL")
    if policy.local_directory is not None:
        kinds.append("a file of the allowed directory")
    return " or ".join(kinds)


def fetch_images(messages: Sequence[Any], policy: MediaPolicy) -> list[Any]:
    """The messages with the encoded bytes of each image in place of where it is.

    Raises:
        MediaError: One may not be fetched, or there are too many.
    """
    out: list[Any] = []
    count = 0
    for number, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, list):
            out.append(message)
            continue
        parts = []
        for at, part in enumerate(content):
            place = f"messages[{number}].content[{at}]"
            if not isinstance(part, Mapping) or part_kind(part) not in IMAGE_PARTS:
                parts.append(part)
                continue
            count += 1
            check_number(count, policy, place=place)
            parts.append({"type": "image", "image": fetch(image_source(part, place), policy, place=place)})
        out.append({**message, "content": parts})
    return out
