"""Pictures and clips to patches: what the runtime's image processor makes of them, in bytes and fast."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

PATCH, MERGE = 16, 2
FACTOR = PATCH * MERGE
# A picture takes 64 to 100 tokens, or a few more or less where the sides do not divide; a clip as many over all of
# its frames.
PIXELS = {"shortest_edge": 256 * 256, "longest_edge": 320 * 320}
CLIP_PIXELS = {"shortest_edge": 2 * 256 * 256, "longest_edge": 2 * 320 * 320}
# More than any picture has.
MOST_PATCHES = 480


def size_of(width: int, height: int, frames: int = 0) -> tuple[int, int]:
    """Width and height that a picture, or every frame of a clip, is brought to."""
    limits = (PIXELS["shortest_edge"], PIXELS["longest_edge"])
    if frames:
        # The limits are those of all frames together, as transformers' video processor reads them.
        limits = (CLIP_PIXELS["shortest_edge"] // frames, CLIP_PIXELS["longest_edge"] // frames)
    tall, wide = smart_resize(height, width, FACTOR, *limits)
    return wide, tall


def merged(width: int, height: int, frames: int = 0) -> tuple[int, int]:
    """Rows and columns of tokens."""
    wide, tall = size_of(width, height, frames)
    return tall // FACTOR, wide // FACTOR


def cut(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Patches in merge order, shape (patches, 3 * PATCH ** 2)."""
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    rows, columns = size[1] // FACTOR, size[0] // FACTOR
    parts = pixels.reshape(rows, MERGE, PATCH, columns, MERGE, PATCH, 3)
    return np.ascontiguousarray(parts.transpose(0, 3, 1, 4, 6, 2, 5)).reshape(-1, 3 * PATCH**2)


def pair(frames: Sequence[Image.Image], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Two frames, or a picture twice, as one temporal patch: shape (2, patches, 3 * PATCH ** 2)."""
    return np.stack([cut(frame, size) for frame in frames])
