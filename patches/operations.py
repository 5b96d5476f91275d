"""The arithmetic between a layer's matrix products, for the device that MLX runs on.

Patched layers ask one object for it, and do not know the device.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_lm.models.activations import swiglu
from mlx_lm.models.base import scaled_dot_product_attention

from mlx_qwen35.patches import cpu, quantized_attention


class Operations:
    """What mlx-lm and mlx-vlm compute, by their own functions: where text has to be exact, and while it is trained."""

    # Whether a layer may as well run upstream's whole method.
    upstream = True
    # The same, where a layer's cache is quantised.
    upstream_if_quantized = True
    # Tokens of a prompt that are read at once: long steps keep a GPU busy.
    prefill_step_size = 2048
    # Whether quantised matrices are written out for the many rows of a prompt.
    writes_out = False

    def attention(
        self, queries: mx.array, keys: Any, values: Any, *, scale: float, mask: Any, cache: Any = None
    ) -> mx.array:
        """(B, H, L, D), of queries (B, H, L, D), and keys and values (B, Hk, S, D) or what a quantised cache gives."""
        return scaled_dot_product_attention(queries, keys, values, cache=cache, scale=scale, mask=mask)  # type: ignore[no-any-return]

    def attention_in_steps(
        self, queries: mx.array, keys: Any, values: Any, *, scale: float, mask: Any, cache: Any = None
    ) -> mx.array:
        """The same for the few queries of a step that verifies drafts, each with the arithmetic of a step alone."""
        return self.attention(queries, keys, values, scale=scale, mask=mask, cache=cache)

    def gated(self, x: mx.array, gate: mx.array) -> mx.array:
        """x sigmoid(gate), any one shape."""
        return x * mx.sigmoid(gate)

    def swiglu(self, gate: mx.array, x: mx.array) -> mx.array:
        """silu(gate) x, any one shape."""
        return swiglu(gate, x)  # type: ignore[no-any-return]

    def gated_norm(self, x: mx.array, gate: mx.array, norm: nn.Module) -> mx.array:
        """silu(gate) times the RMS norm of x; `norm` is mlx-lm's Qwen3NextRMSNormGated."""
        return norm(x, gate)  # type: ignore[no-any-return]

    def causal_conv_silu(self, x: mx.array, conv1d: nn.Module, heads: Sequence[tuple[int, int]]) -> list[mx.array]:
        """silu of a depthwise convolution over time.

        Args:
            x: (B, K - 1 + L, C); the first K - 1 are what came before.
            heads: Numbers H of heads and their sizes D, whose channels lie one behind the other and make C.
        Returns:
            For each of `heads` (B, H, L, D).
        """
        return cpu.by_heads([nn.silu(conv1d(x))], heads)

    def conv_silu_of_few(self, x: mx.array, conv1d: nn.Module) -> mx.array:
        """The same for the few tokens of a decode step, (B, L, C)."""
        return nn.silu(conv1d(x))  # type: ignore[no-any-return]

    def gelu_tanh(self, x: mx.array) -> mx.array:
        """The tanh approximation of GELU, any one shape."""
        return nn.gelu_approx(x)  # type: ignore[no-any-return]

    def logsumexp(self, x: mx.array) -> mx.array:
        """Over the last axis, which stays: (..., V) to (..., 1)."""
        return mx.logsumexp(x, axis=-1, keepdims=True)


class GpuOperations(Operations):
    """The same, but for quantised keys and values."""

    upstream_if_quantized = False
    # Whether MLX's backend multiplies with packed numbers that are a part of a larger array, as a cache gives them.
    reads_packed = True

    def attention(
        self, queries: mx.array, keys: Any, values: Any, *, scale: float, mask: Any, cache: Any = None
    ) -> mx.array:
        """Over quantised keys and values, one query needs no others written out; for many, writing them out costs less
        than their scores would, which a fused kernel does not hold.
        """
        if not hasattr(cache, "bits"):
            return self._attend(queries, keys, values, scale=scale, mask=mask)
        if queries.shape[2] == 1 and self.reads_packed:
            return quantized_attention.attention(
                queries, keys, values, scale=scale, mask=mask, group_size=cache.group_size, bits=cache.bits
            )
        keys, values = (quantized_attention.dequantize(array, cache) for array in (keys, values))
        return self._attend(queries, keys, values, scale=scale, mask=mask)

    def attention_in_steps(
        self, queries: mx.array, keys: Any, values: Any, *, scale: float, mask: Any, cache: Any = None
    ) -> mx.array:
        """Over quantised keys and values one after the other; see `_one_by_one`."""
        if not hasattr(cache, "bits"):
            return super().attention_in_steps(queries, keys, values, scale=scale, mask=mask)
        return self._one_by_one(queries, keys, values, scale=scale, mask=mask, cache=cache)

    def _attend(self, queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: Any) -> mx.array:
        return super().attention(queries, keys, values, scale=scale, mask=mask)

    def _one_by_one(
        self, queries: mx.array, keys: Any, values: Any, *, scale: float, mask: Any, cache: Any
    ) -> mx.array:
        """Each query with the keys that it sees: to the bit what single steps compute."""
        L, S = queries.shape[2], (keys[0] if isinstance(keys, tuple) else keys).shape[2]
        found = []
        for number, seen in enumerate(range(S - L + 1, S + 1)):
            own = mask[..., number : number + 1, :seen] if isinstance(mask, mx.array) else None
            query = queries[:, :, number : number + 1]
            parts = [tree_map(lambda array, seen=seen: array[:, :, :seen], part) for part in (keys, values)]
            found.append(self.attention(query, *parts, scale=scale, mask=own, cache=cache))
        return mx.concatenate(found, axis=2)


