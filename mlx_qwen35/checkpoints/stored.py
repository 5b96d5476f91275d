"""How a stored tensor was quantised, by its shapes."""

from collections.abc import Mapping
from typing import Any

# Only affine scales have the type of the weights; each other mode has one number of bits and one group size.
_MODES = {(4, 16): "nvfp4", (4, 32): "mxfp4", (8, 32): "mxfp8"}


def quantisation_of(path: str, width: int, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Group size, bits and mode, whatever config.json says of it.

    Args:
        path: Of the layer, whose `weight` and `scales` are among the tensors.
        width: Its inputs, which are the last axis of the weight before it was packed.
    Raises:
        ValueError: MLX has no such mode, or does not pack weights into this type.
    Source:
        mlx-lm 0.32, utils.py, `infer_quant_config`; importing that takes a second.
    """
    import mlx.core as mx

    scales = tensors[f"{path}.scales"]
    group_size = width // scales.shape[-1]
    weight = tensors[f"{path}.weight"]
    if weight.dtype != mx.uint32:
        raise ValueError(f"{path}.weight: expected uint32 beside scales, found {weight.dtype}")
    bits = weight.shape[-1] * 32 // width
    mode = "affine" if scales.dtype != mx.uint8 else _MODES.get((bits, group_size))
    if mode is None:
        raise ValueError(f"{path}: {bits} bits in groups of {group_size}")
    return {"group_size": group_size, "bits": bits, "mode": mode}
