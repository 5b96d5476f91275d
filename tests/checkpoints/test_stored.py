"""How a stored tensor was quantised: as mlx-lm tells it."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.utils import infer_quant_config

from mlx_qwen35.checkpoints.stored import quantisation_of

AFFINE = [{"bits": bits, "group_size": size, "mode": "affine"} for bits in (2, 3, 4, 5, 6, 8) for size in (32, 64, 128)]
OTHERS = [
    {"bits": 4, "group_size": 16, "mode": "nvfp4"},
    {"bits": 4, "group_size": 32, "mode": "mxfp4"},
    {"bits": 8, "group_size": 32, "mode": "mxfp8"},
]


@pytest.mark.parametrize("settings", [*AFFINE, *OTHERS], ids=lambda settings: "-".join(map(str, settings.values())))
def test_every_way_of_quantising_is_told_as_mlx_lm_tells_it(settings: dict[str, Any]) -> None:
    layer = nn.Linear(384, 32, bias=False)
    packed = dict(zip(("weight", "scales", "biases"), mx.quantize(layer.weight, **settings), strict=False))
    tensors = {f"layer.{name}": value for name, value in packed.items()}
    assert quantisation_of("layer", 384, tensors) == infer_quant_config("layer", layer, tensors) == settings


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
def test_scales_of_any_precision_are_affine(dtype: mx.Dtype) -> None:
    tensors = {"layer.weight": mx.zeros((32, 48), mx.uint32), "layer.scales": mx.zeros((32, 6), dtype)}
    assert quantisation_of("layer", 384, tensors) == {"group_size": 64, "bits": 4, "mode": "affine"}


def test_what_mlx_has_not_is_refused() -> None:
    tensors = {"layer.weight": mx.zeros((32, 48), mx.uint32), "layer.scales": mx.zeros((32, 6), mx.uint8)}
    with pytest.raises(ValueError, match="layer: 4 bits in groups of 64"):
        quantisation_of("layer", 384, tensors)


@pytest.mark.parametrize("dtype", [mx.int32, mx.float32])
def test_weights_that_are_not_packed_have_no_scales(dtype: mx.Dtype) -> None:
    """MLX would find out in the first answer."""
    tensors = {"layer.weight": mx.zeros((32, 48), dtype), "layer.scales": mx.zeros((32, 6))}
    with pytest.raises(ValueError, match=r"layer.weight: expected uint32 beside scales, found .*32"):
        quantisation_of("layer", 384, tensors)
