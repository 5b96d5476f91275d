"""What the vision tower looks at in one call: an image, or some frames of a video."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_qwen35.prompts.images import PreparedImage

# Of the frames that are encoded together; docs/video.md has what other numbers take.
PIECE_PATCHES = 1024


@dataclass(frozen=True)
class Piece:
    """Neighbouring media of a prompt that are encoded in one call.

    Frames look at nothing outside of their own pair, yet the last bit of what the tower makes of them depends on how
    many rows its matrices have. So a piece is known by all that is in it, and is encoded whole or not at all.

    Args:
        start, stop: Indices among `Prompt.media`, half open: an image alone, or pairs of frames of one video.
        content_hash: Equal for equal pixels, grids and kind.
        patches: Of all of them.
        is_video: Whether they are frames.
    """

    start: int
    stop: int
    content_hash: str
    patches: int
    is_video: bool

    def __len__(self) -> int:
        return self.stop - self.start

    def hash_of(self, index: int) -> str:
        """What the embeddings of number `index` among `Prompt.media` depend on."""
        return self.content_hash if not self.is_video else _digest(self.content_hash, str(index - self.start))


def cut(media: Sequence[PreparedImage], videos: Sequence[Sequence[int]]) -> tuple[Piece, ...]:
    """The pieces of a prompt, in order; where a video is cut depends on its own frames only.

    Args:
        media, videos: See `Prompt`.
    """
    runs: list[tuple[list[int], bool]] = []
    frames: set[int] = set()
    for video in videos:
        frames.update(video)
        patches = 0
        for number, index in enumerate(video):
            size = math.prod(media[index].grid_thw)
            # A caller may have put something else between two pairs.
            follows = number and video[number - 1] == index - 1
            if not follows or patches + size > PIECE_PATCHES:
                runs.append(([], True))
                patches = 0
            runs[-1][0].append(index)
            patches += size
    runs += [([index], False) for index in range(len(media)) if index not in frames]
    return tuple(_piece(media, run, is_video) for run, is_video in sorted(runs))


def _piece(media: Sequence[PreparedImage], run: list[int], is_video: bool) -> Piece:
    units = [media[index] for index in run]
    name = _digest("frames", *(unit.content_hash for unit in units)) if is_video else units[0].content_hash
    return Piece(run[0], run[-1] + 1, name, sum(math.prod(unit.grid_thw) for unit in units), is_video)


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
