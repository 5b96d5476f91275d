"""Attention over quantised keys and values, against attention over the numbers that they stand for."""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen35.patches.operations import CpuOperations, CudaOperations, GpuOperations, Operations
from mlx_qwen35.state.quantized_cache import QuantizedAttentionCache

HEADS, KV_HEADS, DIM, STORED = 6, 2, 64, 37


def drawn(seed: int, *shape: int) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def expected(queries: mx.array, keys: mx.array, values: mx.array, allowed: np.ndarray | None) -> np.ndarray:
    """Softmax attention as it is written down, in float64."""
    q, k, v = (np.array(x, dtype=np.float64) for x in (queries, keys, values))
    k, v = (x.repeat(HEADS // KV_HEADS, axis=1) for x in (k, v))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(DIM)
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out: np.ndarray = weights / weights.sum(-1, keepdims=True) @ v
    return out


def setting(bits: int, rows: int = 1) -> tuple[QuantizedAttentionCache, Any, Any, mx.array, mx.array]:
    """A cache, what it gives, and the numbers that this stands for."""
    cache = QuantizedAttentionCache(group_size=32, bits=bits)
    keys, values = cache.update_and_fetch(drawn(1, rows, KV_HEADS, STORED, DIM), drawn(2, rows, KV_HEADS, STORED, DIM))
    opened = [mx.dequantize(*array, group_size=32, bits=bits) for array in (keys, values)]
    return cache, keys, values, opened[0], opened[1]


@pytest.fixture
def on_the_cpu() -> Iterator[None]:
    """For what only MLX's CPU backend computes, wherever the tests run."""
    with mx.stream(mx.cpu):
        yield


NOT_ON_CUDA = pytest.mark.skipif(mx.cuda.is_available(), reason="this backend reads no part of a packed array")
DEVICES = [
    pytest.param(GpuOperations(), id="as on a GPU", marks=NOT_ON_CUDA),
    pytest.param(CudaOperations(), id="as on CUDA"),
    pytest.param(CpuOperations(), id="as on the CPU"),
]


@pytest.fixture(params=DEVICES)
def operations(request: pytest.FixtureRequest) -> Operations:
    found: Operations = request.param
    if isinstance(found, CpuOperations):
        request.getfixturevalue("on_the_cpu")
    return found


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_it_is_attention_over_what_is_stored(operations: Operations, bits: int, length: int) -> None:
    cache, keys, values, plain_keys, plain_values = setting(bits)
    queries = drawn(3, 1, HEADS, length, DIM)
    mask = "causal" if length > 1 else None
    found = operations.attention(queries, keys, values, scale=DIM**-0.5, mask=mask, cache=cache)
    allowed = np.arange(STORED - length, STORED)[:, None] >= np.arange(STORED)
    np.testing.assert_allclose(np.array(found), expected(queries, plain_keys, plain_values, allowed), atol=2e-6)


@pytest.mark.parametrize("length", [1, 3])
def test_a_row_does_not_look_at_its_padding(operations: Operations, length: int) -> None:
    cache, keys, values, plain_keys, plain_values = setting(8, rows=2)
    queries = drawn(3, 2, HEADS, length, DIM)
    allowed = (np.arange(STORED - length, STORED)[:, None] >= np.arange(STORED)) & (
        np.arange(STORED) >= np.array([0, 30])[:, None, None, None]
    )
    found = operations.attention(queries, keys, values, scale=DIM**-0.5, mask=mx.array(allowed), cache=cache)
    np.testing.assert_allclose(np.array(found), expected(queries, plain_keys, plain_values, allowed), atol=2e-6)


@pytest.mark.parametrize("rows", [1, 2])
def test_drafts_are_verified_to_the_bit_as_single_tokens_would_be(operations: Operations, rows: int) -> None:
    """Each sees what is stored up to itself."""
    cache, keys, values, *_ = setting(4, rows)
    queries = drawn(3, rows, HEADS, 3, DIM)
    mask: Any = "causal"
    if rows > 1:
        mask = mx.array(np.broadcast_to(np.tri(3, STORED, STORED - 3, dtype=bool), (rows, 1, 3, STORED)))
    found = operations.attention_in_steps(queries, keys, values, scale=DIM**-0.5, mask=mask, cache=cache)
    for number in range(3):
        seen = STORED - 2 + number
        parts = [tuple(array[:, :, :seen] for array in part) for part in (keys, values)]
        single = operations.attention(
            queries[:, :, number : number + 1], *parts, scale=DIM**-0.5, mask=None, cache=cache
        )
        if rows == 1:
            assert mx.array_equal(found[:, :, number : number + 1], single).item()
        np.testing.assert_allclose(np.array(found[:, :, number : number + 1]), np.array(single), atol=1e-6)


@pytest.mark.parametrize("length", [1, 9])
def test_half_precision_stays_what_it_is(operations: Operations, length: int) -> None:
    """To its own rounding."""
    cache = QuantizedAttentionCache(group_size=32, bits=8)
    half = [drawn(seed, 1, KV_HEADS, STORED, DIM).astype(mx.bfloat16) for seed in (1, 2)]
    keys, values = cache.update_and_fetch(*half)
    opened = [mx.dequantize(*array, group_size=32, bits=8).astype(mx.float32) for array in (keys, values)]
    queries = drawn(3, 1, HEADS, length, DIM).astype(mx.bfloat16)
    mask = "causal" if length > 1 else None
    found = operations.attention(queries, keys, values, scale=DIM**-0.5, mask=mask, cache=cache)
    assert found.dtype == mx.bfloat16
    allowed = np.arange(STORED - length, STORED)[:, None] >= np.arange(STORED)
    wanted = expected(queries.astype(mx.float32), opened[0], opened[1], allowed)
    np.testing.assert_allclose(np.array(found.astype(mx.float32)), wanted, atol=0.02)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32], ids=str)
