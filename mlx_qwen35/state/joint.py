"""Sequences that each read a chunk in the same forward pass, and stay sequences of their own.

Chunks are padded on the right. Everything between the layers' memories is computed for all rows at once; keys and
values never move, and each row attends to its own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from mlx_qwen35.state.cache import GatedDeltaCache
from mlx_qwen35.state.sequence import SequenceState


class JointAttentionCache:
    """Attention caches of several sequences, for one chunk of each.

    Args:
        rows: One per sequence, each with its own keys and values.
        lengths: Of the rows' chunks; what follows up to the longest is padding.
    """

    def __init__(self, rows: Sequence[Any], lengths: Sequence[int]) -> None:
        self.rows, self.lengths = tuple(rows), tuple(lengths)

    @property
    def offset(self) -> mx.array:
        """RoPE position of each row's next token, (B,)."""
        return mx.array([cache.offset for cache in self.rows])

    def make_mask(self, *args: Any, **kwargs: Any) -> None:
        """None: each row has a mask of its own."""


@contextmanager
def reading_together(states: Sequence[SequenceState], lengths: Sequence[int]) -> Iterator[SequenceState]:
    """The sequences as rows of one state, for one chunk of each; afterwards every one has read its own.

    Args:
        states: None has an image in its chunk.
        lengths: Of the chunks, at least one token each.
    """
    if len(states) == 1:
        yield states[0]
        return
    joint: list[Any] = []
    for caches in zip(*(state.caches for state in states), strict=True):
        if isinstance(caches[0], GatedDeltaCache):
            merged = GatedDeltaCache.merge(caches)
            if min(lengths) < max(lengths):
                merged.prepare(lengths=list(lengths))
            joint.append(merged)
        else:
            joint.append(JointAttentionCache(caches, lengths))
    yield SequenceState(joint)
    for layer, merged in enumerate(joint):
        if isinstance(merged, GatedDeltaCache):
            for row, state in enumerate(states):
                state.caches[layer].cache = merged.extract(row).cache
