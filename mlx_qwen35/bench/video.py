"""How fast a clip is read, by its length, beside others; and what the second question about it costs."""

import math
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_qwen35.bench.speed import Case
from mlx_qwen35.errors import CheckpointError
from mlx_qwen35.model_kit import ModelKit
from mlx_qwen35.prompts.pieces import Piece
from mlx_qwen35.prompts.prompt import Prompt

FRAMES = (16, 64, 128)
TOKENS = 16


@dataclass(frozen=True)
class Asked:
    """One question about a clip.

    Args:
        first_token: Seconds until the first token of the answer, from the finished prompt on.
        read: Tokens of the prompt that had to be read.
        frames_encoded: Frames that the vision tower had to look at.
    """

    first_token: float
    read: int
    frames_encoded: int


def clip(frames: int, side: int) -> NDArray[np.uint8]:
    """Noise, no two frames alike, (T, H, W, 3)."""
    return np.random.Generator(np.random.PCG64(frames)).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)


def about(kit: ModelKit, frames: int, side: int, question: int = 0) -> Prompt:
    """A prompt with one clip, two frames a second at their own size, and 32 tokens behind it.

    Args:
        question: Draws those tokens.
    Raises:
        CheckpointError: The checkpoint sees no videos.
    """
    media = kit.config.media_tokens
    if media is None or media.video_token_id is None or not kit.vision.sees_videos:
        raise CheckpointError(
            f"{kit.checkpoint.directory}: expected a checkpoint that sees videos, found one that does not"
        )
    rng = np.random.Generator(np.random.PCG64(question))
    ids = [media.vision_start_token_id, media.video_token_id, media.vision_end_token_id]
    ids += [int(token) for token in rng.integers(0, 256, 32)]
    return kit.process_prompt(ids, videos=[clip(frames, side)], max_pixels=frames * side**2)


def cases(kit: ModelKit, *, frames: Sequence[int], side: int, tokens: int) -> Iterator[Case]:
    """One clip of each length."""
    for count in frames:
        yield Case(f"{count} frames, {side} x {side}", (about(kit, count, side),), tokens)


def alike(own: Sequence[int], other: Sequence[int], ends: Collection[int]) -> tuple[int, int]:
    """How many tokens two greedy answers begin alike with, of how many can be compared.

    Args:
        ends: Tokens that end an answer: this package is kept from writing them, others write on behind them.
    """
    compared = next((index for index, token in enumerate(other) if token in ends), len(other))
    pairs = list(zip(own[:compared], other[:compared], strict=True))
    return next((index for index, (one, two) in enumerate(pairs) if one != two), compared), compared


def piece_speeds(model: Path, frames: int, side: int, counts: Sequence[int]) -> dict[int, tuple[float, int]]:
    """Patches that the vision tower looks at in a second, and the most bytes it takes, by pairs of frames at once."""
    with ModelKit.load(model, image_cache_bytes=0, speculate="off") as kit:
        media = about(kit, frames, side).media
        patches = math.prod(media[0].grid_thw)

        def look(count: int) -> tuple[float, int]:
            kit.vision.features.clear()
            mx.clear_cache()
            mx.reset_peak_memory()
            held, began = mx.get_active_memory(), time.perf_counter()
            for start in range(0, len(media), count):
                stop = min(start + count, len(media))
                kit.vision.encode(Piece(start, stop, f"{start} to {stop}", (stop - start) * patches, True), media)
            seconds = time.perf_counter() - began
            return len(media) * patches / seconds, int(mx.get_peak_memory() - held)

        # The first one reads the tower's weights.
        kit._thread.call(look, max(counts))
        return {count: kit._thread.call(look, count) for count in counts}


def second_question(model: Path, frames: int, side: int) -> tuple[Asked, Asked]:
    """Two questions about one clip, one after the other, with all that a kit remembers."""
    with ModelKit.load(model, speculate="off") as kit:
        asked = []
        for number in (1, 2):
            prompt = about(kit, frames, side, question=number)
            mx.clear_cache()
            began = time.perf_counter()
            chunk = next(kit.stream(prompt, max_tokens=1, temperature=0.0))
            assert chunk.stats is not None
            seconds, stats = time.perf_counter() - began, chunk.stats
            asked.append(Asked(seconds, stats.prompt_tokens - stats.cached_tokens, stats.frames_encoded))
    first, second = asked
    return first, second
