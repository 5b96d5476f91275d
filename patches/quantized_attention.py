"""Attention over quantised keys and values."""

from typing import Any

import mlx.core as mx

Quantized = tuple[mx.array, mx.array, mx.array]


def attention(
    queries: mx.array, keys: Quantized, values: Quantized, *, scale: float, mask: Any, group_size: int, bits: int
) -> mx.array:
    """What attention over the dequantised keys and values gives, for few queries: those are never written out.

    All queries that share a head of keys are rows of one product, so that this head is read once.

    Args:
        queries: (B, H, L, D).
        keys, values: Packed numbers, scales and biases, (B, Hk, S, ...) each.
        mask: None, or booleans that broadcast to (B, 1, L, S), False where a query must not look.
    Returns:
        (B, H, L, D) in the dtype of `queries`.
    Source:
        mlx-lm 0.32.2, models/base.py, quantized_scaled_dot_product_attention, which reads a head for each query head.
    """
    B, H, L, D = queries.shape
    Hk, S = keys[0].shape[1:3]
    how: dict[str, Any] = {"group_size": group_size, "bits": bits}
    rows = (queries * scale).reshape(B, Hk, -1, D)
    scores = mx.quantized_matmul(rows, *keys, transpose=True, **how)
    if mask is not None:
        allowed = mx.broadcast_to(mask, (*mask.shape[:-2], L, S))[..., None, :, :]
        scores = scores.reshape(B, Hk, H // Hk, L, S)
        scores = mx.where(allowed, scores, mx.finfo(scores.dtype).min).reshape(B, Hk, -1, S)
    weights = mx.softmax(scores, axis=-1, precise=True)
    return mx.quantized_matmul(weights, *values, transpose=False, **how).reshape(B, H, L, D)


def dequantize(array: Quantized, cache: Any) -> mx.array:
    """(B, Hk, S, D) of what a quantised cache gives."""
    return mx.dequantize(*array, group_size=cache.group_size, bits=cache.bits)
