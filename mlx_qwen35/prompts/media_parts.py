"""Parts of messages that are images and videos: their names, their sources, and what they may say."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_qwen35.errors import PromptError
from mlx_qwen35.paths import shorten

IMAGE_PARTS = ("image", "image_url", "input_image")
VIDEO_PARTS = ("video", "video_url", "input_video")
# What a part may say about its image or video, in the words of qwen-vl-utils; see `Resizing` and
# `VideoPreprocessor`.
IMAGE_OPTIONS = ("max_pixels", "min_pixels", "resized_height", "resized_width")
VIDEO_OPTIONS = ("fps", "source_fps", "min_frames", "max_frames", "max_pixels")
# What else qwen-vl-utils reads of a video: without it, the model would see something else than the caller means.
_OF_OTHERS = (
    "min_pixels", "total_pixels", "resized_height", "resized_width", "nframes", "video_start", "video_end",
    "sample_fps", "raw_fps",
)  # fmt: skip


def options_of(part: Mapping[str, Any], place: str) -> dict[str, Any]:
    """What a part says about its image or video.

    Raises:
        PromptError: A video has something that it cannot have here, where leaving it out would go unseen.
    """
    is_video = part_kind(part) in VIDEO_PARTS
    for name in _OF_OTHERS if is_video else ():
        if part.get(name) is not None:
            expected, found = ", ".join(VIDEO_OPTIONS), shorten(repr(part[name]), 60)
            raise PromptError(f"{place}.{name}: expected one of {expected}; found {found}")
    names = VIDEO_OPTIONS if is_video else IMAGE_OPTIONS
    return {name: part[name] for name in names if part.get(name) is not None}


def part_kind(part: Mapping[str, Any]) -> Any:
    """The type of a content part, which may be left out where the part's own key tells it."""
    return part.get("type") or next((kind for kind in ("text", "image", "video") if kind in part), None)


def image_source(part: Mapping[str, Any], place: str) -> Any:
    """What an image part says the image is; None if it is passed separately.

    Raises:
        PromptError: It names several.
    """
    return _only(part, ("image", "path", "url", "image_url", "data"), place, "image")


def video_source(part: Mapping[str, Any], place: str) -> Any:
    """What a video part says the video is, such as a list of pictures; None if it is passed separately.

    Raises:
        PromptError: It names several.
    """
    return _only(part, ("video", "path", "url", "video_url", "data"), place, "video")


def _only(part: Mapping[str, Any], keys: Sequence[str], place: str, kind: str) -> Any:
    values = [part.get(key) for key in keys]
    values = [value.get("url") if isinstance(value, Mapping) else value for value in values]
    found = [value for value in values if value is not None]
    if len(found) > 1:
        raise PromptError(f"{place}: expected one {kind}, found {len(found)}")
    return found[0] if found else None
