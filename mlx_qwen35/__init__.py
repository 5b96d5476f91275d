"""Qwen3.5 on Apple silicon: text and vision from one set of MLX weights.

The public names are loaded on first use, so that ``import mlx_qwen35`` and
``mlx-qwen35 --help`` stay fast: transformers and mlx_vlm take seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_qwen35.answers.options import GenerationOptions as GenerationOptions
    from mlx_qwen35.answers.results import GenerationChunk as GenerationChunk
    from mlx_qwen35.answers.results import GenerationResult as GenerationResult
    from mlx_qwen35.conversion import convert as convert
    from mlx_qwen35.errors import *  # noqa: F403
    from mlx_qwen35.model_kit import ModelKit as ModelKit
    from mlx_qwen35.patches import apply_patches as apply_patches
    from mlx_qwen35.patches import undo_patches as undo_patches
    from mlx_qwen35.prompts.prompt import Prompt as Prompt
    from mlx_qwen35.runtime.engine import Engine as Engine
    from mlx_qwen35.vision import MoeVisionAddOn as MoeVisionAddOn
    from mlx_qwen35.vision import VisionAddOn as VisionAddOn

__version__ = "0.1.0"

_ERRORS = (
    "AdapterError",
    "CacheError",
    "CheckpointError",
    "ConfigError",
    "ContextLengthError",
    "DeadlineError",
    "EngineFullError",
    "GenerationCancelled",
    "InsufficientMemoryError",
    "KitClosedError",
    "MediaError",
    "OptionError",
    "PromptError",
    "PromptMismatchError",
    "Qwen35Error",
    "SessionError",
    "VersionError",
    "VisionUnavailableError",
)
_HOME = {
    "Engine": "mlx_qwen35.runtime.engine",
    "GenerationChunk": "mlx_qwen35.answers.results",
    "GenerationOptions": "mlx_qwen35.answers.options",
    "GenerationResult": "mlx_qwen35.answers.results",
    "ModelKit": "mlx_qwen35.model_kit",
    "MoeVisionAddOn": "mlx_qwen35.vision",
    "Prompt": "mlx_qwen35.prompts.prompt",
    "VisionAddOn": "mlx_qwen35.vision",
    "apply_patches": "mlx_qwen35.patches",
    "convert": "mlx_qwen35.conversion",
    "undo_patches": "mlx_qwen35.patches",
    **dict.fromkeys(_ERRORS, "mlx_qwen35.errors"),
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _ERRORS:
        from mlx_qwen35.upstream import import_decoder

        import_decoder()
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
