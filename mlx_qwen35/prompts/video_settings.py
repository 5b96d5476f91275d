"""How a checkpoint's videos are to be sampled, resized and normalised, by its own files.

The arithmetic is that of transformers 5.24, models/qwen3_vl/video_processing_qwen3_vl.py, `Qwen3VLVideoProcessor`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_qwen35.checkpoints.config import VisionConfig
from mlx_qwen35.checkpoints.reading import read_json
from mlx_qwen35.errors import CheckpointError, MediaError, OptionError
from mlx_qwen35.paths import shorten

MAX_ASPECT_RATIO = 200
# What transformers computes, whatever these say elsewhere; a checkpoint that says otherwise is refused.
_FIXED = {
    "do_resize": True, "do_rescale": True, "do_normalize": True, "do_sample_frames": True, "resample": 3,
    "num_frames": None, "do_center_crop": None, "do_pad": None,
}  # fmt: skip


@dataclass(frozen=True)
class VideoSettings:
    """transformers' video processor, as far as a checkpoint may set it up; the defaults are its own.

    Args:
        patch_size, temporal_patch_size, merge_size: Pixels, frames and patches on a side.
        shortest_edge, longest_edge: Pixels over all frames, at least and at most.
        fps: Frames a second to sample at.
        min_frames, max_frames: Frames to sample; never more than there are.
        cap_pixels_per_frame: Whether a frame may have no more than `max_video_tokens` tokens.
        mean, std: What is taken from a channel's values, and what they are divided by then, for values from 0 to 255.
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    shortest_edge: int = 128 * 32 * 32
    longest_edge: int = 768 * 32 * 32
    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    cap_pixels_per_frame: bool = False
    max_video_tokens: int = 768
    mean: tuple[float, ...] = (127.5, 127.5, 127.5)
    std: tuple[float, ...] = (127.5, 127.5, 127.5)

    @property
    def channels(self) -> int:
        """Red, green and blue."""
        return len(self.mean)

    def sample(self, total: int, source_fps: float, fps: float, low: int, high: int) -> list[int]:
        """Which frames of a video are shown: as evenly spaced as they can be, the first and the last among them.

        Args:
            total: Frames that there are.
            source_fps: How many of them a second.
            fps: How many a second to show.
            low, high: How many to show at least and at most; never more than there are.
        """
        wanted = min(max(int(total / source_fps * fps), low), high, total)
        return [int(index) for index in np.linspace(0, total - 1, wanted).round()]

    def resized(self, frames: int, height: int, width: int, max_pixels: int | None, place: str) -> tuple[int, int]:
        """Height and width of every frame after resizing.

        Args:
            frames: How many are resized together.
            max_pixels: At most this many pixels over all of them; None for the checkpoint's own limit.
        Raises:
            MediaError: The frames are too long and thin for the model, or for `max_pixels`.
            OptionError: `max_pixels` is below the checkpoint's minimum.
        """
        limit = self.longest_edge
        if max_pixels is not None:
            if max_pixels < self.shortest_edge:
                raise OptionError(
                    f"{place}: max_pixels: expected at least {self.shortest_edge} (the checkpoint's minimum over all "
                    f"frames of a video), found {max_pixels}"
                )
            limit = max_pixels
        factor = self.patch_size * self.merge_size
        if self.cap_pixels_per_frame:
            cap = min(self.max_video_tokens * factor**2, limit // frames)
            limit = max(cap, int(self.shortest_edge * 1.05)) * frames
        try:
            found = _smart_resize(frames, height, width, self.temporal_patch_size, factor, self.shortest_edge, limit)
        except ValueError as error:
            raise MediaError(f"{place}: {error}, found {width} x {height}") from error
        if max_pixels is not None and frames * found[0] * found[1] > max(max_pixels, limit):
            raise MediaError(
                f"{place}: expected a video that fits into {max_pixels} pixels, found {frames} frames of {width} x "
                f"{height}, which take {frames * found[0] * found[1]}; ask for fewer with max_frames"
            )
        return found


def _smart_resize(
    frames: int, height: int, width: int, temporal_factor: int, factor: int, low: int, high: int
) -> tuple[int, int]:
    """transformers 5.24, models/qwen3_vl/video_processing_qwen3_vl.py, `smart_resize`."""
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise ValueError(f"expected frames at most {MAX_ASPECT_RATIO} times as long as wide")
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    rounded = round(frames / temporal_factor) * temporal_factor
    if rounded * rows * columns > high:
        beta = math.sqrt(frames * height * width / high)
        rows = max(factor, math.floor(height / beta / factor) * factor)
        columns = max(factor, math.floor(width / beta / factor) * factor)
    elif rounded * rows * columns < low:
        beta = math.sqrt(low / (frames * height * width))
        rows = math.ceil(height * beta / factor) * factor
        columns = math.ceil(width * beta / factor) * factor
    return rows, columns


def read_video_settings(directory: Path, vision: VisionConfig) -> VideoSettings:
    """The video processor's settings, from the file that transformers would take them from.

    Raises:
        CheckpointError: There is no such file, or it holds what no video could be prepared by.
    """
    found, path = _find(directory)
    for name, expected in _FIXED.items():
        if found.get(name) not in (None, expected) and not (expected is None and found[name] is False):
            raise CheckpointError(f"{path}: {name}: expected {expected} for videos, found {shorten(repr(found[name]))}")
    for name, expected in (
        ("patch_size", vision.patch_size),
        ("temporal_patch_size", vision.temporal_patch_size),
        ("merge_size", vision.spatial_merge_size),
    ):
        if found.get(name, expected) != expected:
            raise CheckpointError(
                f"{path}: video processor: expected {name} {expected} as in config.json, found {shorten(found[name])}"
            )
    given: dict[str, Any] = {}
    size = found.get("size")
    if size is not None:
        if not isinstance(size, Mapping):
            raise CheckpointError(f"{path}: size: expected an object, found {shorten(repr(size))}")
        for name in ("shortest_edge", "longest_edge"):
            given[name] = _whole(size.get(name), f"size.{name}", path)
    for name in ("min_frames", "max_frames", "max_video_tokens"):
        if found.get(name) is not None:
            given[name] = _whole(found[name], name, path)
    if found.get("cap_pixels_per_frame") is not None:
        given["cap_pixels_per_frame"] = bool(found["cap_pixels_per_frame"])
    fps = found.get("fps")
    if fps is not None:
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < math.inf:
            raise CheckpointError(f"{path}: fps: expected a number above 0, found {shorten(repr(fps))}")
        given["fps"] = float(fps)
    factor = found.get("rescale_factor") or 1 / 255
    for name in ("image_mean", "image_std"):
        given[name.removeprefix("image_")] = _channels(found.get(name), name, factor, vision.in_channels, path)
    return VideoSettings(vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size, **given)


def _find(directory: Path) -> tuple[dict[str, Any], Path]:
    """In transformers' order: nested in the newest file, in a file of its own, or the images' settings."""
    nested = directory / "processor_config.json"
    if nested.is_file():
        found = read_json(nested).get("video_processor")
        if isinstance(found, dict):
            return found, nested
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (directory / name).is_file():
            return read_json(directory / name), directory / name
    raise CheckpointError(
        f"{directory}: expected video_preprocessor_config.json with the sizes that the model was trained on, found "
        "none; copy it from the original checkpoint"
    )


def _whole(value: Any, name: str, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise CheckpointError(f"{path}: {name}: expected a whole number of at least 1, found {shorten(repr(value))}")
    return value


def _channels(value: Any, name: str, factor: Any, channels: int, path: Path) -> tuple[float, ...]:
    """A number for every channel, for values from 0 to 255."""
    values = value if isinstance(value, list) else [0.5 if value is None else value]
    if len(values) == 1:
        values = values * channels
    numbers = [number for number in [*values, factor] if isinstance(number, int | float) and 0 <= number <= 1]
    if len(values) != channels or len(numbers) != channels + 1 or (name == "image_std" and 0 in values):
        raise CheckpointError(
            f"{path}: {name}: expected {channels} numbers from 0 to 1, found {shorten(repr(value))} with a "
            f"rescale_factor of {shorten(repr(factor))}"
        )
    return tuple(number / factor for number in values)
