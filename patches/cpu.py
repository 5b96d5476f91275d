"""Operations of a layer for MLX's CPU backend, which has no fused kernels.

There a depthwise convolution runs channel by channel; an exponential calls a function for every multiplication
with addition, because the wheel is built for processors without that instruction, and a power is faster; and
attention holds the scores of all queries and keys. docs/performance.md has what these functions gain. A GPU has
kernels that are better than any of this.
"""

import math
from functools import partial
from typing import Any

import mlx.core as mx

# Queries whose scores are held at once.
QUERIES = 64
_LOG2_E = 1 / math.log(2)


def on_cpu() -> bool:
    """Whether MLX runs on the CPU."""
    return mx.default_device() == mx.Device(mx.cpu)


def _exp(x: mx.array) -> mx.array:
    return mx.power(2.0, x * _LOG2_E)


@partial(mx.compile, shapeless=True)
def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """silu(gate) x in float32, in the dtype of `x`; any one shape.

    Source:
        mlx-lm 0.32.2, models/activations.py, swiglu and precise_swiglu.
    """
    wide = gate.astype(mx.float32)
    return (wide / (1 + _exp(-wide)) * x.astype(mx.float32)).astype(x.dtype)


@partial(mx.compile, shapeless=True)
def gated(x: mx.array, gate: mx.array) -> mx.array:
    """x sigmoid(gate), computed in float32, in the dtype of `x`; any one shape."""
    return (x.astype(mx.float32) / (1 + _exp(-gate.astype(mx.float32)))).astype(x.dtype)


@partial(mx.compile, shapeless=True)
def gelu_tanh(x: mx.array) -> mx.array:
    """The tanh approximation of GELU, computed in float32, in the dtype of `x`: x (1 + tanh u) / 2 is x sigmoid(2 u).

    Source:
        MLX 0.32, nn.gelu_approx.
    """
    wide = x.astype(mx.float32)
    u = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide * wide * wide)
    return (wide / (1 + _exp(-2 * u))).astype(x.dtype)


@partial(mx.compile, shapeless=True)
def _weighted_silu(taps: list[mx.array], weights: list[mx.array]) -> mx.array:
    total = sum(tap.astype(mx.float32) * weight for tap, weight in zip(taps, weights, strict=True))
    assert isinstance(total, mx.array)
    return (total / (1 + _exp(-total))).astype(taps[0].dtype)


def causal_conv_silu(x: mx.array, weight: mx.array) -> mx.array:
    """A GDN layer's depthwise convolution over time, and its activation.

    Args:
        x: (B, K - 1 + L, C); the first K - 1 are what came before.
        weight: (C, K, 1).
    Returns:
        (B, L, C), computed in float32.
    Source:
        mlx-lm 0.32.2, models/qwen3_5.py, GatedDeltaNet.__call__: nn.silu(self.conv1d(x)).
    """
    K = weight.shape[1]
    L = x.shape[1] - K + 1
    return _weighted_silu([x[:, at : at + L] for at in range(K)], [weight[:, at, 0] for at in range(K)])


@partial(mx.compile, shapeless=True)
def _exp2_shifted(x: mx.array, most: mx.array) -> mx.array:
    return mx.power(2.0, x - most)


def attention(queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: Any) -> mx.array:
    """What `mx.fast.scaled_dot_product_attention` computes, some queries at a time, so that few scores are held.

    Args:
        queries: (B, H, L, D).
        keys, values: (B, Hk, S, D), S at least L, H a multiple of Hk; the queries are the last L positions.
        mask: None, "causal", or booleans that broadcast to (B, 1, L, S), False where a query must not look.
    Returns:
        (B, H, L, D) in the dtype of `queries`; all arithmetic is float32.
    """
    B, H, L, D = queries.shape
    Hk, S = keys.shape[1:3]
    dtype = queries.dtype
    queries, keys, values = (x.astype(mx.float32) for x in (queries, keys, values))
    queries = (queries * (scale * _LOG2_E)).reshape(B, Hk, H // Hk, L, D)
    if isinstance(mask, mx.array):
        mask = mx.expand_dims(mx.broadcast_to(mask, (*mask.shape[:-2], L, S)), -3)
    blocks = []
    for start in range(0, L, QUERIES):
        stop = min(start + QUERIES, L)
        # Keys after the last query of the block cannot be seen by any of it.
        seen = S - L + stop if isinstance(mask, str) else S
        block = queries[:, :, :, start:stop].reshape(B, Hk, -1, D)
        scores = (block @ keys[:, :, :seen].swapaxes(-1, -2)).reshape(B, Hk, H // Hk, stop - start, seen)
        allowed = None
        if isinstance(mask, str):
            allowed = mx.arange(S - L + start, S - L + stop)[:, None] >= mx.arange(seen)
        elif mask is not None:
            allowed = mask[..., start:stop, :]
        if allowed is not None:
            # Not infinity: a query that may look nowhere, as in padding, would become NaN, and spread.
            scores = mx.where(allowed, scores, mx.finfo(mx.float32).min)
        weights = _exp2_shifted(scores, scores.max(axis=-1, keepdims=True))
        total = weights.sum(axis=-1, keepdims=True)
        out = weights.reshape(B, Hk, -1, seen) @ values[:, :, :seen]
        blocks.append(out.reshape(B, Hk, H // Hk, stop - start, D) / total)
    return mx.concatenate(blocks, axis=3).reshape(B, H, L, D).astype(dtype)


def attention_in_turn(queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: Any) -> mx.array:
    """The same for one query or a few, each with the keys that it sees, to the bit as if it had come alone.

    Few operations, because each costs more than its arithmetic.

    Args:
        queries, keys, values: As `attention`.
        mask: As `attention`; what comes after a query is left out anyhow.
    Returns:
        (B, H, L, D).
    """
    B, H, L, _ = queries.shape
    Hk, S = keys.shape[1:3]
    queries = (queries * scale).reshape(B, Hk, H // Hk, L, -1)
    if L > 1:
        queries = queries.swapaxes(2, 3).reshape(B, Hk, H // Hk * L, -1)
    parts = mx.split(queries, L, axis=2) if L > 1 else [queries.squeeze(3)]
    turned = keys.swapaxes(-1, -2)
    found = []
    for number, query in enumerate(parts):
        seen = S - L + 1 + number
        scores = query @ (turned if seen == S else turned[..., :seen])
        if isinstance(mask, mx.array):
            scores = mx.where(mask[..., number : number + 1, :seen], scores, mx.finfo(scores.dtype).min)
        weights = mx.softmax(scores, axis=-1, precise=True)
        found.append(weights @ (values if seen == S else values[:, :, :seen]))
    if L == 1:
        return found[0].reshape(B, H, 1, -1)
    return mx.concatenate(found, axis=2).reshape(B, Hk, L, H // Hk, -1).swapaxes(2, 3).reshape(B, H, L, -1)
