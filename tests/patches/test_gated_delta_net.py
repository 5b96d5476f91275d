"""The GDN layer against mlx-lm's own: what it gives, and what it leaves in its cache."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_map
from mlx_lm.models.cache import ArraysCache
from mlx_lm.models.qwen3_5 import GatedDeltaNet

from mlx_qwen35.patches.gated_delta_net import PatchedGatedDeltaNet
from mlx_qwen35.patches.operations import UPSTREAM, CpuOperations
from mlx_qwen35.patches.qwen3_5 import TextModelArgs
from tests.conftest import Bench
from tests.patches.test_gated_delta import assert_close
from tests.tiny import DENSE, Shape

WAYS = [("native", True), ("chunked", False), ("chunked", True), ("fast", False), ("fast", True)]


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}{', on the CPU' if way[1] else ''}")
def layers(request: pytest.FixtureRequest, benches: Callable[[Shape], Bench]) -> tuple[Any, Any]:
    """Ours and mlx-lm's with the same weights."""
    way, on_cpu = request.param
    args = TextModelArgs.from_config(benches(DENSE).checkpoint.config, exact=False, gated_delta=way)
    ours, theirs = (
        PatchedGatedDeltaNet(replace(args, operations=CpuOperations() if on_cpu else UPSTREAM)),
        GatedDeltaNet(args),
    )
    for layer in (ours, theirs):
        layer.update(benches(DENSE).model.layers[0].linear_attn.parameters())
        layer.eval()
    return ours, theirs


def hidden(rows: int, length: int) -> mx.array:
    return mx.random.normal((rows, length, 64), key=mx.random.key(length))


def assert_states_close(cache: ArraysCache, row: int, expected: ArraysCache) -> None:
    for found, state in zip(cache.cache, expected.cache, strict=True):
        assert_close(found[row : row + 1], state, 5e-6)


@pytest.mark.some(12)
@pytest.mark.parametrize("edges", [(0, 37), (0, 20, 22, 23, 37), (0, 1, 2, 37)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_a_layer_reads_as_mlx_lm_s(layers: tuple[Any, Any], edges: tuple[int, ...], scale: float) -> None:
    """Whole and in pieces; also inputs so small that the norm of queries and keys is near its epsilon.

    Oracle: mlx-lm 0.32.2, float32, 5e-6 of the scale.
    """
    ours, theirs = layers
    x, cache, expected = hidden(2, 37) * scale, ArraysCache(size=2), ArraysCache(size=2)
    found = [ours(x[:, start:stop], None, cache) for start, stop in pairwise(edges)]
    whole = theirs(x, None, expected)
    assert_close(mx.concatenate(found, axis=1), whole, 5e-6)
    for row in range(2):
        assert_states_close(cache, row, expected.extract(row))
    assert_close(ours(x), whole, 5e-6)


@pytest.mark.parametrize("width", [16, 64])
def test_keys_and_values_may_be_of_different_widths(benches: Callable[[Shape], Bench], width: int) -> None:
    """No published size has that, config.json may. Oracle: mlx-lm, with the same weights."""
    args = TextModelArgs.from_config(benches(DENSE).checkpoint.config, exact=False, gated_delta="chunked")
    assert args.linear_key_head_dim == 32
    args = replace(args, linear_value_head_dim=width, operations=CpuOperations())
    ours, theirs = PatchedGatedDeltaNet(args), GatedDeltaNet(args)
    weights = tree_map(lambda value: mx.random.normal(value.shape, key=mx.random.key(3)) * 0.2, theirs.parameters())
    for layer in (ours, theirs):
        layer.update(weights)
        layer.eval()
    cache, expected = ArraysCache(size=2), ArraysCache(size=2)
    assert_close(ours(hidden(2, 37), None, cache), theirs(hidden(2, 37), None, expected), 5e-6)
    for row in range(2):
        assert_states_close(cache, row, expected.extract(row))


@pytest.mark.parametrize("edges", [(0, 40), (0, 16, 32, 40), (0, 22, 23, 24, 40)], ids=str)
def test_padding_on_the_right_changes_nothing(layers: tuple[Any, Any], edges: tuple[int, ...]) -> None:
    """Rows of 40, 22, 31 and 2 tokens; one may end before a piece begins. Oracle: mlx-lm, each row alone."""
    ours, theirs = layers
    lengths = [40, 22, 31, 2]
    x, cache = hidden(4, 40), ArraysCache(size=2)
    cache.prepare(lengths=lengths)
    found = [ours(x[:, a:b], cache.make_mask(b - a), cache) for a, b in pairwise(edges)]
    assert cache.lengths.tolist() == [length - 40 for length in lengths]
    for row, length in enumerate(lengths):
        alone = ArraysCache(size=2)
        expected = theirs(x[row : row + 1, :length], None, alone)
        assert_close(mx.concatenate(found, axis=1)[row : row + 1, :length], expected, 5e-6)
        assert_states_close(cache, row, alone)


@pytest.mark.parametrize("edges", [(0, 40), (0, 3, 7, 40), (0, 1, 2, 3, 4, 5, 40)], ids=str)
def test_padding_on_the_left_changes_nothing(layers: tuple[Any, Any], edges: tuple[int, ...]) -> None:
    """Rows behind 4, 0 and 5 tokens that mean nothing. Oracle: mlx-lm, each row alone."""
    ours, theirs = layers
    padding = [4, 0, 5]
    x, cache = hidden(3, 40), ArraysCache(size=2, left_padding=padding)
    found = [ours(x[:, a:b], cache.make_mask(b - a), cache) for a, b in pairwise(edges)]
    assert cache.left_padding.tolist() == [count - 40 for count in padding]
    for row, count in enumerate(padding):
        alone = ArraysCache(size=2)
        expected = theirs(x[row : row + 1, count:], None, alone)
        assert_close(mx.concatenate(found, axis=1)[row : row + 1, count:], expected, 5e-6)
        assert_states_close(cache, row, alone)


def test_half_precision_stays_what_it_is(layers: tuple[Any, Any]) -> None:
    """Outputs and the convolution's state as the weights; the recurrent state in float32; to bfloat16's roundings."""
    for layer in layers:
        layer.update(tree_map(lambda value: value.astype(mx.bfloat16), layer.parameters()))
    ours, theirs = layers
    x, cache, expected = hidden(1, 20).astype(mx.bfloat16), ArraysCache(size=2), ArraysCache(size=2)
    found, wanted = ours(x, None, cache), theirs(x, None, expected)
    assert found.dtype == cache[0].dtype == mx.bfloat16
    assert cache[1].dtype == mx.float32
    assert_close(found.astype(mx.float32), wanted.astype(mx.float32), 2**-5)
    assert_close(cache[1], expected[1], 2**-5)


def test_what_was_read_is_not_kept_alive_by_its_end(layers: tuple[Any, Any]) -> None:
    """The convolution's state is three inputs of a whole prompt's."""
    ours, _ = layers
    ours(hidden(1, 4), None, ArraysCache(size=2))
    cache = ArraysCache(size=2)
    x = hidden(1, 600)
    mx.eval(x, ours.parameters())
    before = mx.get_active_memory()
    ours(x, None, cache)
    mx.eval(cache.cache)
    assert mx.get_active_memory() - before < 2 * sum(array.nbytes for array in cache.cache)
