"""Text against unpatched mlx-lm: bit-identical logits and caches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.qwen3_5 import Model as UpstreamModel
from mlx_lm.utils import load_model

from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.patches.qwen3_5 import Model
from mlx_qwen35.state.cache import AttentionCache
from tests.tiny import Shape

TOKENS = np.random.Generator(np.random.PCG64(5)).integers(0, 320, (3, 40))


@pytest.fixture(scope="module", params=[mx.float32, mx.bfloat16], ids=["fp32", "bf16"])
def pair(
    request: pytest.FixtureRequest, dense_and_moe: Shape, checkpoint_dir: Callable[[Shape], Path]
) -> tuple[Any, Any]:
    """The patched and the unpatched model with the same weights, in one process."""
    directory = checkpoint_dir(dense_and_moe)
    patched = Model.from_checkpoint(Checkpoint.open(directory), exact=True)
    unpatched, _ = load_model(directory)
    assert isinstance(unpatched, UpstreamModel)
    assert type(unpatched) is not type(patched)
    for model in (patched, unpatched):
        model.update(tree_map(lambda value: value.astype(request.param), model.parameters()))
        if request.param != mx.float32 and not mx.metal.is_available():
            # MLX's CPU backend multiplies unquantised experts in float32 only.
            nn.quantize(model, 32, 8, class_predicate=lambda path, _: path.endswith("_proj") and "switch" in path)
    return patched, unpatched


def assert_identical(one: Any, other: Any) -> None:
    """Equal to the last bit, and not because both are empty."""
    left, right = dict(tree_flatten(one)), dict(tree_flatten(other))
    assert left.keys() == right.keys()
    assert left
    for name, value in left.items():
        if isinstance(value, mx.array):
            assert value.dtype == right[name].dtype
            assert mx.array_equal(value, right[name]).item(), name


def stored(cache: list[Any]) -> list[Any]:
    """Keys and values, or GDN states, of every layer."""
    return [
        list(layer.keys_and_values()) if hasattr(layer, "keys_and_values") else list(layer.cache) for layer in cache
    ]


def test_uncached(pair: tuple[Any, Any]) -> None:
    patched, unpatched = pair
    tokens = mx.array(TOKENS)
    assert_identical([patched(tokens)], [unpatched(tokens)])


def test_cached_prefill_and_decode(pair: tuple[Any, Any]) -> None:
    patched, unpatched = pair
    caches = patched.make_cache(), unpatched.make_cache()
    assert any(isinstance(layer, AttentionCache) for layer in caches[0])
    for chunk in (TOKENS[:1, :17], TOKENS[:1, 17:30], TOKENS[:1, 30:31], TOKENS[:1, 31:32]):
        tokens = mx.array(chunk)
        assert_identical([patched(tokens, cache=caches[0])], [unpatched(tokens, cache=caches[1])])
        assert_identical(stored(caches[0]), stored(caches[1]))


def test_batched_cache(pair: tuple[Any, Any]) -> None:
    """Rows of different lengths, prefilled apart, then decoded together."""
    rows = []
    for model in pair:
        caches = []
        for length in (9, 23, 16):
            cache = model.make_cache()
            model(mx.array(TOKENS[:1, :length]), cache=cache)
            caches.append(cache)
        batch = [layers[0].merge(list(layers)) for layers in zip(*caches, strict=True)]
        logits = [model(mx.array(TOKENS[:, step : step + 1]), cache=batch) for step in range(4)]
        rows.append((logits, stored(batch)))
    assert_identical(rows[0], rows[1])


def test_padded_batch(pair: tuple[Any, Any]) -> None:
    """mlx-lm's own batched prefill with right padding."""
    rows = []
    for model in pair:
        batch = [layer.merge([layer, layer, layer]) for layer in model.make_cache()]
        for layer in batch:
            layer.prepare(lengths=[40, 22, 31], right_padding=[0, 18, 9])
        model(mx.array(TOKENS), cache=batch)
        for layer in batch:
            layer.finalize()
        rows.append(([model(mx.array(TOKENS[:, :1]), cache=batch)], stored(batch)))
    assert_identical(rows[0], rows[1])


def test_quantised_key_values(pair: tuple[Any, Any]) -> None:
    """mlx-lm's kv_bits converts the patched cache as it converts its own."""
    outs = []
    for model in pair:
        cache = model.make_cache()
        model(mx.array(TOKENS[:1]), cache=cache)
        quantised = [
            layer.to_quantized(group_size=32, bits=8) if hasattr(layer, "to_quantized") else layer for layer in cache
        ]
        outs.append([model(mx.array(TOKENS[1:2, at : at + 1]), cache=quantised) for at in range(2)])
    assert_identical(outs[0], outs[1])
