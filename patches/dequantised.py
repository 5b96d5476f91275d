"""Quantised matrices written out in float32 for the many rows of a prompt, on MLX's CPU backend.

There a product with packed numbers takes as long again for every row; unpacking a matrix and multiplying by the BLAS
library costs no more than five rows do (docs/performance.md).
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

# Tokens from which on a matrix is written out; steps that write tokens, or verify drafts, have fewer.
FEWEST = 32


class DequantisedLinear(nn.QuantizedLinear):
    """MLX's layer, which reads many tokens by a product in float32."""

    def __call__(self, x: mx.array) -> mx.array:
        """(..., L, input dimensions) to (..., L, output dimensions), in the dtype of `x`."""
        if x.shape[-2] < FEWEST or self.training:
            return super().__call__(x)  # type: ignore[no-any-return, no-untyped-call]
        assert self.biases is not None  # which only other formats lack
        scales, biases = self.scales.astype(mx.float32), self.biases.astype(mx.float32)
        weight = mx.dequantize(self.weight, scales, biases, self.group_size, self.bits)
        out = x.astype(mx.float32) @ weight.T
        if "bias" in self:
            out = out + self.bias
        return out.astype(x.dtype)


def dequantise_prompts(layers: list[Any]) -> None:
    """Let the quantised matrices of decoder layers be written out where many tokens are read.

    Those of experts, and of formats without biases, stay with MLX's own products.
    """
    for layer in layers:
        for module in layer.modules():
            if type(module) is nn.QuantizedLinear and module.mode == "affine":
                module.__class__ = DequantisedLinear
