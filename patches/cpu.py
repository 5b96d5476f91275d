"""Operations of a layer for MLX's CPU backend, which has no fused kernels.

There a depthwise convolution runs channel by channel; an exponential or a power calls a function for every element; and
attention holds the scores of all queries and keys. Here exponentials are polynomials and squares, which the compiler of
MLX's kernels turns into vector instructions. docs/performance.md has what these functions gain. A GPU has kernels that
are better than any of this.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchLinear

# Queries whose scores are held at once, fewer where there are more scores than that, but never fewer than half.
QUERIES = 64
_SCORES = 2**19
# Tokens whose convolution is computed at once: its inputs and weights fit the processor's cache.
_CONVOLVED = 16
# Coefficients of exp(-x / 2^4), the Taylor polynomial, so that what is computed near 0 is nearly exact.
_NEGATED = [(-1 / 16) ** power / math.factorial(power) for power in range(7)]
# Keys from which on MLX's softmax, which takes 30 ns for each score, takes longer than several operations.
_LONG = 512
# Rows of a matrix that are turned at once: both sides of the turn fit the processor's cache.
_TURNED = 128
# Of exp(x / 2^4) between _LOWEST and 0, interpolated at Chebyshev's points (numpy's Chebyshev.interpolate).
_LOWEST = -40.0
_OF_NEGATIVE = [
    0.9999999999951785, 0.06249999996526774, 0.0019531249584637301, 4.069008465211983e-05, 6.357781238840612e-07,
    7.94659961359338e-09, 8.27210160624e-11, 7.352775284195463e-13, 5.614452210367384e-15, 3.561270769022093e-17,
    1.6689268300673636e-19, 4.2042684148905615e-22,
]  # fmt: skip


def on_cpu() -> bool:
    """Whether MLX runs on the CPU."""
    return mx.default_device() == mx.Device(mx.cpu)


def turn_weights(model: nn.Module) -> None:
    """Lay out the float32 matrices (..., N, K) of linear layers as products with them read them: column by column.

    They keep their shapes and products their numbers, but a BLAS library need not turn a matrix round for each product.
    Layers with a bias stay: added up the other way, what begins with the bias is rounded otherwise. Nothing is computed
    yet.
    """
    for _, layer in model.named_modules():  # type: ignore[no-untyped-call]
        turns = isinstance(layer, nn.Linear | nn.Embedding | SwitchLinear) and "bias" not in layer
        if turns and layer.weight.dtype == mx.float32:
            *experts, rows, columns = layer.weight.shape
            tile = math.gcd(rows, _TURNED)
            tiles = layer.weight.reshape(*experts, -1, tile, columns).swapaxes(-1, -2)
            turned = mx.contiguous(mx.contiguous(tiles).swapaxes(-2, -3))
            layer.weight = turned.reshape(*experts, columns, rows).swapaxes(-1, -2)


def _polynomial(x: mx.array, coefficients: Sequence[float]) -> mx.array:
    """Lowest coefficient first, by Estrin's scheme: MLX's compiler puts eleven operations behind each other into one
    kernel, and each further kernel holds arrays of its own.
    """
    parts: list[Any] = list(coefficients)
    while len(parts) > 1:
        pairs = [low + high * x for low, high in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[len(parts) // 2 * 2 :]
        x = x * x
    return parts[0]  # type: ignore[no-any-return]


def _squared(x: mx.array, times: int) -> mx.array:
    for _ in range(times):
        x = x * x
    return x


def _exp_negated(x: mx.array) -> mx.array:
    """exp(-x) for what is added to 1: x / (1 + exp(-x)) is off by 1.3e-6 at most, float32's own rounding included."""
    return _squared(_polynomial(mx.minimum(x, 30.0), _NEGATED), 4)


@partial(mx.compile, shapeless=True)
def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """silu(gate) x in float32, in the dtype of `x`; any one shape.

    Source:
        mlx-lm 0.32.2, models/activations.py, swiglu and precise_swiglu.
    """
    wide = gate.astype(mx.float32)
    return (wide / (1 + _exp_negated(wide)) * x.astype(mx.float32)).astype(x.dtype)


@partial(mx.compile, shapeless=True)
def gated(x: mx.array, gate: mx.array) -> mx.array:
    """x sigmoid(gate), computed in float32, in the dtype of `x`; any one shape."""
    return (x.astype(mx.float32) / (1 + _exp_negated(gate.astype(mx.float32)))).astype(x.dtype)


@partial(mx.compile, shapeless=True)
def gelu_tanh(x: mx.array) -> mx.array:
    """The tanh approximation of GELU, computed in float32, in the dtype of `x`: x (1 + tanh u) / 2 is x sigmoid(2 u).

    Source:
        MLX 0.32, nn.gelu_approx.
    """
    wide = x.astype(mx.float32)
    u = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide * wide * wide)
    return (wide / (1 + _exp_negated(2 * u))).astype(x.dtype)


@partial(mx.compile, shapeless=True)
def _weighted_silu(taps: list[mx.array], weights: list[mx.array]) -> mx.array:
    total = sum(tap.astype(mx.float32) * weight for tap, weight in zip(taps, weights, strict=True))
    assert isinstance(total, mx.array)
    return (total / (1 + _exp_negated(total))).astype(taps[0].dtype)


