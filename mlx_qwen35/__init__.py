"""Qwen3.5 on Apple silicon: text and vision from one set of MLX weights.

The public names are loaded on first use, so that ``import mlx_qwen35`` and
``mlx-qwen35 --help`` stay fast: transformers and mlx_vlm take seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_qwen35.errors import Qwen35Error as Qwen35Error
    from mlx_qwen35.generate import GenerationChunk as GenerationChunk
    from mlx_qwen35.generate import GenerationResult as GenerationResult
    from mlx_qwen35.model_kit import ModelKit as ModelKit
    from mlx_qwen35.patches import apply_patches as apply_patches
    from mlx_qwen35.patches import undo_patches as undo_patches
    from mlx_qwen35.prompt import Prompt as Prompt
    from mlx_qwen35.vision import MoeVisionAddOn as MoeVisionAddOn
    from mlx_qwen35.vision import VisionAddOn as VisionAddOn

__version__ = "0.1.0"

_HOME = {
    "GenerationChunk": "mlx_qwen35.generate",
    "GenerationResult": "mlx_qwen35.generate",
    "ModelKit": "mlx_qwen35.model_kit",
    "MoeVisionAddOn": "mlx_qwen35.vision",
    "Prompt": "mlx_qwen35.prompt",
    "Qwen35Error": "mlx_qwen35.errors",
    "VisionAddOn": "mlx_qwen35.vision",
    "apply_patches": "mlx_qwen35.patches",
    "undo_patches": "mlx_qwen35.patches",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
