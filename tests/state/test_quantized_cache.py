"""Quantised caches, alone and as rows: whatever is done to their tokens, each stays what it was when it was stored."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen35.errors import OptionError
from mlx_qwen35.state.cache import AttentionCache, make_caches
from mlx_qwen35.state.kv_quantization import (
    KvQuantization,
    check_head_dim,
    check_kv_quantization,
)
from mlx_qwen35.state.quantized_cache import BatchQuantizedAttentionCache, Quantized, QuantizedAttentionCache
from tests.state.test_cache import media_of

DIM = 64


def drawn(seed: int, tokens: int, rows: int = 1) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal((rows, 2, tokens, DIM)).astype(np.float32))


def filled(seed: int, tokens: int, bits: int = 8) -> QuantizedAttentionCache:
    cache = QuantizedAttentionCache(group_size=32, bits=bits)
    cache.update_and_fetch(drawn(seed, tokens), drawn(seed + 1000, tokens))
    return cache


def opened(array: Quantized, bits: int = 8) -> np.ndarray:
    """The numbers that a quantised array stands for."""
    return np.array(mx.dequantize(*array, group_size=32, bits=bits))


def quantised(array: mx.array, bits: int = 8) -> np.ndarray:
    """What MLX makes of numbers that are quantised and restored."""
    packed, scales, biases = mx.quantize(array, group_size=32, bits=bits)
    return opened((packed, scales, biases), bits)


@pytest.mark.parametrize("bits", [8, 4])
def test_what_is_stored_differs_by_half_a_step_at_most(bits: int) -> None:
    keys, values = filled(1, 300, bits).keys_and_values()
    for found, seed in ((keys, 1), (values, 1001)):
        given = np.array(drawn(seed, 300)).reshape(1, 2, 300, -1, 32)
        step = (given.max(-1, keepdims=True) - given.min(-1, keepdims=True)) / (2**bits - 1)
        # A group's edges are moved so that 0 is one of its numbers, by half a step again.
        error = np.abs(opened(found, bits).reshape(given.shape) - given)
        assert (error <= 1.02 * step).all()
        assert error.mean() <= 0.3 * step.mean()


def test_chunks_are_stored_as_a_whole_is() -> None:
    """Across the edge where the buffer grows."""
    whole, cut = filled(1, 300), QuantizedAttentionCache(group_size=32)
    keys, values = drawn(1, 300), drawn(1001, 300)
    for start, stop in ((0, 7), (7, 255), (255, 257), (257, 300)):
        cut.update_and_fetch(keys[:, :, start:stop], values[:, :, start:stop])
    for one, other in zip(whole.keys_and_values(), cut.keys_and_values(), strict=True):
        assert all(mx.array_equal(a, b).item() for a, b in zip(one, other, strict=True))


def test_it_takes_less_room_by_as_much_as_is_said() -> None:
    plain = AttentionCache()
    plain.update_and_fetch(drawn(1, 256), drawn(2, 256))
    for bits in (8, 4):
        cache = plain.to_quantized(group_size=32, bits=bits)
        assert cache.nbytes == KvQuantization(bits, 32).nbytes(2 * 2 * 256 * DIM, dtype_size=4)
        assert cache.nbytes < plain.nbytes


def test_a_restored_sequence_is_what_it_was_at_its_place_and_goes_its_own_way() -> None:
    cache = filled(1, 20)
    held = cache.held()
    assert cache.check(20, held, ()) is None
    assert cache.check(20, held[:2], ()) == "it does not hold 20 tokens"
    cache.trim(5)
    cache.update_and_fetch(drawn(7, 30), drawn(8, 30))
    for tokens in (20, 12):
        restored = QuantizedAttentionCache(group_size=32)
        restored.restore(tokens, held, ())
        restored.update_and_fetch(drawn(9, 1), drawn(10, 1))
        keys, _ = restored.keys_and_values()
        expected = mx.concatenate([drawn(1, 20)[:, :, :tokens], drawn(9, 1)], axis=2)
        np.testing.assert_array_equal(opened(keys), quantised(expected))


def test_of_drafts_the_right_ones_stay() -> None:
    cache = filled(1, 10)
    cache.begin_step()
    cache.update_and_fetch(drawn(2, 4), drawn(3, 4))
    cache.settle(4, [1])
    keys, _ = cache.keys_and_values()
    np.testing.assert_array_equal(
        opened(keys), quantised(mx.concatenate([drawn(1, 10), drawn(2, 4)[:, :, :1]], axis=2))
    )


def test_rows_come_and_go_and_stay_what_they_were() -> None:
    """Merged, extended, filtered, taken back by different numbers of tokens, and taken out again."""
    lengths = {1: 300, 2: 7, 3: 40, 4: 255}
    batch = QuantizedAttentionCache.merge([filled(seed, lengths[seed]) for seed in (1, 2)])
    batch.extend(QuantizedAttentionCache.merge([filled(seed, lengths[seed]) for seed in (3, 4)]))
    batch.filter([1, 3, 2])
    order = [2, 4, 3]
    assert (batch.bits, batch.group_size) == (8, 32)
    batch.begin_step()
    batch.update_and_fetch(drawn(9, 5, rows=3), drawn(10, 5, rows=3))
    batch.settle(5, [2, 0, 3])
    assert batch.offset.tolist() == [lengths[2] + 2, lengths[4], lengths[3] + 3]
    for row, (seed, more) in enumerate(zip(order, (2, 0, 3), strict=True)):
        alone = batch.extract(row)
        assert (alone.size(), alone.bits, alone.group_size) == (lengths[seed] + more, 8, 32)
        for found, own, new in zip(alone.keys_and_values(), (seed, seed + 1000), (9, 10), strict=True):
            expected = mx.concatenate([drawn(own, lengths[seed]), drawn(new, 5, 3)[row : row + 1, :, :more]], axis=2)
            np.testing.assert_array_equal(opened(found), quantised(expected))


def test_where_all_rows_keep_all_drafts_nothing_is_taken_back() -> None:
    """Of none of the arrays that hold a number."""
    batch = QuantizedAttentionCache.merge([filled(seed, 7) for seed in (1, 2)])
    for step in range(2):
        batch.begin_step()
        batch.update_and_fetch(drawn(9 + step, 3, rows=2), drawn(19 + step, 3, rows=2))
        batch.settle(3, [3, 3])
    for row, seed in enumerate((1, 2)):
        keys, _ = batch.extract(row).keys_and_values()
        parts = [drawn(seed, 7), *(drawn(9 + step, 3, rows=2)[row : row + 1] for step in range(2))]
        np.testing.assert_array_equal(opened(keys), quantised(mx.concatenate(parts, axis=2)))


def test_all_that_rows_hold_counts_and_is_computed() -> None:
    """Packed numbers, scales and biases."""
    rows = [filled(seed, 256) for seed in (1, 2)]
    batch = QuantizedAttentionCache.merge(rows)
    assert batch.nbytes == sum(row.nbytes for row in rows)
    assert len(batch.state) == 3
    assert sum(array.nbytes for part in batch.state for array in part[:2]) == batch.nbytes


def test_a_row_keeps_its_positions() -> None:
    cache = QuantizedAttentionCache(media_of(2, (2, 2), 1), group_size=32)
    cache.update_and_fetch(drawn(1, 7), drawn(2, 7))
    batch = QuantizedAttentionCache.merge([cache, filled(3, 11)])
    assert batch.offset.tolist() == [5, 11]
    assert batch.extract(0).offset == 5


def test_empty_caches_make_an_empty_batch() -> None:
    batch = QuantizedAttentionCache.merge([QuantizedAttentionCache(group_size=32, bits=4) for _ in range(2)])
    assert isinstance(batch, BatchQuantizedAttentionCache)
    assert batch.empty()
    batch.update_and_fetch(drawn(1, 3, rows=2), drawn(2, 3, rows=2))
    assert (batch.bits, batch.extract(1).size()) == (4, 3)


def test_state_survives_mlx_lm_s_own_files(tmp_path: Path) -> None:
    from mlx_lm.models.cache import load_prompt_cache, save_prompt_cache

    from mlx_qwen35.patches import apply_patches

    cache = filled(1, 7, bits=4)
    save_prompt_cache(str(tmp_path / "cache.safetensors"), [cache])
    with apply_patches():
        (found,) = load_prompt_cache(str(tmp_path / "cache.safetensors"))
    assert isinstance(found, QuantizedAttentionCache)
    assert (found.size(), found.bits, found.group_size) == (7, 4, 32)
    for one, other in zip(found.keys_and_values(), cache.keys_and_values(), strict=True):
        np.testing.assert_array_equal(opened(one, 4), opened(other, 4))


def test_attention_layers_alone_are_quantised() -> None:
    caches = make_caches(("linear_attention", "full_attention"), 1, KvQuantization(4, 32))
    assert [type(cache).__name__ for cache in caches] == [
        "GatedDeltaCache", "QuantizedAttentionCache", "QuantizedAttentionCache"
    ]  # fmt: skip
    assert (caches[1].bits, caches[1].group_size) == (4, 32)
    assert [type(cache).__name__ for cache in make_caches(("full_attention",))] == ["AttentionCache"]


@pytest.mark.parametrize(
    ("bits", "group_size", "exact", "message"),
    [
        (3, None, False, "kv_bits: expected 8 or 4, found 3"),
        ("8", None, False, "kv_bits: expected 8 or 4, found '8'"),
        (True, None, False, "kv_bits: expected 8 or 4, found True"),
        (8, 48, False, "kv_group_size: expected 32, 64 or 128, found 48"),
        (None, 64, False, "kv_group_size: expected with kv_bits, found 64 without"),
        (8, None, True, "kv_bits: expected none where exact is asked for, found 8"),
        (4, 32, True, "kv_bits: expected none where exact is asked for, found 4"),
    ],
)
def test_options_that_make_no_sense_are_refused(bits: object, group_size: object, exact: bool, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        check_kv_quantization(bits, group_size, exact=exact)


def test_options_that_do() -> None:
    assert check_kv_quantization(None, None, exact=True) is None
    assert check_kv_quantization(4, None, exact=False) == KvQuantization(4, 64)
    assert check_kv_quantization(8, 128, exact=False) == KvQuantization(8, 128)


def test_heads_that_cannot_be_cut_into_groups_are_refused_with_what_would_do() -> None:
    check_head_dim(None, 80)
    check_head_dim(KvQuantization(8, 64), 256)
    with pytest.raises(OptionError, match="kv_group_size: expected 32 or 64 for this model, found 128, which does not"):
        check_head_dim(KvQuantization(8, 128), 64)
    with pytest.raises(OptionError, match="kv_bits: expected none for this model, .* heads of 80, nor does any other"):
        check_head_dim(KvQuantization(8, 64), 80)
