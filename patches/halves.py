"""A chunk of a prompt read as two halves, each on a CPU stream of its own.

MLX runs the operations of one CPU stream one after the other, and all but matrix products on one core. A layer of
the second half needs nothing but what the same layer has read of the first, so the halves run side by side, one layer
apart.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import mlx.core as mx
from mlx_lm.models.base import create_attention_mask, create_ssm_mask

from mlx_qwen35.state.joint import JointAttentionCache

# Tokens that are worth the waiting of streams for each other.
SHORTEST = 128
# Where a chunk is cut: at whole chunks of a GDN layer and whole blocks of queries.
_MULTIPLE = 64


@cache
def _second_stream() -> Any:
    """Each thread has its own."""
    return mx.new_thread_local_stream(mx.cpu)


def can_be_halved(layers: Sequence[Any], hidden: mx.array, caches: Sequence[Any] | None) -> bool:
    """Whether a chunk is one long row without padding, over keys and values that are stored as they are.

    Args:
        layers: Decoder layers.
        hidden: (B, L, hidden_size).
        caches: One per layer, at least.
    """
    if caches is None or len(hidden) > 1 or hidden.shape[1] < SHORTEST:
        return False
    return not any(
        isinstance(layer_cache, JointAttentionCache)
        or hasattr(layer_cache, "bits")
        or isinstance(_mask(layer, hidden, layer_cache), mx.array)
        for layer, layer_cache in zip(layers, caches, strict=False)
    )


def read_in_halves(layers: Sequence[Any], hidden: mx.array, caches: Sequence[Any]) -> mx.array:
    """What the layers make of a chunk that `can_be_halved`: (1, L, hidden_size) to the same.

    Args:
        layers: Decoder layers.
        caches: One per layer, at least; updated as if the halves were chunks of a prompt.
    """
    cut = hidden.shape[1] // 2 // _MULTIPLE * _MULTIPLE
    halves = [(mx.default_stream(mx.cpu), hidden[:, :cut]), (_second_stream(), hidden[:, cut:])]
    for layer, layer_cache in zip(layers, caches, strict=False):
        for number, (stream, half) in enumerate(halves):
            with mx.stream(stream):
                halves[number] = stream, layer(half, mask=_mask(layer, half, layer_cache), cache=layer_cache)
    return mx.concatenate([half for _, half in halves], axis=1)


def _mask(layer: Any, hidden: mx.array, layer_cache: Any) -> Any:
    return (create_ssm_mask if layer.is_linear else create_attention_mask)(hidden, layer_cache)
