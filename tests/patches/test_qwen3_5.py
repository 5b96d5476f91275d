"""The patched model: every number of config.json in it, a step that may be compiled, embeddings that are given."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models import qwen3_5 as dense
from mlx_lm.models import qwen3_5_moe as moe
from mlx_lm.models.cache import ArraysCache

from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.errors import CheckpointError
from mlx_qwen35.patches import qwen3_5
from mlx_qwen35.patches.qwen3_5 import Model
from mlx_qwen35.patches.vision_tower import DeferredTower
from mlx_qwen35.vision import make_vision_add_on
from tests.conftest import Bench
from tests.parity.cases import CASES
from tests.patches.test_gated_delta import assert_close
from tests.tiny import DENSE, MOE, YARN, Shape, config_of, write_checkpoint

TOKENS = mx.array([CASES["text"].input_ids])

# A field of text_config and another value than tests.tiny gives it.
NUMBERS: list[tuple[Shape, dict[str, Any]]] = [
    *((DENSE, {name: value}) for name, value in [
        ("vocab_size", 400), ("hidden_size", 96), ("intermediate_size", 96), ("num_attention_heads", 2),
        ("num_key_value_heads", 2), ("attention_bias", True), ("linear_num_value_heads", 6),
        ("linear_num_key_heads", 1), ("linear_key_head_dim", 64), ("linear_value_head_dim", 64),
        ("linear_conv_kernel_dim", 3), ("rms_norm_eps", 0.25), ("num_hidden_layers", 8),
    ]),
    *((MOE, {name: value}) for name, value in [
        ("rms_norm_eps", 0.25), ("num_experts", 4), ("num_experts_per_tok", 3), ("moe_intermediate_size", 32),
        ("shared_expert_intermediate_size", 96),
    ]),
]  # fmt: skip
ROPES: list[tuple[Shape, dict[str, Any]]] = [
    (DENSE, {"rope_theta": 50.0}),
    (DENSE, {"partial_rotary_factor": 0.5, "mrope_section": [6, 5, 5]}),
    (YARN, {"factor": 2.0}),
    (YARN, {"original_max_position_embeddings": 16}),
    (YARN, {"beta_fast": 1.5}),
    (YARN, {"beta_slow": 3.0}),
]


def built(shape: Shape, *, text: dict[str, Any], rope: dict[str, Any], **top: Any) -> tuple[Any, Any]:
    """Our exact model and mlx-lm's own from one config.json, with the same random weights."""
    raw = config_of(shape) | top
    raw["text_config"] |= text
    raw["text_config"]["rope_parameters"] |= rope
    if "num_hidden_layers" in text:
        # mlx-lm reads the interval, and 4 is what it takes without one.
        raw["text_config"]["layer_types"] *= 2
    given = copy.deepcopy(raw)
    given["text_config"] |= {"tie_word_embeddings": given["tie_word_embeddings"]}
    ours = Model(ModelConfig.from_dict(raw), exact=True)
    theirs = (moe if shape.moe else dense).Model((moe if shape.moe else dense).ModelArgs.from_dict(given))
    for model in (ours, theirs):
        model.eval()
    keys = iter(mx.random.split(mx.random.key(1), 1000))
    weights = tree_map(
        lambda value: 0.2 * mx.random.normal(value.shape, key=next(keys)), theirs.language_model.parameters()
    )
    theirs.language_model.update(weights)
    ours.language_model.update(weights)
    return ours, theirs


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in tree_flatten(model.language_model.parameters())}  # type: ignore[misc]


@pytest.mark.some(3)
@pytest.mark.parametrize(("shape", "fields"), NUMBERS, ids=lambda value: getattr(value, "name", None) or str(value))
def test_every_number_of_the_decoder_is_obeyed(shape: Shape, fields: dict[str, Any]) -> None:
    """Oracle: mlx-lm 0.32.2 from the same config.json, bit for bit."""
    ours, theirs = built(shape, text=fields, rope={})
    assert shapes_of(ours) == shapes_of(theirs)
    assert mx.array_equal(ours(TOKENS), theirs(TOKENS)).item()


@pytest.mark.some(3)
@pytest.mark.parametrize(("shape", "fields"), ROPES, ids=lambda value: getattr(value, "name", None) or str(value))
def test_every_number_of_the_rotation_is_obeyed(shape: Shape, fields: dict[str, Any]) -> None:
    """Likewise; and it makes a difference."""
    ours, theirs = built(shape, text={}, rope=fields)
    found = ours(TOKENS)
    assert mx.array_equal(found, theirs(TOKENS)).item()
    assert not mx.array_equal(found, built(shape, text={}, rope={})[0](TOKENS)).item()


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=lambda shape: shape.name)
def test_tied_embeddings_are_the_head(shape: Shape) -> None:
    ours, theirs = built(shape, text={}, rope={}, tie_word_embeddings=True)
    assert not any("lm_head" in name for name in shapes_of(ours))
    assert mx.array_equal(ours(TOKENS), theirs(TOKENS)).item()


