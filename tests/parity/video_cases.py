"""Videos that transformers' own video processor was given; from numpy alone, so that any environment can make them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# As Qwen3.5's checkpoints have it.
PUBLISHED: dict[str, Any] = {
    "size": {"longest_edge": 25165824, "shortest_edge": 4096}, "patch_size": 16, "temporal_patch_size": 2,
    "merge_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor", "video_processor_type": "Qwen3VLVideoProcessor",
}  # fmt: skip
NARROW = PUBLISHED | {"size": {"longest_edge": 4 * 64 * 96, "shortest_edge": 4096}}
COLOURED = PUBLISHED | {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}


@dataclass(frozen=True)
class VideoCase:
    """One video.

    Args:
        shape: Frames, height, width.
        fps: Frames a second that it was filmed at, and is sampled from; None for one that is taken as it is, at two.
        settings: video_preprocessor_config.json.
        noise: Every pixel at random; else colours that flow into one another.
    """

    shape: tuple[int, int, int]
    fps: float | None = None
    settings: dict[str, Any] = field(default_factory=lambda: PUBLISHED)
    noise: bool = False

    def frames(self) -> NDArray[np.uint8]:
        """Shape (T, H, W, 3)."""
        t, h, w = self.shape
        rng = np.random.Generator(np.random.PCG64(t * 1_000_003 + h * 1009 + w))
        if self.noise:
            return rng.integers(0, 256, (t, h, w, 3), dtype=np.uint8)
        x, y, time = (
            np.arange(w)[None, None, :, None],
            np.arange(h)[None, :, None, None],
            np.arange(t)[:, None, None, None],
        )
        slopes = rng.integers(1, 9, (3, 3))
        return ((x * slopes[0] + y * slopes[1] + time * 8 * slopes[2]) % 511 - 255).__abs__().astype(np.uint8)


CASES = {
    "as it is": VideoCase((4, 64, 96)),
    "odd": VideoCase((5, 64, 64)),
    "two": VideoCase((2, 32, 64), noise=True),
    "odd sides": VideoCase((3, 75, 101)),
    "too large": VideoCase((6, 180, 260), settings=NARROW),
    "too large, noise": VideoCase((4, 90, 130), settings=NARROW, noise=True),
    "too small": VideoCase((2, 20, 30)),
    "tiny": VideoCase((4, 5, 9), noise=True),
    "colours": VideoCase((2, 64, 64), settings=COLOURED),
    "sampled": VideoCase((40, 64, 64), fps=12.0),
    "sampled, few": VideoCase((9, 32, 64), fps=29.97),
    "slower than sampled": VideoCase((7, 32, 64), fps=0.7),
}

# How many frames of how many a second, and how to sample them (fps, min_frames, max_frames).
RATES = [0.3, 1.0, 2.0, 3.0, 7.5, 10.0, 12.0, 15.0, 24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 50.0, 60.0, 120.0]
TOTALS = [1, 2, 3, 4, 5, 7, 9, 10, 23, 24, 25, 47, 48, 100, 101, 240, 999, 1800, 25_000]
SAMPLINGS = [(2.0, 4, 768), (1.0, 4, 768), (0.5, 2, 16), (24.0, 4, 64)]


def sizes() -> list[tuple[int, int, int]]:
    """Frames, height and width of videos to be resized, among them those on an edge of every rule."""
    rng = np.random.Generator(np.random.PCG64(7))
    drawn = [
        (int(rng.integers(2, 100)), int(2 ** rng.uniform(0, 12.5)), int(2 ** rng.uniform(0, 12.5))) for _ in range(400)
    ]
    edges = [2, 3, 5, 7, 31, 32, 33, 48, 80, 720, 1080, 1920]
    return drawn + [(t, h, w) for t in (2, 3, 4, 5, 7, 768) for h in edges for w in (32, 48, 640, 6400)]


# Texts with videos (by case) and images (height and width) at their placeholders.
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
PROMPTS: dict[str, tuple[str, list[str], list[tuple[int, int]]]] = {
    "one": (f"what is in the {VIDEO}picture?", ["sampled"], []),
    "two": (f"{VIDEO}{VIDEO} there is the other fox", ["odd", "slower than sampled"], []),
    "image then video": (f"the {IMAGE} then {VIDEO} hello", ["sampled, few"], [(64, 96)]),
    "video then image": (f"the {VIDEO} then {IMAGE}{IMAGE} hello", ["two"], [(64, 96), (32, 32)]),
}
