"""A half-precision model computed in float32, for MLX's CPU backend.

There products of half-precision matrices are plain loops, quantised ones too, and those of float32 are the BLAS
library's or vectorised: several times faster (docs/performance.md). No weight loses anything by being wider, and norms
that are stored as w are added to 1 in float32, as transformers does, where half precision rounds the sum.
"""

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_qwen35.patches.vision_tower import DeferredTower

_HALF = (mx.bfloat16, mx.float16)


def widened_bytes(model: Any) -> int:
    """Bytes that `widen` takes on top of a model's weights."""
    tower = getattr(model, "vision_tower", None)
    later = tower.weights if isinstance(tower, DeferredTower) else []
    arrays = [*dict(tree_flatten(model.parameters())).values(), *(array for _, array in later)]
    return sum(array.nbytes for array in arrays if array.dtype in _HALF)


def widen(model: Any) -> None:
    """Hold everything that a model, or a module, has in half precision in float32; nothing is computed yet."""
    model.set_dtype(mx.float32, lambda dtype: dtype in _HALF)
    offsets: dict[str, mx.array] = getattr(model, "_half_offsets", {})
    model.load_weights([(name, value.astype(mx.float32) + 1.0) for name, value in offsets.items()], strict=False)
    offsets.clear()
    tower = getattr(model, "vision_tower", None)
    if isinstance(tower, DeferredTower):
        tower.weights = [
            (name, array.astype(mx.float32) if array.dtype in _HALF else array) for name, array in tower.weights
        ]