@pytest.mark.parametrize("kind", ["linear_attention", "full_attention"])
def test_a_decoder_of_one_kind_of_layer(kind: str, tmp_path: Path) -> None:
    """Read whole and token by token. Oracle: mlx-lm's own layers one after the other, float32, 2e-5 of the scale."""
    shape = replace(DENSE, name=kind, layer_types=(kind,) * 2)
    model = Model.from_checkpoint(Checkpoint.open(write_checkpoint(tmp_path / kind, shape)))
    decoder = model.language_model.model
    hidden = decoder.embed_tokens(TOKENS)
    for layer in decoder.layers:
        theirs = dense.DecoderLayer(model.language_model.args, layer_idx=0 if layer.is_linear else 1)
        theirs.update(layer.parameters())
        hidden = theirs(hidden, None if layer.is_linear else "causal", None)
    expected = model.language_model.lm_head(decoder.norm(hidden))
    cache = model.make_cache()
    parts = [model(TOKENS[:, at : at + 1], cache=cache) for at in range(TOKENS.shape[1])]
    assert_close(mx.concatenate(parts, axis=1), expected, 2e-5)
    assert_close(model(TOKENS), expected, 2e-5)
    assert_close(model(TOKENS, cache=model.make_cache()), expected, 2e-5)


@pytest.mark.parametrize(
    "kinds", [("full_attention", "linear_attention"), ("full_attention",) * 2], ids=["first", "everywhere"]
)
def test_images_are_placed_wherever_attention_stands(kinds: tuple[Any, ...], tmp_path: Path) -> None:
    """In the first layer too, which no published model has; oracle: the same embeddings given by hand."""
    shape = replace(DENSE, name="attention-first", layer_types=kinds)
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / shape.name, shape))
    model = Model.from_checkpoint(checkpoint)
    bench = Bench(checkpoint, model, make_vision_add_on(checkpoint.config, model.vision_tower, checkpoint.directory))
    case = CASES["two images"]
    prompt = bench.prompt(list(case.input_ids), case.images)
    assert prompt.layout is not None
    tokens, placed = mx.array(prompt.input_ids)[None], bench.cache(prompt)
    given = mx.array(model.language_model.model.embed_tokens(tokens))
    media = next(cache.media for cache in placed if hasattr(cache, "media"))
    for span, features in zip(prompt.layout.spans, media.features, strict=True):
        given[:, span.start : span.stop] = features
    expected = model(tokens, cache=bench.cache(prompt), input_embeddings=given)
    assert mx.array_equal(model(tokens, cache=placed), expected).item()
    assert media.features == [None, None]


def test_a_row_that_has_ended_is_not_written_on(dense_and_moe: Shape, benches: Callable[[Shape], Bench]) -> None:
    """A GDN layer that is called with lengths and without a mask, as upstream's takes them."""
    layer = benches(dense_and_moe).model.layers[0]
    x, cache = mx.random.normal((2, 3, 64), key=mx.random.key(2)), ArraysCache(size=2)
    layer(x, None, cache)
    before = cache[0]
    cache.prepare(lengths=[1, 0])
    layer(x[:, :1], None, cache)
    assert mx.array_equal(cache[0][1], before[1]).item()
    assert not mx.array_equal(cache[0][0], before[0]).item()


def test_a_single_token_that_is_padding_changes_nothing(
    dense_and_moe: Shape, benches: Callable[[Shape], Bench]
) -> None:
    """Nor does a compiled step take it for one, in whichever row it stands."""
    layer = benches(dense_and_moe).model.layers[0]
    cache = ArraysCache(size=2)
    x = mx.random.normal((2, 4, 64), key=mx.random.key(3))
    layer(x[:, :3], None, cache)
    mx.eval(cache.cache)
    before = [mx.array(array) for array in cache.cache]
    layer(x[:, 3:], mx.array([[False], [True]]), cache)
    assert mx.array_equal(cache[1][0], before[1][0]).item()
    assert not mx.array_equal(cache[1][1], before[1][1]).item()


