"""The attention layer against mlx-lm's own, over every kind of cache and mask."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache
from mlx_lm.models.qwen3_5 import Attention

from mlx_qwen35.patches.attention import PatchedAttention
from mlx_qwen35.patches.operations import UPSTREAM, CpuOperations
from mlx_qwen35.patches.qwen3_5 import Model, TextModelArgs
from mlx_qwen35.state.cache import AttentionCache
from tests.conftest import Bench
from tests.parity.cases import CASES, TEXT_TOLERANCE
from tests.patches.test_gated_delta import assert_close
from tests.tiny import DENSE, MOE, Shape

# Attention comes first, so that what is quantised is the same to the last bit in every model.
FIRST = [
    replace(shape, name=f"{shape.name}-attention-first", layer_types=("full_attention", "linear_attention"))
    for shape in (DENSE, MOE)
]


@pytest.fixture(params=[UPSTREAM, CpuOperations()], ids=["as on a GPU", "as on the CPU"])
def layers(request: pytest.FixtureRequest, benches: Callable[[Shape], Bench]) -> tuple[Any, Any]:
    """Ours and mlx-lm's with the same weights."""
    args = TextModelArgs.from_config(benches(DENSE).checkpoint.config, exact=False, gated_delta="chunked")
    ours, theirs = PatchedAttention(replace(args, operations=request.param)), Attention(args)
    theirs.update(benches(DENSE).model.layers[3].self_attn.parameters())
    ours.update(theirs.parameters())
    ours.eval()
    return ours, theirs


def hidden(rows: int, length: int) -> mx.array:
    return mx.random.normal((rows, length, 64), key=mx.random.key(length))


@pytest.mark.parametrize("stored", [0, 9])
@pytest.mark.parametrize("length", [1, 2, 70])
def test_a_layer_attends_as_mlx_lm_s(layers: tuple[Any, Any], length: int, stored: int) -> None:
    """Oracle: mlx-lm 0.32.2, float32, 2e-6 of the scale: after stored tokens, and without a cache."""
    outs = []
    for layer, cache in zip(layers, (AttentionCache(), KVCache()), strict=True):
        if stored:
            layer(hidden(1, stored), "causal", cache)
        mask = cache.make_mask(length, return_array=False, window_size=None)
        outs.append([layer(hidden(1, length), mask, cache), layer(hidden(3, length), "causal", None)])
    for found, expected in zip(*outs, strict=True):
        assert_close(found, expected, 2e-6)


@pytest.mark.parametrize("length", [1, 2, 70])
def test_rows_of_a_batch_do_not_look_at_their_padding(layers: tuple[Any, Any], length: int) -> None:
    """Rows that stored 9, 23 and 0 tokens; oracle: mlx-lm, float32, 2e-6 of the scale, each row alone."""
    ours, theirs = layers
    x, caches = hidden(3, length), []
    for stored in (9, 23, 0):
        caches.append(AttentionCache())
        if stored:
            ours(hidden(1, stored), "causal", caches[-1])
    batch = AttentionCache.merge(caches)
    found = ours(x, batch.make_mask(length), batch)
    for row, cache in enumerate(caches):
        mask = cache.make_mask(length, return_array=False, window_size=None)
        assert_close(found[row], theirs(x[row : row + 1], mask, cache)[0], 2e-6)


@pytest.mark.parametrize("shape", FIRST, ids=lambda shape: shape.name)
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_cache_is_read_as_the_exact_model_reads_it(
    benches: Callable[[Shape], Bench], shape: Shape, bits: int
) -> None:
    """Several tokens, an image among them, then single ones; float32, against mlx-lm's own attention."""
    bench, case = benches(shape), CASES["square image"]
    exact = Model.from_checkpoint(bench.checkpoint, exact=True)
    prompt = bench.prompt(list(case.input_ids), case.images)
    assert prompt.layout is not None
    start = prompt.layout.spans[0].start
    tokens = mx.array(prompt.input_ids)[None]
    outs = []
    for model in (bench.model, exact):
        cache = bench.cache(prompt)
        model(tokens[:, : start - 5], cache=cache)
        cache[0] = cache[0].to_quantized(group_size=32, bits=bits)
        edges = [start - 5, start, start + 6, tokens.shape[1] - 2, tokens.shape[1] - 1, tokens.shape[1]]
        parts = [model(tokens[:, a:b], cache=cache) for a, b in pairwise(edges)]
        assert cache[0].bits == bits
        assert cache[0].size() == tokens.shape[1]
        outs.append(mx.concatenate(parts, axis=1))
    assert_close(outs[0], outs[1], TEXT_TOLERANCE)
