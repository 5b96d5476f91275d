"""Caches of attention layers whose keys and values are quantised as soon as they are stored.

A quantised array is three: packed numbers, scales and biases, each with one row per token. So three of mlx-lm's
ordinary caches hold it, and what can be done to their tokens (append, cut, pad, move, join) is done to all three alike.
"""

from collections.abc import Sequence
from typing import Any, Self

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, KVCache

from mlx_qwen35.state.cache import BatchAttentionCache
from mlx_qwen35.state.media import PromptMedia
from mlx_qwen35.state.sequence_cache import SequenceCache

_PARTS = 3
# Packed numbers, scales and biases: (B, H, S, D * bits / 32) and twice (B, H, S, D / group_size).
Quantized = tuple[mx.array, mx.array, mx.array]


class QuantizedAttentionCache(SequenceCache):
    """What an AttentionCache is, with keys and values quantised.

    mlx-lm's attention recognises a quantised cache by the names `bits` and `group_size`.

    Args:
        group_size: Elements that share a scale.
        bits: Bits per element.
        parts: Of a sequence that was read; None for a new one.
    """

    def __init__(
        self,
        media: PromptMedia | None = None,
        *,
        group_size: int = 64,
        bits: int = 8,
        parts: Sequence[KVCache] | None = None,
    ) -> None:
        super().__init__([KVCache() for _ in range(_PARTS)] if parts is None else parts, media)
        self.group_size, self.bits = group_size, bits

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Quantized, Quantized]:
        """Quantise and append (1, H, L, D) keys and values; returns all of them."""
        for part, pair in zip(self._parts, _quantize(keys, values, self), strict=True):
            part.update_and_fetch(*pair)
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[Quantized, Quantized]:
        """All keys and values."""
        keys, values = zip(*(part.keys_and_values() for part in self._parts), strict=True)
        return keys, values

    @property
    def stored(self) -> Any:
        """The parts, and how they are quantised."""
        return [part.state for part in self._parts], self.group_size, self.bits

    @stored.setter
    def stored(self, value: Any) -> None:
        states, self.group_size, self.bits = value
        for part, state in zip(self._parts, states, strict=True):
            part.state = state

    @classmethod
    def merge(cls, caches: Sequence["QuantizedAttentionCache"]) -> "BatchQuantizedAttentionCache":
        """Several sequences as the rows of one batch."""
        return BatchQuantizedAttentionCache.merge(caches)


class BatchQuantizedAttentionCache(BatchAttentionCache):
    """What a BatchAttentionCache is, with keys and values quantised: it holds the packed numbers itself."""

    def __init__(self, left_padding: list[int], *, group_size: int = 64, bits: int = 8) -> None:
        super().__init__(left_padding)
        self.group_size, self.bits = group_size, bits
        self._others = [BatchKVCache(left_padding) for _ in range(_PARTS - 1)]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Quantized, Quantized]:
        """Quantise and append (B, H, L, D) keys and values; returns all of them."""
        packed, *more = _quantize(keys, values, self)
        for part, pair in zip(self._others, more, strict=True):
            part.update_and_fetch(*pair)
        return super().update_and_fetch(*packed)  # type: ignore[no-any-return]

    def keys_and_values(self) -> tuple[Quantized, Quantized]:
        """All keys and values."""
        others = [part.keys_and_values() for part in self._others]
        keys, values = zip(super().keys_and_values(), *others, strict=True)
        return keys, values

    @classmethod
    def merge(cls, caches: Sequence[SequenceCache]) -> Self:
        """Join sequences whose images are all read, all quantised alike; see `BatchAttentionCache.merge`."""
        batch = super().merge(caches)
        batch.group_size, batch.bits = caches[0].group_size, caches[0].bits  # type: ignore[attr-defined]
        batch._others = [BatchKVCache.merge([cache._parts[number] for cache in caches]) for number in range(1, _PARTS)]
        return batch

    def prepare(self, **padding: Any) -> None:
        """As mlx-lm's BatchKVCache."""
        for part in self._others:
            part.prepare(**padding)
        super().prepare(**padding)

    def finalize(self) -> None:
        """As mlx-lm's BatchKVCache."""
        for part in self._others:
            part.finalize()
        super().finalize()

    def filter(self, batch_indices: list[int]) -> None:
        """Keep these rows, in this order."""
        for part in self._others:
            part.filter(batch_indices)
        super().filter(batch_indices)

    def extend(self, other: Self) -> None:
        """Append the rows of another batch."""
        for part, more in zip(self._others, other._others, strict=True):
            part.extend(more)
        super().extend(other)

    def extract(self, idx: int) -> QuantizedAttentionCache:
        """One row as a cache of its own."""
        parts = [BatchKVCache.extract(part, idx) for part in (self, *self._others)]
        return QuantizedAttentionCache(self.media[idx], group_size=self.group_size, bits=self.bits, parts=parts)

    def _forget(self, n: int) -> int:
        for part in self._others:
            part.trim(n)
        return super()._forget(n)

    @property
    def state(self) -> Any:
        """What all parts hold."""
        return [BatchKVCache.state.fget(self), *(part.state for part in self._others)]

    @property
    def nbytes(self) -> int:
        """Bytes held by keys and values, spare room included."""
        return int(super().nbytes + sum(part.nbytes for part in self._others))


def _quantize(
    keys: mx.array, values: mx.array, cache: QuantizedAttentionCache | BatchQuantizedAttentionCache
) -> list[tuple[mx.array, mx.array]]:
    """Of each part what it stores of keys and of values."""
    how: dict[str, Any] = {"group_size": cache.group_size, "bits": cache.bits}
    return list(zip(mx.quantize(keys, **how), mx.quantize(values, **how), strict=True))