def test_images_go_into_embeddings_that_are_given(dense_and_moe: Shape, benches: Callable[[Shape], Bench]) -> None:
    """As mlx-lm's input_embeddings: in place of the tokens' own, and left as they were."""
    bench, case = benches(dense_and_moe), CASES["two images"]
    prompt = bench.prompt(list(case.input_ids), case.images)
    tokens = mx.array(prompt.input_ids)[None]
    given = bench.model.language_model.model.embed_tokens(tokens)
    expected = bench.model(tokens, cache=bench.cache(prompt))
    copied = np.array(given)
    found = bench.model(mx.zeros_like(tokens), cache=bench.cache(prompt), input_embeddings=given)
    assert mx.array_equal(found, expected).item()
    np.testing.assert_array_equal(np.array(given), copied)
    halved = bench.model(tokens, cache=bench.cache(prompt), input_embeddings=given * 0.5)
    assert not mx.array_equal(halved, expected).item()


def test_nothing_to_load_takes_no_vision_away(benches: Callable[[Shape], Bench]) -> None:
    """mlx-lm sanitises an empty dict when it plans a distributed load."""
    model = Model(benches(DENSE).checkpoint.config)
    assert model.sanitize({}) == {}
    assert model.vision_tower is not None


def text_only() -> ModelConfig:
    raw = config_of(DENSE)
    del raw["vision_config"]
    return ModelConfig.from_dict(raw)


def test_a_tower_may_be_built_later_where_there_is_one(
    checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not beside an adapter, which may have something for it; a config without one has none either way."""
    checkpoint = Checkpoint.open(checkpoint_dir(DENSE))
    assert isinstance(Model.from_checkpoint(checkpoint, vision_later=True).vision_tower, DeferredTower)
    assert isinstance(Model.from_checkpoint(checkpoint).vision_tower, nn.Module)
    adapted: list[Any] = []
    monkeypatch.setattr(qwen3_5, "load_adapter", lambda model, path: adapted.append((model, path)))
    model = Model.from_checkpoint(checkpoint, adapter_path=tmp_path, vision_later=True)
    assert isinstance(model.vision_tower, nn.Module)
    assert adapted == [(model, tmp_path)]
    for later in (False, True):
        assert Model(text_only(), vision_later=later).vision_tower is None


@pytest.mark.parametrize("exact", [False, True])
def test_an_exact_model_compiles_nothing(benches: Callable[[Shape], Bench], exact: bool) -> None:
    model = Model.from_checkpoint(benches(DENSE).checkpoint, exact=exact)
    assert [len(layer._steps) for layer in model.layers] == [0 if exact else 2] * len(model.layers)


def test_what_may_be_quantised_and_how() -> None:
    """Not the tower, nor what has no weights to quantise; gates keep eight bits, in groups that divide them."""
    linear, narrow, norm = nn.Linear(128, 8), nn.Linear(96, 8), nn.RMSNorm(8)
    layer = "language_model.model.layers.0"
    assert qwen3_5.quantisation_of(f"{layer}.mlp.up_proj", linear) is True
    assert qwen3_5.quantisation_of(f"{layer}.linear_attn.in_proj_qkv", linear) is True
    assert qwen3_5.quantisation_of("vision_tower.blocks.0.attn.qkv", linear) is False
    assert qwen3_5.quantisation_of(f"{layer}.input_layernorm", norm) is False
    for gate in ("mlp.gate", "mlp.shared_expert_gate", "linear_attn.in_proj_a", "linear_attn.in_proj_b"):
        for module, group_size in ((linear, 64), (narrow, 32)):
            expected = {"group_size": group_size, "bits": 8, "mode": "affine"}
            assert qwen3_5.quantisation_of(f"{layer}.{gate}", module) == expected


def test_weights_that_do_not_fit_are_refused_only_where_all_are_wanted() -> None:
    """As nn.Module has it: an adapter's are some of many."""
    model = Model(text_only())
    some = [("language_model.model.norm.weight", mx.full((64,), 3.0))]
    with pytest.raises(CheckpointError):
        model.load_weights(some)
    assert model.load_weights(some, strict=False) is model
    assert model.language_model.model.norm.weight[0].item() == 3.0


def test_what_a_model_does_not_have_is_left_out_of_a_checkpoint() -> None:
    """Weights of a tower where config.json describes none; and the module that drafts ahead."""
    model = Model(text_only())
    own = dict(tree_flatten(model.parameters()))
    others = {"vision_tower.patch_embed.proj.bias": mx.zeros(1), "mtp.fc.weight": mx.zeros((1, 1))}
    assert set(model.sanitize({**own, **others})) == set(own)
