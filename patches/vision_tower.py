"""mlx-vlm's vision tower, built from a validated configuration."""

from importlib import import_module
from typing import Any

import mlx.nn as nn

from mlx_qwen35.checkpoints.config import MOE_TYPES, ModelConfig
from mlx_qwen35.patches.operations import choose_operations


def build_vision_tower(config: ModelConfig) -> nn.Module | None:
    """A tower without weights, or None for a text-only config.

    Called with pixel values (N, C * T * P * P) and their grid (images, 3), it gives
    (merged patches, out_hidden_size) and the deepstack features, which Qwen3.5 has not.

    Source:
        mlx-vlm 0.7.10, models/qwen3_5 and models/qwen3_5_moe, VisionModel.
    """
    vision = config.vision
    if vision is None:
        return None
    family = "qwen3_5_moe" if config.model_type in MOE_TYPES else "qwen3_5"
    # Imported here: mlx_vlm is slow to import, and a text-only checkpoint does without it.
    module: Any = import_module(f"mlx_vlm.models.{family}")
    arguments = module.VisionConfig(
        model_type=family,
        depth=vision.depth,
        hidden_size=vision.hidden_size,
        intermediate_size=vision.intermediate_size,
        num_heads=vision.num_heads,
        in_channels=vision.in_channels,
        patch_size=vision.patch_size,
        temporal_patch_size=vision.temporal_patch_size,
        spatial_merge_size=vision.spatial_merge_size,
        out_hidden_size=vision.out_hidden_size,
        num_position_embeddings=vision.num_position_embeddings,
        deepstack_visual_indexes=[],
    )
    tower: nn.Module = module.VisionModel(arguments)
    # Exact models too: what is exact is text.
    operations = choose_operations()
    if not operations.upstream:
        from mlx_qwen35.patches.vision_layers import replace_layers

        replace_layers(tower, operations)
    return tower
