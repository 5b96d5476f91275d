"""Sequences that were read: what they were, and the state that they left behind.

GDN states cannot be rewound: what they were after token n is known only if somebody kept
them. A line keeps them at the places where later prompts part from it. To go back to such
a place is to trim the attention caches to it and to take the states that were kept.

MLX arrays do not change once computed: writing makes a new array unless nobody else holds
the old one. So a snapshot is a handful of references, and whatever continues from one
leaves it as it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import ArraysCache, KVCache
from numpy.typing import NDArray

from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.state.cache import AttentionCache


@dataclass(frozen=True)
class ImageRun:
    """The placeholders of one image, half open, and what the image was."""

    start: int
    stop: int
    content_hash: str


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The GDN states after a number of tokens.

    Args:
        tokens: How many.
        states: For each layer its convolution and recurrent state; None for an attention layer.
    """

    tokens: int
    states: tuple[tuple[mx.array, ...] | None, ...] = field(repr=False)

    @classmethod
    def take(cls, caches: Sequence[Any]) -> "Snapshot":
        """The states as they are, evaluated."""
        states = tuple(tuple(cache.cache) if isinstance(cache, ArraysCache) else None for cache in caches)
        snapshot = cls(tokens_in(caches), states)
        mx.eval(snapshot.arrays())
        return snapshot

    def arrays(self) -> list[mx.array]:
        """Everything it holds."""
        return [array for state in self.states if state is not None for array in state]


@dataclass(eq=False)
class LineData:
    """The arrays of a line.

    Args:
        snapshots: In order of their tokens, at least one.
        attention: For each layer its keys and values, each (1, H, at least S, D); None for a GDN layer.
    """

    snapshots: list[Snapshot]
    attention: list[tuple[mx.array, mx.array] | None]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(array.nbytes for array in self.arrays())

    def arrays(self) -> list[mx.array]:
        """Everything it holds."""
        kept = [array for snapshot in self.snapshots for array in snapshot.arrays()]
        return kept + [array for pair in self.attention if pair is not None for array in pair]

    def restore(self, tokens: int) -> list[Any]:
        """Caches that hold the line's first tokens and may go their own way.

        Args:
            tokens: Of one of the snapshots.
        """
        snapshot = next(snapshot for snapshot in self.snapshots if snapshot.tokens == tokens)
        caches: list[Any] = []
        for state, pair in zip(snapshot.states, self.attention, strict=True):
            if pair is None:
                assert state is not None
                cache = ArraysCache(size=len(state))
                cache.cache = list(state)
            else:
                store = KVCache()
                # Slices are arrays of their own, and no longer than what they are for: the first write copies them.
                store.keys, store.values, store.offset = pair[0][..., :tokens, :], pair[1][..., :tokens, :], tokens
                cache = AttentionCache(store=store)
            caches.append(cache)
        return caches


@dataclass(eq=False)
class Line:
    """One sequence that was read, up to its last snapshot.

    Args:
        input_ids: Shape (S,), int32.
        images: The images among them.
        turn: From here on the template writes the sequence anew once the next turn has begun.
        places: The tokens of its snapshots.
        data: Its arrays; None while they are on disk only.
        file, file_bytes: Where they are on disk, if they are, and how large.
    """

    input_ids: NDArray[np.int32]
    images: tuple[ImageRun, ...]
    turn: int
    places: list[int]
    data: LineData | None = field(repr=False)
    file: Path | None = None
    file_bytes: int = 0

    def __post_init__(self) -> None:
        self._keys = _keys(self.input_ids, self.images)

    def __len__(self) -> int:
        return len(self.input_ids)

    def cut(self, data: LineData, tokens: int) -> "Line":
        """Its beginning as a line of its own.

        Args:
            data: The line's arrays.
            tokens: Of one of the snapshots.
        """
        pairs = [None if p is None else (p[0][..., :tokens, :], p[1][..., :tokens, :]) for p in data.attention]
        kept = [snapshot for snapshot in data.snapshots if snapshot.tokens <= tokens]
        return Line(
            input_ids=self.input_ids[:tokens],
            images=tuple(image for image in self.images if image.stop <= tokens),
            turn=min(self.turn, tokens),
            places=[snapshot.tokens for snapshot in kept],
            data=LineData(kept, pairs),
        )

    def thin(self, newest: int) -> bool:
        """Let old snapshots go, but not the first, not the one at `turn`, and not the newest; whether any went."""
        if self.data is None or self.file is not None:
            return False
        snapshots = self.data.snapshots
        kept = [s for s in snapshots[:-newest] if s.tokens in (self.places[0], self.turn)] + snapshots[-newest:]
        self.data, went = LineData(kept, self.data.attention), len(kept) < len(snapshots)
        self.places = [snapshot.tokens for snapshot in kept]
        return went

    def shared(self, input_ids: NDArray[np.int32], images: Sequence[ImageRun]) -> int:
        """How many tokens it begins with in common with another sequence, the images' contents included."""
        length = min(len(self.input_ids), len(input_ids))
        different = np.flatnonzero(self._keys[:length] != _keys(input_ids, images)[:length])
        shared = int(different[0]) if len(different) else length
        for one, other in zip(self.images, images, strict=False):
            if one.content_hash != other.content_hash:
                return min(shared, one.start)
        return shared


def images_of(prompt: Prompt) -> tuple[ImageRun, ...]:
    """Where a prompt's images stand."""
    if prompt.layout is None:
        return ()
    return tuple(
        ImageRun(span.start, span.stop, image.content_hash)
        for span, image in zip(prompt.layout.spans, prompt.images, strict=True)
    )


def tokens_in(caches: Sequence[Any]) -> int:
    """Tokens that a sequence's caches have read; 0 if no attention cache counts them."""
    return next((cache.size() for cache in caches if isinstance(cache, AttentionCache)), 0)


def _keys(input_ids: NDArray[np.int32], images: Sequence[ImageRun]) -> NDArray[np.int64]:
    """Token ids, with a negative number in place of an image's placeholders that depends on its content."""
    keys = input_ids.astype(np.int64)
    for image in images:
        keys[image.start : image.stop] = -1 - int(image.content_hash[:15], 16)
    return keys
