"""Layers in nvfp4 whose scales stand for a fraction of the tensor's largest value.

mlx-lm has them for experts on a GPU; MLX has none for single matrices, and none at all on the CPU.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path
from mlx_lm.models.switch_layers import QuantizedSwitchLinear

from mlx_qwen35.checkpoints.unpacking import NVFP4_RANGE


class ScaledLinear(nn.QuantizedLinear):
    """A quantised linear layer, whose product is multiplied by one number.

    Source:
        mlx-vlm 0.7.10, quantization/nvfp4.py, ScaledQuantizedLinear.
    """

    def __init__(self, base: nn.QuantizedLinear) -> None:
        nn.Module.__init__(self)  # type: ignore[no-untyped-call]
        _take_over(self, base, shape=())

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) to (..., out)."""
        # In float32: before it is scaled, a sum may go beyond what half precision holds.
        product = mx.quantized_matmul(
            x.astype(mx.float32), self.weight, self.scales, group_size=self.group_size, bits=self.bits, mode=self.mode
        )
        product = (product * (self.global_scale / NVFP4_RANGE)).astype(x.dtype)
        return product + self.bias if "bias" in self else product  # type: ignore[no-any-return]


class ScaledSwitchLinear(QuantizedSwitchLinear):  # type: ignore[misc]
    """mlx-lm's quantised experts, each with a number of its own, for the CPU too.

    Source:
        mlx-vlm 0.7.10, quantization/nvfp4.py, ScaledQuantizedSwitchLinear.
    """

    def __init__(self, base: QuantizedSwitchLinear) -> None:
        nn.Module.__init__(self)  # type: ignore[no-untyped-call]
        _take_over(self, base, shape=(base.num_experts,))

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """As mlx-lm's."""
        product = mx.gather_qmm(
            x.astype(mx.float32),
            self.weight,
            self.scales,
            rhs_indices=indices,
            transpose=True,
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
            sorted_indices=sorted_indices,
        )
        factors = (self.global_scale / NVFP4_RANGE)[indices][..., None, None]
        return (product * factors).astype(x.dtype)  # type: ignore[no-any-return]


def _take_over(new: Any, base: Any, shape: tuple[int, ...]) -> None:
    new.group_size, new.bits, new.mode = base.group_size, base.bits, base.mode
    new.weight, new.scales, new.biases = base.weight, base.scales, None
    new.global_scale = mx.zeros(shape)
    if "bias" in base:
        new.bias = base.bias
    new.freeze()


def add_global_scales(model: nn.Module, weights: Mapping[str, mx.array]) -> None:
    """Replace the quantised layers whose weights come with a `global_scale` by ones that have it."""

    def replace(path: str, module: Any) -> Any:
        if f"{path}.global_scale" not in weights or getattr(module, "mode", None) != "nvfp4":
            return module
        if isinstance(module, nn.QuantizedLinear):
            return ScaledLinear(module)
        if not isinstance(module, QuantizedSwitchLinear):
            return module
        if mx.default_device() == mx.Device(mx.cpu):
            return ScaledSwitchLinear(module)
        # As mlx-lm sets it when it quantises.
        module.global_scale = mx.zeros((module.num_experts,))
        return module

    leaves: Any = model.leaf_modules()  # type: ignore[no-untyped-call]
    leaves = tree_map_with_path(replace, leaves, is_leaf=nn.Module.is_module)
    model.update_modules(leaves)
