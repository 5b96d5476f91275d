"""Quantised layers back to plain ones."""

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from mlx_qwen35.checkpoints.unpacking import NVFP4_RANGE


def dequantise(model: nn.Module, dtype: mx.Dtype, only: Callable[[Any], bool] = lambda _: True) -> list[str]:
    """Make quantised layers of a model plain ones, in place; their weights are computed when they are used.

    mlx-lm's `dequantize_model` leaves out the global scales of nvfp4, and gives bfloat16 for what has no biases.

    Args:
        dtype: Of the weights.
        only: Which of the quantised layers.
    Returns:
        The paths of the layers.
    """
    plain: list[tuple[str, nn.Module]] = []
    for path, module in model.named_modules():  # type: ignore[no-untyped-call]
        if "scales" not in module or not only(module):
            continue
        if isinstance(module, nn.QuantizedLinear):
            new: Any = nn.Linear(1, 1, bias="bias" in module)
        elif isinstance(module, nn.QuantizedEmbedding):
            new = nn.Embedding(1, 1)
        elif isinstance(module, QuantizedSwitchLinear):
            new = SwitchLinear(1, 1, 1, bias="bias" in module)
        else:
            continue
        new.weight = plain_weight(
            module, {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}, dtype
        )
        if "bias" in module:
            new.bias = module.bias
        plain.append((path, new))
    model.update_modules(tree_unflatten(plain))
    return [path for path, _ in plain]


def plain_weight(parts: Mapping[str, Any], settings: Mapping[str, Any], dtype: mx.Dtype) -> mx.array:
    """What quantised parts stand for.

    Args:
        parts: `weight`, `scales`, and perhaps `biases` and `global_scale`.
        settings: `group_size`, `bits` and `mode`.
    """
    biases, scale = parts.get("biases"), parts.get("global_scale")
    weight = mx.dequantize(
        parts["weight"], parts["scales"], biases, **settings, dtype=mx.float32 if biases is None else None
    )
    if scale is not None:
        weight = weight * (scale.reshape(-1, *[1] * (weight.ndim - 1)) / NVFP4_RANGE)
    return weight.reshape(*parts["weight"].shape[:-1], -1).astype(dtype)