class CudaOperations(GpuOperations):
    """The same for MLX's CUDA backend.

    Its quantized_matmul asks for arrays without gaps (mlx 0.32, backend/cuda/quantized/qmm/qmm.cu,
    is_last_2_dims_row_contiguous) and raises where a cache has room behind what it stores.
    """

    reads_packed = False


class CpuOperations(GpuOperations):
    """The same for MLX's CPU backend; see `cpu`, where each is tested against upstream's."""

    upstream = False
    # Longer ones are no faster, and take more memory.
    prefill_step_size = 512
    writes_out = True

    def attention(
        self, queries: mx.array, keys: Any, values: Any, *, scale: float, mask: Any, cache: Any = None
    ) -> mx.array:
        """Over quantised keys and values in float32: products with packed numbers are many times slower in bfloat16."""
        if not hasattr(cache, "bits"):
            return self._attend(queries, keys, values, scale=scale, mask=mask)
        parts = [(packed, *(x.astype(mx.float32) for x in more)) for packed, *more in (keys, values)]
        wide = queries.astype(mx.float32)
        return super().attention(wide, *parts, scale=scale, mask=mask, cache=cache).astype(queries.dtype)

    def attention_in_steps(
        self, queries: mx.array, keys: Any, values: Any, *, scale: float, mask: Any, cache: Any = None
    ) -> mx.array:
        """Over quantised keys and values one after the other; else see `cpu.attention_of_few`."""
        if hasattr(cache, "bits"):
            return self._one_by_one(queries, keys, values, scale=scale, mask=mask, cache=cache)
        return cpu.attention_of_few(queries, keys, values, scale=scale, mask=mask)

    def _attend(self, queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: Any) -> mx.array:
        """In blocks of queries, unless there is one query."""
        if queries.shape[2] == 1:
            return cpu.attention_of_few(queries, keys, values, scale=scale, mask=mask)
        return cpu.attention(queries, keys, values, scale=scale, mask=mask)

    def gated(self, x: mx.array, gate: mx.array) -> mx.array:
        """In float32."""
        return cpu.gated(x, gate)

    def swiglu(self, gate: mx.array, x: mx.array) -> mx.array:
        """In float32."""
        return cpu.swiglu(gate, x)

    def gated_norm(self, x: mx.array, gate: mx.array, norm: nn.Module) -> mx.array:
        """In float32."""
        return cpu.swiglu(gate, mx.fast.rms_norm(x, norm.weight, norm.eps))

    def causal_conv_silu(self, x: mx.array, conv1d: nn.Module, heads: Sequence[tuple[int, int]]) -> list[mx.array]:
        """In float32."""
        return cpu.causal_conv_silu(x, conv1d.weight, heads)

    def conv_silu_of_few(self, x: mx.array, conv1d: nn.Module) -> mx.array:
        """In float32."""
        return cpu.conv_silu_of_few(x, conv1d.weight)

    def gelu_tanh(self, x: mx.array) -> mx.array:
        """In float32."""
        return cpu.gelu_tanh(x)

    def logsumexp(self, x: mx.array) -> mx.array:
        """In float32; MLX's own takes 20 ns for each number."""
        return cpu.logsumexp(x)


UPSTREAM = Operations()
_CPU, _CUDA, _GPU = CpuOperations(), CudaOperations(), GpuOperations()


def choose_operations(*, exact: bool = False) -> Operations:
    """The operations that suit the device that MLX runs on now.

    Args:
        exact: Only upstream's own will do.
    """
    if exact:
        return UPSTREAM
    if cpu.on_cpu():
        return _CPU
    return _CUDA if mx.cuda.is_available() else _GPU