def test_a_query_that_may_look_nowhere_becomes_no_number_that_spreads(operations: Operations, dtype: mx.Dtype) -> None:
    """As of a row that is padding only."""
    cache = QuantizedAttentionCache(group_size=32, bits=8)
    keys, values = cache.update_and_fetch(*(drawn(seed, 1, KV_HEADS, STORED, DIM).astype(dtype) for seed in (1, 2)))
    queries = drawn(3, 1, HEADS, 1, DIM).astype(dtype)
    nowhere = mx.zeros((1, 1, 1, STORED), mx.bool_)
    found = operations.attention(queries, keys, values, scale=DIM**-0.5, mask=nowhere, cache=cache)
    assert mx.isfinite(found).all().item()


@pytest.mark.parametrize("scale", [0.03, 0.5])
def test_the_scale_is_the_caller_s(operations: Operations, scale: float) -> None:
    """To 1e-5: with larger scores than usual, roundings of scores count for more."""
    cache, keys, values, plain_keys, plain_values = setting(8)
    for length in (1, 5):
        queries = drawn(3, 1, HEADS, length, DIM)
        found = operations.attention(queries, keys, values, scale=scale, mask=None, cache=cache)
        wanted = expected(queries * (scale * DIM**0.5), plain_keys, plain_values, None)
        np.testing.assert_allclose(np.array(found), wanted, atol=1e-5)


def test_drafts_of_rows_do_not_look_at_their_padding(operations: Operations) -> None:
    """Verified one by one too, each with its own row of the mask."""
    cache, keys, values, plain_keys, plain_values = setting(8, rows=2)
    queries = drawn(3, 2, HEADS, 3, DIM)
    allowed = np.tri(3, STORED, STORED - 3, dtype=bool) & (np.arange(STORED) >= np.array([0, 30])[:, None, None, None])
    found = operations.attention_in_steps(queries, keys, values, scale=DIM**-0.5, mask=mx.array(allowed), cache=cache)
    np.testing.assert_allclose(np.array(found), expected(queries, plain_keys, plain_values, allowed), atol=2e-6)


@pytest.mark.usefixtures("on_the_cpu")
def test_on_the_cpu_half_precision_is_rounded_once() -> None:
    """One query over packed numbers, and several over numbers written out."""
    cache = QuantizedAttentionCache(group_size=32, bits=8)
    keys, values = cache.update_and_fetch(
        *(drawn(seed, 1, KV_HEADS, STORED, DIM).astype(mx.bfloat16) for seed in (1, 2))
    )
    opened = [
        mx.dequantize(array[0], *(x.astype(mx.float32) for x in array[1:]), group_size=32, bits=8)
        for array in (keys, values)
    ]
    for length in (1, 9):
        queries = drawn(3, 1, HEADS, length, DIM).astype(mx.bfloat16)
        # By no power of two, so that a query that is scaled in half precision is another one.
        found = CpuOperations().attention(queries, keys, values, scale=0.1, mask=None, cache=cache)
        scaled = queries.astype(mx.float32) * (0.1 * DIM**0.5)
        wanted = mx.array(expected(scaled, *opened, None).astype(np.float32)).astype(mx.bfloat16)
        assert (found != wanted).astype(mx.float32).mean().item() < 0.01


def test_on_cuda_no_part_of_a_packed_array_is_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache with room for more gives such parts, and that backend raises."""
    cache, keys, values, *_ = setting(8)
    assert memoryview(keys[0]).strides[1] > keys[0].shape[2] * memoryview(keys[0]).strides[2]
    monkeypatch.setattr(mx, "quantized_matmul", None)
    for length in (1, 2):
        queries = drawn(3, 1, HEADS, length, DIM)
        for attend in (CudaOperations().attention, CudaOperations().attention_in_steps):
            found = attend(queries, keys, values, scale=DIM**-0.5, mask="causal", cache=cache)
            assert mx.isfinite(found).all().item()
