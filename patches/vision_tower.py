"""mlx-vlm's vision tower, built from a validated configuration, at once or with the first picture."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_qwen35.checkpoints.build import naming
from mlx_qwen35.checkpoints.config import ModelConfig, VisionConfig
from mlx_qwen35.patches.operations import choose_operations
from mlx_qwen35.upstream import import_vision_tower


def build_vision_tower(config: ModelConfig) -> nn.Module | None:
    """A tower without weights, or None for a text-only config.

    Called with pixel values (N, C * T * P * P) and their grid (images, 3), it gives
    (merged patches, out_hidden_size) and the deepstack features, which Qwen3.5 has not.

    Source:
        mlx-vlm 0.7.10, models/qwen3_vl/vision.py, VisionModel, of which qwen3_5's and qwen3_5_moe's are.
    """
    vision = config.vision
    if vision is None:
        return None
    module = import_vision_tower()
    arguments = module.VisionConfig(
        model_type="qwen3_5",
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


class DeferredTower:
    """A vision tower that is built, and its weights read, when it is first used.

    It stands where the tower would in a model, but is none of its modules. A conversation without pictures does
    without it. Used only on the thread that owns
    MLX, which also has to be the one that opened the weights.

    Args:
        config: A checkpoint's that describes a tower.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        # By their names in the tower, unread; none any more once it is built.
        self.weights: list[tuple[str, mx.array]] = []
        self._tower: Any = None

    def take(self, weights: Mapping[str, mx.array]) -> bool:
        """Keep a checkpoint's weights, by their names in the tower, unread.

        Returns:
            False, and keeps nothing, unless they are exactly those of a tower of this config, unquantised.
        """
        assert self._config.vision is not None
        if {name: value.shape for name, value in weights.items()} != tower_shapes(self._config.vision):
            return False
        self.weights = list(weights.items())
        return True

    def __call__(self, *args: Any) -> Any:
        """As `build_vision_tower`'s."""
        return self._built()(*args)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what copying and the like ask for, which need no tower
            raise AttributeError(name)
        return getattr(self._built(), name)

    def _built(self) -> Any:
        if self._tower is None:
            tower = build_vision_tower(self._config)
            assert tower is not None
            with naming("the vision tower"):
                tower.load_weights(self.weights)
                mx.eval(tower.eval().parameters())  # type: ignore[no-untyped-call]
            self._tower, self.weights = tower, []
        return self._tower


def tower_shapes(vision: VisionConfig) -> dict[str, tuple[int, ...]]:
    """What a tower's parameters are called, and their shapes, without mlx_vlm.

    Source:
        mlx-vlm 0.7.10, models/qwen3_vl/vision.py, VisionModel.
    """
    width, merged = vision.hidden_size, vision.hidden_size * vision.spatial_merge_size**2
    linear = {"merger.linear_fc1": (merged, merged), "merger.linear_fc2": (vision.out_hidden_size, merged)}
    norms = ["merger.norm"]
    for index in range(vision.depth):
        block = f"blocks.{index}"
        linear |= {
            f"{block}.attn.qkv": (3 * width, width),
            f"{block}.attn.proj": (width, width),
            f"{block}.mlp.linear_fc1": (vision.intermediate_size, width),
            f"{block}.mlp.linear_fc2": (width, vision.intermediate_size),
        }
        norms += [f"{block}.norm1", f"{block}.norm2"]
    patch = (vision.temporal_patch_size, vision.patch_size, vision.patch_size, vision.in_channels)
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (width, *patch),
        "patch_embed.proj.bias": (width,),
        "pos_embed.weight": (vision.num_position_embeddings, width),
    }
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes
