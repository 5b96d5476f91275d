"""mlx-lm's Qwen3.5 classes with media, and how to put them in mlx-lm's place.

`ModelKit` does not need the replacement: it hands its classes to mlx-lm's loader. It exists for
people who want `mlx_lm.load`, `mlx_lm.server` and their friends to build these classes too.
"""

# The folder stands at the top of the repository and is part of the package through a link.
# Imported under its short name, every class in it would exist twice.
if __name__ != "mlx_qwen35.patches":
    raise ImportError(f"import mlx_qwen35.patches, not {__name__}")

from collections.abc import Callable
from types import TracebackType

# What undoes the replacement that is in place, in the order in which it was made.
_undo: list[Callable[[], None]] = []


class AppliedPatches:
    """What `apply_patches` returns: as a context manager it undoes on exit what that call did."""

    def __init__(self, *, applied_here: bool) -> None:
        self._applied_here = applied_here

    def __enter__(self) -> "AppliedPatches":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._applied_here:
            undo_patches()


def apply_patches() -> AppliedPatches:
    """Let mlx-lm build this package's classes for every Qwen3.5 checkpoint.

    Calling it again changes nothing. Models that were loaded before stay as they are. Never run
    by an import.

    Raises:
        VersionError: mlx-lm or mlx-vlm is outside the tested range.
    """
    # mlx_lm takes a second to import.
    import mlx_lm.models.cache as cache_module
    import mlx_lm.models.qwen3_5 as dense
    import mlx_lm.models.qwen3_5_moe as moe
    import mlx_lm.utils as utils

    from mlx_qwen35.checkpoints.config import ModelConfig
    from mlx_qwen35.patches.qwen3_5 import Model
    from mlx_qwen35.patches.saving import keeping_vision
    from mlx_qwen35.patches.versions import check_versions
    from mlx_qwen35.state.cache import AttentionCache, GatedDeltaCache
    from mlx_qwen35.state.quantized_cache import QuantizedAttentionCache

    check_versions()
    if _undo:
        return AppliedPatches(applied_here=False)
    for module in (dense, moe):
        _replace(module, "Model", Model)
        _replace(module, "ModelArgs", ModelConfig)
    # load_prompt_cache looks classes up by name among its own.
    _replace(cache_module, "AttentionCache", AttentionCache)
    _replace(cache_module, "QuantizedAttentionCache", QuantizedAttentionCache)
    _replace(cache_module, "GatedDeltaCache", GatedDeltaCache)
    _replace(
        utils,
        "MODEL_REMAPPING",
        {**utils.MODEL_REMAPPING, "qwen3_5_text": "qwen3_5", "qwen3_5_moe_text": "qwen3_5_moe"},
    )
    _replace(utils, "save_config", keeping_vision(utils.save_config))
    return AppliedPatches(applied_here=True)


def undo_patches() -> None:
    """Give mlx-lm its own classes back; without `apply_patches` before, it does nothing."""
    while _undo:
        _undo.pop()()


def _replace(owner: object, name: str, value: object) -> None:
    missing = object()
    original = getattr(owner, name, missing)

    def restore() -> None:
        if original is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, original)

    setattr(owner, name, value)
    _undo.append(restore)
