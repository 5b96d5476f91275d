"""How a checkpoint's images are to be resized and normalised, by its own files.

The arithmetic is that of transformers 5.24, models/qwen2_vl/image_processing_pil_qwen2_vl.py,
`Qwen2VLImageProcessorPil`, which is not used itself because importing transformers takes longer than preparing most
images.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_qwen35.checkpoints.config import VisionConfig
from mlx_qwen35.checkpoints.reading import read_json
from mlx_qwen35.errors import CheckpointError
from mlx_qwen35.paths import shorten

MAX_ASPECT_RATIO = 200
# What its class has where the files say nothing.
_SHORTEST_EDGE, _BICUBIC = 56 * 56, 3
_TEMPORAL_PATCH_SIZE, _MERGE_SIZE = 2, 2
_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


@dataclass(frozen=True)
class Resizing:
    """How large one image is to be, in the words of qwen-vl-utils; what is None is as the checkpoint has it.

    Args:
        max_pixels, min_pixels: Pixels, at most and at least.
        resized_height, resized_width: Pixels that it is to have in place of its own, before it is rounded and bounded.
    """

    max_pixels: int | None = None
    min_pixels: int | None = None
    resized_height: int | None = None
    resized_width: int | None = None


@dataclass(frozen=True)
class ImageSettings:
    """transformers' image processor, as far as a checkpoint may set it up.

    Args:
        patch_size, temporal_patch_size, merge_size: Pixels, frames and patches on a side.
        shortest_edge, longest_edge: Pixels of an image, at least and at most.
        resample: Pillow's number of the filter that images are resized with.
        values: What each of 256 values of a channel becomes, (channels, 256).
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    shortest_edge: int
    longest_edge: int
    resample: int
    values: NDArray[np.float32]

    def resized(
        self, height: int, width: int, max_pixels: int | None, min_pixels: int | None = None
    ) -> tuple[int, int]:
        """Height and width after resizing.

        Args:
            max_pixels: At most this many pixels, as far as the shape allows it; None for the checkpoint's own limit.
            min_pixels: At least this many, unless that is more than the most; as many as the checkpoint wants anyway.
        Raises:
            ValueError: The image is too long and thin.
        """
        ratio = max(height, width) / min(height, width)
        if ratio > MAX_ASPECT_RATIO:
            raise ValueError(f"absolute aspect ratio must be smaller than {MAX_ASPECT_RATIO}, got {ratio}")
        high = self.longest_edge if max_pixels is None else max_pixels
        low = max(self.shortest_edge, min(min_pixels or 0, high))
        factor = self.patch_size * self.merge_size
        rows, columns = round(height / factor) * factor, round(width / factor) * factor
        if rows * columns > high:
            beta = math.sqrt(height * width / high)
            rows = max(factor, math.floor(height / beta / factor) * factor)
            columns = max(factor, math.floor(width / beta / factor) * factor)
        elif rows * columns < low:
            beta = math.sqrt(low / (height * width))
            rows = math.ceil(height * beta / factor) * factor
            columns = math.ceil(width * beta / factor) * factor
        return rows, columns


def read_image_settings(directory: Path, vision: VisionConfig) -> ImageSettings:
    """The image processor's settings, in transformers' order: nested in the newest file, or in the older one.

    Raises:
        CheckpointError: None of them has any, or they are none that an image could be prepared by.
    """
    newer, older = directory / "processor_config.json", directory / "preprocessor_config.json"
    found = {path: read_json(path) for path in (newer, older) if path.is_file()}
    nested = [(path, settings["image_processor"]) for path, settings in found.items() if "image_processor" in settings]
    for path, settings in [*nested, *((path, found[path]) for path in (older, newer) if path in found)]:
        if "patch_size" in settings and ("size" in settings or "max_pixels" in settings):
            return _settings(dict(settings), vision, path)
    raise CheckpointError(
        f"{directory}: expected preprocessor_config.json with the image sizes that the model was trained on, "
        "found none; copy it from the original checkpoint"
    )


def _settings(found: dict[str, Any], vision: VisionConfig, path: Path) -> ImageSettings:
    for name, expected, default in (
        ("patch_size", vision.patch_size, None),
        ("temporal_patch_size", vision.temporal_patch_size, _TEMPORAL_PATCH_SIZE),
        ("merge_size", vision.spatial_merge_size, _MERGE_SIZE),
    ):
        given = found.get(name, default)
        if given != expected:
            raise CheckpointError(
                f"{path.parent}: image processor: expected {name} {expected} as in config.json, found {given}"
            )
    for name in ("do_resize", "do_convert_rgb"):
        if found.get(name) is False:
            raise CheckpointError(f"{path}: {name}: expected true, found false; images of any size and kind are taken")
    resample = found.get("resample")
    resample = _BICUBIC if resample is None else resample
    if resample not in range(6) or isinstance(resample, bool):
        raise CheckpointError(f"{path}: resample: expected a number from 0 to 5, found {shorten(repr(resample))}")
    shortest, longest = _edges(found, path)
    values = _values(found, vision.in_channels, path)
    return ImageSettings(
        vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size, shortest, longest, resample, values
    )


def _edges(found: dict[str, Any], path: Path) -> tuple[int, int]:
    """Pixels of an image at least and at most; either file has its own names for them."""
    size = found.get("size")
    if size is not None and not isinstance(size, dict):
        raise CheckpointError(f"{path}: size: expected an object, found {shorten(repr(size))}")
    edges = {"shortest_edge": _SHORTEST_EDGE} if size is None else size
    numbers = []
    for name, older in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels")):
        # The older name counts before the other, which then need not be there.
        said, value = (f"size.{name}", edges.get(name)) if found.get(older) is None else (older, found[older])
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
            raise CheckpointError(f"{path}: {said}: expected a number of pixels, found {shorten(repr(value))}")
        numbers.append(value)
    return numbers[0], numbers[1]


def _values(found: dict[str, Any], channels: int, path: Path) -> NDArray[np.float32]:
    """What each value of a channel becomes, in the order and precision of transformers."""
    values = np.broadcast_to(np.arange(256, dtype=np.float64), (channels, 256))
    if found.get("do_rescale") is not False:
        factor = 1 / 255 if found.get("rescale_factor") is None else found["rescale_factor"]
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            raise CheckpointError(f"{path}: rescale_factor: expected a number, found {shorten(repr(factor))}")
        values = values * factor
    rescaled = values.astype(np.float32)
    if found.get("do_normalize") is False:
        return rescaled
    mean = _channels(found, "image_mean", _MEAN, channels, path)
    std = _channels(found, "image_std", _STD, channels, path)
    if not std.all():
        raise CheckpointError(f"{path}: image_std: expected numbers above 0, found {shorten(repr(found['image_std']))}")
    return (rescaled - mean) / std


def _channels(found: dict[str, Any], name: str, default: list[float], channels: int, path: Path) -> NDArray[np.float32]:
    """A number for every channel, (channels, 1)."""
    given = default if found.get(name) is None else found[name]
    numbers = given if isinstance(given, list) else [given] * channels
    if len(numbers) != channels or not all(isinstance(n, int | float) and 0 <= n <= 1 for n in numbers):
        raise CheckpointError(f"{path}: {name}: expected numbers from 0 to 1, found {shorten(repr(given))}")
    return np.array(numbers, dtype=np.float32)[:, None]
