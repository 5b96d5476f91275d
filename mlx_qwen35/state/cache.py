"""What one sequence remembers: its keys and values, and where it stands.

A cache knows two different numbers: how many tokens it stores, and the RoPE position of
the next one. They differ by the rope delta once an image has been read. mlx-lm's
attention takes its RoPE offset from the cache, so text and all decoding run on mlx-lm's
own code with the right positions, and nothing about a request is kept on the model.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, BatchKVCache, KVCache

from mlx_qwen35.checkpoints.config import LayerType
from mlx_qwen35.errors import CacheError
from mlx_qwen35.state.kv_quantization import KvQuantization, quantized
from mlx_qwen35.state.media import PromptMedia
from mlx_qwen35.state.sequence_cache import SequenceCache


class AttentionCache(SequenceCache):
    """The cache a sequence starts with: a SequenceCache over mlx-lm's KVCache."""

    def __init__(self, media: PromptMedia | None = None, store: KVCache | None = None) -> None:
        super().__init__([KVCache() if store is None else store], media)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Any:
        """Append (1, H, L, D) keys and values; returns all of them."""
        return self._parts[0].update_and_fetch(keys, values)

    def keys_and_values(self) -> Any:
        """All keys and values, each (1, H, size(), D)."""
        return self._parts[0].keys_and_values()

    @property
    def keys(self) -> Any:
        """The key buffer, possibly longer than what is stored; None before the first token."""
        return self._parts[0].keys

    @keys.setter
    def keys(self, value: Any) -> None:
        self._parts[0].keys = value

    @property
    def values(self) -> Any:
        """The value buffer, as `keys`."""
        return self._parts[0].values

    @property
    def stored(self) -> Any:
        """As mlx-lm's KVCache has it."""
        return self._parts[0].state

    @stored.setter
    def stored(self, value: Any) -> None:
        self._parts[0].state = value

    def to_quantized(self, group_size: int = 64, bits: int = 4) -> SequenceCache:
        """The same tokens with keys and values quantised, as mlx-lm's `kv_bits` asks: a `QuantizedAttentionCache`."""
        from mlx_qwen35.state.quantized_cache import QuantizedAttentionCache

        cache = QuantizedAttentionCache(self.media, group_size=group_size, bits=bits)
        if not self.empty():
            cache.update_and_fetch(*self.keys_and_values())
        return cache

    @classmethod
    def merge(cls, caches: Sequence["AttentionCache"]) -> "BatchAttentionCache":
        """Several sequences as the rows of one batch; see `BatchAttentionCache`."""
        return BatchAttentionCache.merge(caches)


class BatchAttentionCache(BatchKVCache):  # type: ignore[misc]
    """Rows of a batch, each with its own rope delta.

    mlx-lm's BatchKVCache already keeps one RoPE offset per row beside the common storage
    index; a row's delta is part of its offset from the moment it joins.
    """

    def __init__(self, left_padding: list[int]) -> None:
        super().__init__(left_padding)
        self.media: list[PromptMedia | None] = [None] * len(left_padding)
        self._shifted = 0

    verifying = False

    def begin_step(self) -> None:
        """The tokens that are read next may have to be forgotten again."""
        self.verifying = True

    def settle(self, length: int, kept: Sequence[int]) -> None:
        """Of the `length` tokens that each row has read since `begin_step` keep its first `kept[row]`."""
        self.verifying = False
        most = max(kept)
        self._forget(length - most)
        if min(kept) == most:
            return
        # Rows end together, so those that keep less are moved towards the end.
        self.prepare(right_padding=[most - tokens for tokens in kept])
        self.finalize()
        self._shifted += most - min(kept)
        if self._shifted >= self.step:
            self._shifted = 0
            self.filter(list(range(len(kept))))

    @classmethod
    def merge(cls, caches: Sequence[SequenceCache]) -> Self:
        """Join sequences whose images are all read.

        Raises:
            CacheError: A row has an image to read: it needs three-axis positions of its own.
        """
        for row, cache in enumerate(caches):
            if cache.media_ahead() is not None:
                raise CacheError(
                    f"row {row}: expected a cache that has read its images, found one at token "
                    f"{cache.size()} of {cache.media.layout.length}; prefill it alone first"  # type: ignore[union-attr]
                )
        if all(cache.empty() for cache in caches):
            return cls([0] * len(caches))
        batch: Self = super().merge([cache._parts[0] for cache in caches])
        batch.offset = batch.offset + mx.array([cache.offset - cache.size() for cache in caches])
        batch.media = [cache.media for cache in caches]
        return batch

    def filter(self, batch_indices: list[int]) -> None:
        """Keep these rows, in this order."""
        super().filter(batch_indices)
        self.media = [self.media[row] for row in batch_indices]

    def extend(self, other: Self) -> None:
        """Append the rows of another batch."""
        super().extend(other)
        self.media = self.media + other.media

    def trim(self, n: int) -> int:
        """Forget the last `n` tokens of every row.

        Raises:
            CacheError: A row would lose a part of an image, or tokens before one, whose positions follow from it.
        """
        lengths = (self._idx - self.left_padding).tolist()
        for row, (media, length) in enumerate(zip(self.media, lengths, strict=True)):
            if media is not None and length - n < media.layout.spans[-1].stop:
                raise CacheError(
                    f"row {row}: expected a cut behind its last image at token {media.layout.spans[-1].stop}, "
                    f"found one at token {length - n}"
                )
        return self._forget(n)

    def _forget(self, n: int) -> int:
        return int(super().trim(n))

    def extract(self, idx: int) -> SequenceCache:
        """One row as a cache of its own."""
        return AttentionCache(self.media[idx], super().extract(idx))