def by_heads(blocks: Sequence[mx.array], heads: Sequence[tuple[int, int]]) -> list[mx.array]:
    """Pieces (B, some of L, C) to (B, H, L, D) for each of `heads`, (H, D), whose channels lie one behind the other."""
    found, start = [], 0
    for count, size in heads:
        stop = start + count * size
        parts = [block[..., start:stop].reshape(*block.shape[:2], count, size).swapaxes(1, 2) for block in blocks]
        found.append(mx.concatenate(parts, axis=2) if len(parts) > 1 else parts[0])
        start = stop
    return found


def conv_silu_of_few(x: mx.array, weight: mx.array) -> mx.array:
    """A GDN layer's depthwise convolution over time, and its activation, of the few tokens of a decode step.

    Args:
        x: (B, K - 1 + L, C); the first K - 1 are what came before.
        weight: (C, K, 1).
    Returns:
        (B, L, C), in the dtype of `x`; computed in float32.
    Source:
        As `causal_conv_silu`.
    """
    K = weight.shape[1]
    L = x.shape[1] - K + 1
    return _weighted_silu([x[:, at : at + L] for at in range(K)], list(mx.split(weight.squeeze(-1).T, K)))


def causal_conv_silu(x: mx.array, weight: mx.array, heads: Sequence[tuple[int, int]]) -> list[mx.array]:
    """A GDN layer's depthwise convolution over time, and its activation, computed in float32.

    What is put together of blocks lies head by head, as the delta rule reads it, so that nothing is moved twice.

    Args:
        x: (B, K - 1 + L, C); the first K - 1 are what came before.
        weight: (C, K, 1).
        heads: See `by_heads`.
    Source:
        mlx-lm 0.32.2, models/qwen3_5.py, GatedDeltaNet.__call__: nn.silu(self.conv1d(x)).
    """
    C, K, _ = weight.shape
    L = x.shape[1] - K + 1
    block = min(L, _CONVOLVED)
    # Written out for each token of a block, because a kernel over arrays of one shape is vectorised.
    weights = [mx.contiguous(mx.broadcast_to(weight[:, at, 0], (1, block, C))) for at in range(K)]
    blocks = []
    for start in range(0, L, block):
        stop = min(start + block, L)
        taps = [x[:, start + at : stop + at] for at in range(K)]
        blocks.append(_weighted_silu(taps, [tap_weights[:, : stop - start] for tap_weights in weights]))
    return by_heads(blocks, heads)


@partial(mx.compile, shapeless=True)
def _sixteenth_power(x: mx.array) -> mx.array:
    return _squared(x, 4)


@partial(mx.compile, shapeless=True)
def _exp_of_sixteenth(x: mx.array, most: mx.array) -> mx.array:
    return _polynomial(mx.maximum(x - most, _LOWEST), _OF_NEGATIVE)


def exp_of_difference(x: mx.array, most: mx.array) -> mx.array:
    """exp(x - most), which is at most 1, within 1e-6; 4e-18 where it would be less."""
    return _sixteenth_power(_exp_of_sixteenth(x, most))


def logsumexp(x: mx.array) -> mx.array:
    """`mx.logsumexp` over the last axis, which it keeps, within 1e-6, in float32."""
    most = mx.take_along_axis(x, mx.argmax(x, axis=-1, keepdims=True), axis=-1)
    return most + mx.log(exp_of_difference(x, most).sum(axis=-1, keepdims=True))


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
    queries = (queries * scale).reshape(B, Hk, H // Hk, L, D)
    if isinstance(mask, mx.array):
        mask = mx.expand_dims(mx.broadcast_to(mask, (*mask.shape[:-2], L, S)), -3)
    blocks = []
    count = max(QUERIES // 2, min(QUERIES, _SCORES // (B * H * S)))
    for start in range(0, L, count):
        stop = min(start + count, L)
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
        weights = exp_of_difference(scores, scores.max(axis=-1, keepdims=True))
        total = weights.sum(axis=-1, keepdims=True)
        out = weights.reshape(B, Hk, -1, seen) @ values[:, :, :seen]
        blocks.append(out.reshape(B, Hk, H // Hk, stop - start, D) / total)
    return mx.concatenate(blocks, axis=3).reshape(B, H, L, D).astype(dtype)


def attention_of_few(queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: Any) -> mx.array:
    """The same for one query or the few of a step that verifies drafts: one product each, because an operation costs
    more than its arithmetic.

    Args:
        queries, keys, values: As `attention`; half precision stays that.
        mask: Booleans as `attention`; None or "causal" for all keys up to the query's own place.
    Returns:
        (B, H, L, D).
    """
    B, H, L, _ = queries.shape
    Hk, S = keys.shape[1:3]
    groups = H // Hk
    scores = (queries * scale).reshape(B, Hk, groups * L, -1) @ keys.swapaxes(-1, -2)
    if L > 1 and not isinstance(mask, mx.array):
        mask = mx.arange(S - L, S)[:, None] >= mx.arange(S)
    if isinstance(mask, mx.array):
        # Broadcast to (B, Hk, groups, L, S).
        allowed = mx.expand_dims(mx.broadcast_to(mask, (*mask.shape[:-2], L, S)), -3)
        lowest = mx.finfo(scores.dtype).min
        scores = mx.where(allowed, scores.reshape(B, Hk, groups, L, S), lowest).reshape(scores.shape)
    if S < _LONG or scores.dtype != mx.float32:
        out = mx.softmax(scores, axis=-1, precise=True) @ values
    else:
        weights = exp_of_difference(scores, scores.max(axis=-1, keepdims=True))
        out = (weights @ values) / weights.sum(axis=-1, keepdims=True)
    return out.reshape(B, H, L, -1)
