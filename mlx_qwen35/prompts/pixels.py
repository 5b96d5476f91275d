"""What becomes of decoded pictures and frames: three channels, then patches in the order of the tower."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image


def to_rgb(image: "Image") -> "Image":
    """A picture in RGB, what is transparent composed on white.

    Source: transformers 5.24, image_transforms.py, `convert_to_rgb`, which fails for gray with premultiplied alpha.
    """
    from PIL import Image

    if image.mode in ("La", "RGBa"):
        # Premultiplied. Some TIFF files are in La, which Pillow converts to nothing else; RGBa would lose its alpha.
        image = image.convert(image.mode.upper())
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        background = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(background, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def cut_into_patches(
    frames: NDArray[np.uint8], patch: int, merge: int
) -> tuple[NDArray[np.uint8], tuple[int, int, int]]:
    """Patches in merge order, those that become one token behind each other; bytes still, which are soonest ordered.

    Args:
        frames: Those that are seen together, (frames, height, width, channels).
        patch: Pixels on a side of a patch.
        merge: Patches on a side of a token.
    Returns:
        (h * w, channels, frames * patch ** 2), contiguous, and the grid in patches, (1, h, w).
    Source:
        transformers 5.24, models/qwen3_vl/video_processing_qwen3_vl.py, `Qwen3VLVideoProcessor.patchify`.
    """
    count, height, width, channels = frames.shape
    h, w = height // patch, width // patch
    blocks = frames.reshape(count, h // merge, merge, patch, w // merge, merge, patch, channels)
    return blocks.transpose(1, 4, 2, 5, 7, 0, 3, 6).reshape(h * w, channels, count * patch**2), (1, h, w)
