"""torchao's tensors in safetensors files: `_weight_qdata`, `_weight_scale` and more, in the place of one `weight`.

transformers saves them so for `TorchAoConfig`. Which of torchao's classes a tensor was of stands in the file's own
metadata only; those that are read here are told by their parts.
"""

import re
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from mlx_qwen35.errors import CheckpointError
from mlx_qwen35.paths import shorten

# Stacked experts are parameters too.
_NAME = re.compile(r"(?P<path>.*)\._(?P<parameter>weight|gate_up_proj|down_proj)_(?P<part>\w+)$")
_PARTS = {"qdata": "weight", "scale": "weight_scale", "zero_point": "weight_zero_point"}
# Of the inputs, which are not quantised here.
_OF_INPUTS = ("act_quant_scale", "act_quant_zero_point", "act_per_tensor_scale")


def split(name: str) -> tuple[str, str] | None:
    """A tensor's module and what it is of it, in the words of compressed-tensors; None if it is not torchao's."""
    match = _NAME.match(name)
    if match is None:
        return None
    path = match["path"] if match["parameter"] == "weight" else f"{match['path']}.{match['parameter']}"
    return path, "input_scale" if match["part"] in _OF_INPUTS else _PARTS.get(match["part"], match["part"])


def check(weights: Mapping[str, mx.array], settings: Mapping[str, Any]) -> None:
    """Read are signed bytes and E4M3; of all others the bytes do not tell how they are packed and in what order.

    Args:
        settings: `quantization_config`, for the error.
    Raises:
        CheckpointError: There is one of another kind.
    """
    for name, value in weights.items():
        match = _NAME.match(name)
        if match is None or match["part"] in _OF_INPUTS:
            continue
        scale = weights.get(f"{name.removesuffix('qdata')}scale")
        zero = weights.get(f"{name.removesuffix('qdata')}zero_point")
        # E4M3 is read as unsigned bytes, and has no zero; MX and NVFP4 have scales that are no floats.
        plain = scale is not None and mx.issubdtype(scale.dtype, mx.floating) and zero is None
        known = match["part"] in _PARTS and (
            match["part"] != "qdata" or value.dtype == mx.int8 or (value.dtype == mx.uint8 and plain)
        )
        if not known:
            raise CheckpointError(
                f"{name}: expected signed bytes or E4M3 of torchao, as Int8Tensor, IntxUnpackedToInt8Tensor and "
                f"Float8Tensor have, found {_type_of(settings)}; take the original checkpoint, or a conversion to MLX"
            )


def _type_of(settings: Mapping[str, Any]) -> str:
    """The configuration that the tensors were quantised by."""
    kinds = settings.get("quant_type")
    default = kinds.get("default") if isinstance(kinds, dict) else kinds
    kind = default.get("_type") if isinstance(default, dict) else default
    return shorten(str(kind)) if isinstance(kind, str) else "another packing"
