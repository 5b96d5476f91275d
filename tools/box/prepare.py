"""How large the model's pictures and clips are: what the runtime's image processor brings them to."""

from functools import cache

from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

PATCH, MERGE = 16, 2
FACTOR = PATCH * MERGE
# A picture takes 64 to 100 tokens, or a few more or less where the sides do not divide; a clip as many over all of
# its frames.
PIXELS = {"shortest_edge": 256 * 256, "longest_edge": 320 * 320}
CLIP_PIXELS = {"shortest_edge": 2 * 256 * 256, "longest_edge": 2 * 320 * 320}
# More than any picture has.
MOST_PATCHES = 480


@cache
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
