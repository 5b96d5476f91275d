"""The vision tower: every number of vision_config in it, and the CPU's layers compute what mlx-vlm's do."""

from importlib import import_module
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.errors import CheckpointError
from mlx_qwen35.patches.vision_tower import DeferredTower, build_vision_tower, tower_shapes
from tests.patches.test_gated_delta import assert_close
from tests.tiny import DENSE, MOE, Shape, config_of

CHANGES: list[dict[str, Any]] = [
    {}, {"depth": 1}, {"hidden_size": 48}, {"intermediate_size": 80}, {"num_heads": 4}, {"in_channels": 1},
    {"patch_size": 8}, {"temporal_patch_size": 1}, {"spatial_merge_size": 1}, {"out_hidden_size": 32},
    {"num_position_embeddings": 25},
]  # fmt: skip


@pytest.mark.parametrize("fields", CHANGES, ids=str)
def test_every_number_of_the_tower_is_obeyed(fields: dict[str, Any], dense_and_moe: Shape) -> None:
    """Oracle: mlx-vlm 0.7.10's tower from the same config.json, two images of one size, float32, 1e-5 of the scale."""
    raw = config_of(dense_and_moe)
    vision = raw["vision_config"] = raw["vision_config"] | fields
    ours: Any = build_vision_tower(ModelConfig.from_dict(raw))
    module = import_module(f"mlx_vlm.models.{'qwen3_5_moe' if dense_and_moe is MOE else 'qwen3_5'}")
    theirs = module.VisionModel(module.VisionConfig.from_dict(vision))
    keys = iter(mx.random.split(mx.random.key(3), 200))
    weights = [
        (name, 0.3 * mx.random.normal(value.shape, key=next(keys))) for name, value in tree_flatten(theirs.parameters())
    ]
    sizes = ModelConfig.from_dict(raw).vision
    assert sizes is not None
    assert tower_shapes(sizes) == {name: value.shape for name, value in weights}
    grid = mx.array([[1, 4, 6], [1, 4, 6]])
    width = vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    pixels = mx.random.normal((48, width), key=mx.random.key(4))
    for tower in (ours, theirs):
        # Refuses names and shapes that are not its own.
        tower.load_weights(weights)
    assert_close(ours(pixels, grid)[0], theirs(pixels, grid)[0], 1e-5)


def test_a_text_only_config_builds_none() -> None:
    raw = config_of(DENSE)
    del raw["vision_config"]
    assert build_vision_tower(ModelConfig.from_dict(raw)) is None


def test_a_deferred_tower_computes_what_one_built_at_once_does() -> None:
    config = ModelConfig.from_dict(config_of(DENSE))
    assert config.vision is not None
    keys = iter(mx.random.split(mx.random.key(5), 200))
    weights = {
        name: 0.3 * mx.random.normal(shape, key=next(keys)) for name, shape in tower_shapes(config.vision).items()
    }
    later, at_once = DeferredTower(config), build_vision_tower(config)
    assert at_once is not None
    assert later.take(weights)
    at_once.load_weights(list(weights.items()))
    pixels = mx.random.normal((16, 3 * 2 * config.vision.patch_size**2), key=mx.random.key(6))
    grid = mx.array([[1, 4, 4]])
    assert mx.array_equal(later(pixels, grid)[0], at_once(pixels, grid)[0]).item()
    assert later.patch_embed.proj.weight.shape == weights["patch_embed.proj.weight"].shape
    # Built once, for answers, and its weights are held once.
    assert later.weights == []
    assert later.patch_embed is later.patch_embed
    assert not later.training


def test_what_copying_asks_for_builds_no_tower() -> None:
    later = DeferredTower(ModelConfig.from_dict(config_of(DENSE)))
    with pytest.raises(AttributeError, match="__deepcopy__"):
        later.__deepcopy__  # noqa: B018
    assert later._tower is None


@pytest.mark.parametrize("change", ["missing", "surplus", "misshapen"])
def test_a_deferred_tower_takes_no_weights_that_do_not_fit(change: str) -> None:
    config = ModelConfig.from_dict(config_of(DENSE))
    assert config.vision is not None
    weights = {name: mx.zeros(shape) for name, shape in tower_shapes(config.vision).items()}
    norm = weights.pop("merger.norm.bias")
    if change != "missing":
        weights["merger.norm.bias"] = norm if change == "surplus" else mx.zeros(len(norm) + 1)
    if change == "surplus":
        weights["merger.norm.scales"] = norm
    assert not DeferredTower(config).take(weights)


def test_weights_that_cannot_be_read_any_more_are_told() -> None:
    """As when the file was overwritten since it was opened; the next picture tries again."""
    config = ModelConfig.from_dict(config_of(DENSE))
    assert config.vision is not None
    later = DeferredTower(config)
    assert later.take({name: mx.zeros(shape) for name, shape in tower_shapes(config.vision).items()})
    good, later.weights = later.weights, later.weights[1:]
    with pytest.raises(CheckpointError, match=r"the vision tower: the weights cannot be loaded: Missing 1 parameters"):
        later.patch_embed  # noqa: B018
    later.weights = good
    assert later.patch_embed.proj.bias.shape == (config.vision.hidden_size,)
