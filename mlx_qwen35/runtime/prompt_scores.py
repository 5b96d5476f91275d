"""Log probabilities of a prompt's own tokens, found while it is read."""

from collections.abc import Sequence

import mlx.core as mx

from mlx_qwen35.runtime.choosing import Choice, Choices, normalised
from mlx_qwen35.runtime.decoder import Decoder

# Places whose logits are in memory at the same time: a large vocabulary takes a megabyte for each.
AT_ONCE = 64


def score(decoder: Decoder, hidden: mx.array, following: Sequence[int], most: int) -> list[Choice]:
    """What the decoder makes of the tokens that follow those of a chunk; waits for it.

    Args:
        hidden: Final hidden states of the chunk, (L, hidden_size).
        following: L token ids, each the one behind.
        most: So many of the likeliest tokens in each place.
    """
    found: list[Choice] = []
    for start in range(0, len(following), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        scores = normalised(decoder.project(hidden[None, part]), decoder.operations)
        found += Choices.of(mx.array([following[part]]), scores, most).numbers()[0]
    return found
