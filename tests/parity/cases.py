"""The prompts that every parity test reads: text, and images and videos in every place that matters.

Sizes of images and frames are multiples of 32 within the checkpoint's limits, so that resizing changes no pixel
and the golden files do not depend on Pillow's resampling.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.tiny import DENSE, IDS, MOE, MOE_WIDE_HEADS, WIDE_HEADS, YARN, Shape

START, PAD, END = IDS["<|vision_start|>"], IDS["<|image_pad|>"], IDS["<|vision_end|>"]
TURN = [IDS["<|im_end|>"], IDS["<|im_start|>"]]

# How far float32 may drift, of the largest logit: from transformers and mlx-vlm, and between any two ways to read a
# prompt. transformers itself drifts by 1.4e-5 from one machine to another; the most that was seen anywhere is 4.6e-5.
TOLERANCE = 5e-5
# How far text may drift from mlx-lm where the model is not exact.
TEXT_TOLERANCE = 2e-5


@dataclass(frozen=True)
class Case:
    """One prompt.

    Args:
        input_ids: One placeholder per image or video.
        image_sizes: Width and height of each image in pixels.
        video_sizes: Frames, width and height of each video.
        seed: Draws the pixels.
    """

    name: str
    input_ids: tuple[int, ...]
    image_sizes: tuple[tuple[int, int], ...]
    seed: int
    video_sizes: tuple[tuple[int, int, int], ...] = ()

    @property
    def images(self) -> list[Image.Image]:
        """Noise with coarse structure, so that neighbouring patches differ."""
        rng = np.random.Generator(np.random.PCG64(self.seed))
        images = []
        for width, height in self.image_sizes:
            coarse = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
            fine = rng.integers(0, 64, (height, width, 3), dtype=np.uint8)
            images.append(Image.fromarray(np.kron(coarse, np.ones((16, 16, 1), np.uint8)) // 2 + fine))
        return images

    @property
    def videos(self) -> list[NDArray[np.uint8]]:
        """Two frames a second of the same kind of noise, none like the one before, (T, H, W, 3) each."""
        rng = np.random.Generator(np.random.PCG64(self.seed + 1))
        videos = []
        for frames, width, height in self.video_sizes:
            coarse = rng.integers(0, 256, (frames, height // 16, width // 16, 3), dtype=np.uint8)
            fine = rng.integers(0, 64, (frames, height, width, 3), dtype=np.uint8)
            videos.append(np.kron(coarse, np.ones((1, 16, 16, 1), np.uint8)) // 2 + fine)
        return videos

    @property
    def media(self) -> dict[str, Any]:
        """The keyword arguments of `ModelKit.process_prompt`."""
        return {"images": self.images, "videos": self.videos} if self.video_sizes else {"images": self.images}


def _text(length: int, seed: int) -> list[int]:
    return np.random.Generator(np.random.PCG64(seed)).integers(0, 320, length).tolist()


IMAGE = [START, PAD, END]
VIDEO = [START, IDS["<|video_pad|>"], END]


def _cases() -> list[Case]:
    def case(name: str, ids: list[int], *sizes: tuple[int, ...]) -> Case:
        images = tuple(size for size in sizes if len(size) == 2)
        videos = tuple(size for size in sizes if len(size) == 3)
        return Case(name, tuple(ids), images, len(name) * 1000 + len(ids), videos)

    return [
        case("text", _text(70, 1)),
        case("square image", _text(9, 2) + IMAGE + _text(20, 3), (64, 64)),
        case("wide image", _text(9, 4) + IMAGE + _text(20, 5), (192, 64)),
        case("tall image", _text(9, 6) + IMAGE + _text(20, 7), (64, 160)),
        case("two images", _text(9, 8) + IMAGE + _text(11, 9) + IMAGE + _text(7, 10), (96, 64), (64, 160)),
        case(
            "three images",
            _text(5, 11) + IMAGE + _text(3, 12) + IMAGE + _text(8, 13) + IMAGE + _text(6, 14),
            *((64, 96), (160, 64), (96, 96)),
        ),
        case("adjacent images", [*_text(6, 15), PAD, PAD, *_text(9, 16)], (96, 64), (64, 128)),
        case("image first", [PAD, *_text(12, 17)], (128, 64)),
        case("image last", [*_text(12, 18), START, PAD], (128, 96)),
        case("image after long text", _text(300, 19) + IMAGE + _text(9, 20), (96, 96)),
        case(
            "images over several turns",
            _text(4, 21) + IMAGE + _text(6, 22) + TURN + _text(9, 23) + TURN + _text(3, 24) + IMAGE
            + _text(5, 25) + TURN + _text(7, 26) + TURN + _text(8, 27),
            *((128, 64), (64, 96)),
        ),
        case("one video", _text(9, 30) + VIDEO + _text(12, 31), (6, 96, 64)),
        case("a pair of frames", _text(5, 32) + VIDEO + _text(7, 33), (2, 64, 160)),
        case("many frames", _text(7, 34) + VIDEO + _text(9, 35), (16, 64, 64)),
        case("two videos", VIDEO + _text(8, 36) + VIDEO + _text(6, 37), (5, 64, 96), (4, 128, 64)),
        case(
            "an image, then a video",
            _text(6, 38) + IMAGE + _text(4, 39) + VIDEO + _text(9, 40),
            *((96, 64), (4, 64, 96)),
        ),
        case("a video, then an image", _text(6, 41) + VIDEO + IMAGE + _text(9, 42), (64, 96), (4, 96, 64)),
        case(
            "images and videos over several turns",
            _text(4, 43) + VIDEO + _text(6, 44) + TURN + _text(9, 45) + TURN + IMAGE + _text(5, 46) + TURN
            + _text(7, 47) + TURN + _text(3, 48) + VIDEO + _text(8, 49),
            *((4, 64, 96), (128, 64), (6, 96, 64)),
        ),
    ]  # fmt: skip


CASES = {case.name: case for case in _cases()}
# For what a long text shows no better: all experts of MOE are asked in every layer.
SHORT_IDS = CASES["text"].input_ids[:20]
SHAPES: tuple[Shape, ...] = (DENSE, WIDE_HEADS, MOE, MOE_WIDE_HEADS, YARN)


def rows_of(length: int) -> list[int]:
    """Positions of a prompt whose whole logits the golden files keep; of all others only the argmax."""
    return sorted({*range(0, length, max(length // 4, 1)), length - 1})