class GatedDeltaCache(ArraysCache):  # type: ignore[misc]
    """The state of a GDN layer: the last inputs of its convolution, and the recurrent state.

    Neither can be rewound: a mark is the arrays themselves, which do not change once they are computed. Drafts that are
    verified are read again up to where they were right.
    """

    cache: list[Any]
    # As an attention cache's.
    verifying = False
    _again: Callable[[Sequence[int]], list[mx.array]] | None = None

    def __init__(self, size: int = 2, left_padding: list[int] | None = None) -> None:
        super().__init__(size, left_padding)

    def size(self) -> int:
        """0: a GDN state does not say how many tokens it has read."""
        return 0

    @classmethod
    def merge(cls, caches: Sequence[Self]) -> Self:
        """Sequences as the rows of one batch, none of which is padded.

        mlx-lm's own pads sequences of which nothing is read by 0 tokens each, and a layer that is given padding reads
        with a mask from then on, which neither decode steps nor steps with drafts do.
        """
        merged: Self = super().merge(caches)
        merged.left_padding = None
        return merged

    def begin_step(self) -> None:
        """The tokens that are read next may have to be forgotten again."""
        self.verifying = True

    def verified(self, state: mx.array, conv_input: mx.array, again: Callable[[Sequence[int]], list[mx.array]]) -> None:
        """A layer has read drafts.

        Args:
            state: The recurrent state behind them.
            conv_input: The convolution's inputs, those before included.
            again: Both states, if each row had read so many tokens only.
        """
        self.cache = [mx.contiguous(conv_input[:, -self.cache[0].shape[1] :]), state]
        self._again = again

    def settle(self, length: int, kept: Sequence[int]) -> None:
        """Of the `length` tokens that each row has read since `begin_step` keep its first `kept[row]`."""
        if min(kept) < length:
            assert self._again is not None, "read outside of a step"
            self.cache = self._again(kept)
        self.verifying, self._again = False, None

    def mark(self) -> tuple[mx.array, ...]:
        """What `roll_back` needs, beside the number of tokens."""
        return tuple(array for array in self.cache if array is not None)

    def roll_back(self, tokens: int, mark: tuple[mx.array, ...]) -> None:
        """Back to where `mark` was taken."""
        self.cache = list(mark) or [None] * len(self.cache)

    def held(self) -> tuple[mx.array, ...]:
        """Nothing beside the marks."""
        return ()

    def restore(self, tokens: int, held: tuple[mx.array, ...], mark: tuple[mx.array, ...]) -> None:
        """Become what was held, as it was at `mark`."""
        self.roll_back(tokens, mark)

    def check(self, tokens: int, held: Sequence[mx.array], mark: Sequence[mx.array]) -> str | None:
        """What is wrong with arrays that `restore` is to take; None if nothing is."""
        return None if not held and len(mark) == len(self.cache) else f"it has {len(mark)} arrays"

    def extract(self, idx: int) -> "GatedDeltaCache":
        """One row as a cache of its own, which does not keep the others alive."""
        row = GatedDeltaCache(len(self.cache))
        row.cache = [None if array is None else mx.contiguous(array[idx : idx + 1]) for array in self.cache]
        return row


def attach_media(caches: Sequence[Any], media: PromptMedia | None) -> None:
    """Give a prompt's images to the fresh or restored caches that will read them.

    Raises:
        CacheError: No cache in the list can carry media, as on a pipeline rank without an
            attention layer.
    """
    carriers = [cache for cache in caches if isinstance(cache, SequenceCache)]
    if media is not None and not carriers:
        raise CacheError("media: expected an attention layer among these caches, found none")
    for cache in carriers:
        cache.media = media


def media_ahead(cache: Any, tokens: int) -> PromptMedia | None:
    """The media of a layer's cache if its next `tokens` tokens hold an image; None too for caches that carry none."""
    return cache.media_ahead(tokens) if isinstance(cache, SequenceCache) else None


def make_caches(layer_types: Sequence[LayerType], of_module: int = 0, kv: KvQuantization | None = None) -> list[Any]:
    """One empty cache per layer of the decoder, then one per layer of the MTP module; keys and values as `kv` says."""
    caches: list[Any] = [GatedDeltaCache() if kind == "linear_attention" else AttentionCache() for kind in layer_types]
    return quantized(caches + [AttentionCache() for _ in range(of_module)], kv)
