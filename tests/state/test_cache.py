"""Caches: two numbers, rows of a batch, cuts, and what a saved one holds."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import ref

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import ArraysCache, KVCache

from mlx_qwen35.errors import CacheError
from mlx_qwen35.prompts.positions import lay_out
from mlx_qwen35.state.cache import AttentionCache, BatchAttentionCache, GatedDeltaCache, attach_media
from mlx_qwen35.state.media import PromptMedia
from mlx_qwen35.state.quantized_cache import QuantizedAttentionCache

PAD = 9


def media_of(*pieces: int | tuple[int, int]) -> PromptMedia:
    """A prompt of text lengths and merged image grids."""
    ids: list[int] = []
    grids = []
    for piece in pieces:
        ids += [1] * piece if isinstance(piece, int) else [PAD] * (piece[0] * piece[1])
        grids += [] if isinstance(piece, int) else [(1, *piece)]
    layout = lay_out(ids, grids, image_token_id=PAD)
    assert layout is not None
    return PromptMedia(layout, [mx.ones((h * w, 4)) * (number + 1) for number, (_, h, w) in enumerate(grids)])


def filled(tokens: int, media: PromptMedia | None = None) -> AttentionCache:
    """A cache that stores this many tokens, each with its own keys."""
    cache = AttentionCache(media)
    keys = mx.arange(tokens, dtype=mx.float32)[None, None, :, None] + mx.zeros((1, 1, tokens, 4))
    cache.update_and_fetch(keys, keys)
    return cache


def test_offset_is_a_position_and_size_a_number_of_tokens() -> None:
    media = media_of(3, (2, 3), 4, (1, 5), 2)
    expected = {0: 0, 2: 2, 9: 6, 12: 9, 18: 15, 20: 17, 25: 22}
    for tokens, position in expected.items():
        cache = filled(tokens, media) if tokens else AttentionCache(media)
        assert (cache.size(), cache.offset) == (tokens, position)
    assert filled(7).offset == 7


def test_images_are_unread_until_the_cache_has_passed_them() -> None:
    media = media_of(3, (2, 3), 4, (1, 5), 2)
    assert [filled(tokens, media).media_ahead() is media for tokens in (2, 8, 9, 17, 18)] == [True] * 4 + [False]
    assert [filled(9, media).media_ahead(tokens) is media for tokens in (1, 4, 5)] == [False, False, True]
    assert filled(5).media_ahead() is None


def test_embeddings_are_placed_chunk_by_chunk_and_let_go() -> None:
    media = media_of(2, (1, 3), 1, (1, 2))
    first = media.place(mx.zeros((1, 4, 4)), 0)
    np.testing.assert_array_equal(np.array(first)[0, :, 0], [0, 0, 1, 1])
    assert media.features[0] is not None
    second = media.place(mx.zeros((1, 4, 4)), 4)
    np.testing.assert_array_equal(np.array(second)[0, :, 0], [1, 0, 2, 2])
    assert media.features == [None, None]
    with pytest.raises(CacheError, match="image 1 was read before"):
        media.place(mx.zeros((1, 4, 4)), 0)


def test_placed_embeddings_have_the_chunk_s_dtype() -> None:
    """A tower may be more precise than the decoder."""
    media = media_of(2, (1, 3), 1)
    placed = media.place(mx.zeros((1, 6, 4), mx.bfloat16), 0)
    assert placed.dtype == mx.bfloat16
    assert placed[0, :, 0].tolist() == [0, 0, 1, 1, 1, 0]


def test_an_empty_cache_holds_nothing() -> None:
    for cache in (AttentionCache(), QuantizedAttentionCache()):
        assert cache.empty()
        assert (cache.size(), cache.offset, cache.nbytes) == (0, 0, 0)
        assert cache.trim(3) == 0


def test_a_cut_inside_an_image_is_refused_and_changes_nothing() -> None:
    cache = filled(14, media_of(3, (2, 3), 4, (1, 5), 2))
    with pytest.raises(CacheError, match="cannot rewind to token 6: expected a cut outside the image at tokens 3 to 9"):
        cache.trim(8)
    assert cache.size() == 14
    assert cache.trim(5) == 5
    assert (cache.size(), cache.offset) == (9, 6)
    assert cache.trim(100) == 9
    assert (cache.size(), cache.offset) == (0, 0)


def test_every_row_of_a_batch_keeps_its_own_delta() -> None:
    medias = [media_of(2, (2, 2), 1), None, media_of(1, (3, 3), 4)]
    rows = [filled(7, medias[0]), filled(11), filled(14, medias[2])]
    batch = AttentionCache.merge(rows)
    assert isinstance(batch, BatchAttentionCache)
    assert batch.offset.tolist() == [5, 11, 8]
    batch.update_and_fetch(mx.ones((3, 1, 1, 4)), mx.ones((3, 1, 1, 4)))
    assert batch.offset.tolist() == [6, 12, 9]
    batch.filter([2, 0])
    assert batch.offset.tolist() == [9, 6]
    other = AttentionCache.merge([filled(3)])
    batch.extend(other)
    assert batch.offset.tolist() == [9, 6, 3]
    for row, (tokens, position) in enumerate([(15, 9), (8, 6), (3, 3)]):
        cache = batch.extract(row)
        assert (cache.size(), cache.offset) == (tokens, position)
    batch.filter([1])
    assert (batch.extract(0).size(), batch.extract(0).offset) == (8, 6)


def test_extracted_rows_hold_what_they_held() -> None:
    batch = AttentionCache.merge([filled(3), filled(6, media_of(1, (2, 2), 1))])
    keys, _ = batch.extract(1).keys_and_values()
    np.testing.assert_array_equal(np.array(keys)[0, 0, :, 0], np.arange(6))


def test_empty_caches_make_an_empty_batch() -> None:
    batch = AttentionCache.merge([AttentionCache(), AttentionCache()])
    assert batch.empty()
    assert batch.offset.tolist() == [0, 0]


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_a_row_that_holds_nothing_takes_nothing_from_the_others(empty: int) -> None:
    """Wherever it stands in the batch."""
    medias = [None, media_of(1, (2, 2), 1), media_of(2, (1, 3), 2)]
    rows = [AttentionCache() if row == empty else filled(3 + 3 * row, media) for row, media in enumerate(medias)]
    batch = AttentionCache.merge(rows)
    assert batch.offset.tolist() == [cache.offset for cache in rows]
    for row, cache in enumerate(rows):
        found = batch.extract(row)
        assert (found.size(), found.offset) == (cache.size(), cache.offset)
        if row != empty:
            np.testing.assert_array_equal(np.array(found.keys_and_values()[0]), np.array(cache.keys_and_values()[0]))


def test_a_row_with_an_unread_image_may_not_join() -> None:
    with pytest.raises(CacheError, match="row 1: expected a cache that has read its images, found one at token 2 of 6"):
        AttentionCache.merge([filled(3), filled(2, media_of(2, (2, 2)))])


def test_quantising_keeps_tokens_and_positions() -> None:
    media = media_of(2, (2, 2), 1)
    cache = AttentionCache(media)
    cache.update_and_fetch(mx.random.normal((1, 1, 7, 64)), mx.random.normal((1, 1, 7, 64)))
    quantised = cache.to_quantized(group_size=32, bits=8)
    assert isinstance(quantised, QuantizedAttentionCache)
    assert (quantised.size(), quantised.offset, quantised.bits, quantised.group_size) == (7, 5, 8, 32)
    assert not hasattr(quantised, "to_quantized")
    assert 0 < quantised.nbytes < cache.nbytes


def test_state_survives_mlx_lm_s_own_files(tmp_path: Path) -> None:
    """save_prompt_cache and load_prompt_cache, with the patches in place."""
    from mlx_lm.models.cache import load_prompt_cache, save_prompt_cache

    from mlx_qwen35.patches import apply_patches

    gdn = GatedDeltaCache()
    gdn[0], gdn[1] = mx.ones((1, 3, 4)), mx.ones((1, 2, 4, 4))
    for media in (None, media_of(2, (2, 2), 1)):
        save_prompt_cache(str(tmp_path / "cache.safetensors"), [gdn, filled(7, media)])
        with apply_patches():
            state, cache = load_prompt_cache(str(tmp_path / "cache.safetensors"))
        assert isinstance(state, GatedDeltaCache)
        assert [array.tolist() for array in state.mark()] == [array.tolist() for array in gdn.mark()]
        assert isinstance(cache, AttentionCache)
        assert (cache.size(), cache.offset) == (7, 7 if media is None else 5)
        np.testing.assert_array_equal(np.array(cache.keys_and_values()[0]), np.array(filled(7).keys_and_values()[0]))


def test_a_restored_state_knows_all_of_its_images() -> None:
    """So that one which is cut back in front of the last of them does not pass for text."""
    media = media_of(1, (1, 2), 1, (1, 2), 1)
    cache = AttentionCache.from_state(filled(7, media).state)
    assert cache.media is not None
    assert cache.media.layout.spans == media.layout.spans
    assert cache.media_ahead() is None
    cache.trim(3)
    assert cache.media_ahead() is cache.media


def test_media_needs_a_cache_that_can_carry_it() -> None:
    media = media_of((2, 2))
    with pytest.raises(CacheError, match="expected an attention layer among these caches"):
        attach_media([ArraysCache(size=2), KVCache()], media)
    attach_media([ArraysCache(size=2)], None)
    caches = [ArraysCache(size=2), AttentionCache()]
    attach_media(caches, media)
    assert caches[1].media is media


@pytest.mark.parametrize("cut", range(20))
def test_a_sequence_is_cut_anywhere_but_inside_an_image(cut: int) -> None:
    """Exactly in front of an image and exactly behind it too; what is kept stands where it stood."""
    cache = filled(19, media_of(3, (2, 3), 4, (2, 2), 2))
    if 3 < cut < 9 or 13 < cut < 17:
        with pytest.raises(CacheError, match=f"cannot rewind to token {cut}: expected a cut outside the image"):
            cache.trim(19 - cut)
        assert (cache.size(), cache.offset) == (19, 14)
    else:
        assert cache.trim(19 - cut) == 19 - cut
        assert (cache.size(), cache.offset) == (cut, cut - (3 if cut >= 9 else 0) - (2 if cut >= 17 else 0))


@pytest.mark.parametrize("lost", range(1, 9))
@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 1, 0], [2, 1], [1, 0], [1]], ids=str)
def test_a_batch_is_cut_as_far_as_its_last_images(rows: list[int], lost: int) -> None:
    """Exactly behind an image too, whichever rows there are and however much they are padded."""
    sizes, ends = [9, 12, 17], [6, 0, 11]
    medias = [media_of(2, (2, 2), 3), None, media_of(1, (2, 3), 1, (1, 3), 6)]
    batch = AttentionCache.merge([filled(sizes[row], medias[row]) for row in rows])
    offsets = batch.offset.tolist()
    broken = [place for place, row in enumerate(rows) if sizes[row] - lost < ends[row]]
    if broken:
        row = rows[broken[0]]
        message = f"row {broken[0]}: expected a cut behind its last image at token {ends[row]}, .* {sizes[row] - lost}$"
        with pytest.raises(CacheError, match=message):
            batch.trim(lost)
        assert batch.offset.tolist() == offsets
    else:
        assert batch.trim(lost) == lost
        assert batch.offset.tolist() == [offset - lost for offset in offsets]
        assert [batch.extract(place).size() for place in range(len(rows))] == [sizes[row] - lost for row in rows]


def test_angles_are_computed_once_for_every_chunk() -> None:
    """All layers share them; another start or another length is another chunk."""
    media = media_of(3, (2, 3), 4)
    seen: list[list[list[int]]] = []

    def compute(position_ids: mx.array) -> tuple[mx.array, mx.array]:
        assert position_ids.shape[:2] == (3, 1)
        seen.append(position_ids[:, 0].tolist())  # type: ignore[arg-type]
        return position_ids, -position_ids

    chunks = [(0, 6), (0, 6), (0, 8), (2, 6), (2, 6), (8, 6)]
    for start, length in chunks:
        cos, sin = media.angles(compute, start, length)
        expected = media.layout.position_ids(start, start + length)
        np.testing.assert_array_equal(np.array(cos[:, 0]), expected)
        np.testing.assert_array_equal(np.array(sin[:, 0]), -expected)
    assert len(seen) == len(set(chunks)) == 4


def test_a_row_may_not_join_whose_image_comes_later() -> None:
    """Behind text, and behind an image that was read: where it stands is a number of tokens, not a position."""
    media = media_of(1, (2, 2), 2, (2, 2))
    with pytest.raises(CacheError, match="row 0: expected .*, found one at token 5 of 11"):
        AttentionCache.merge([filled(5, media), filled(3)])


def test_all_attention_layers_get_the_images() -> None:
    media = media_of((2, 2))
    caches = [AttentionCache(), GatedDeltaCache(), AttentionCache(), QuantizedAttentionCache()]
    attach_media(caches, media)
    assert [cache.media is media for cache in caches if cache is not caches[1]] == [True] * 3
    attach_media(caches, None)
    assert [cache.media for cache in caches if cache is not caches[1]] == [None] * 3


def test_it_is_quantised_as_mlx_lm_quantises_unless_it_is_told_how() -> None:
    theirs, own = KVCache().to_quantized(), AttentionCache().to_quantized()
    assert isinstance(own, QuantizedAttentionCache)
    assert (own.group_size, own.bits) == (theirs.group_size, theirs.bits)


@pytest.mark.parametrize("kind", ["sequence", "quantised", "batch", "GDN"])
def test_a_step_that_may_be_forgotten_ends_with_what_is_kept(kind: str) -> None:
    """What is read afterwards is read as before."""
    cache: Any
    if kind == "GDN":
        cache = GatedDeltaCache()
    else:
        cache = QuantizedAttentionCache(group_size=32) if kind == "quantised" else filled(3)
        cache = AttentionCache.merge([filled(3), filled(4)]) if kind == "batch" else cache
    rows = 2 if kind == "batch" else 1
    for kept in ([3, 3], [1, 2]):
        assert not cache.verifying
        cache.begin_step()
        assert cache.verifying
        if kind == "GDN":
            cache.cache = [mx.zeros((1, 3, 4)), mx.zeros((1, 2, 4, 4))]
            cache.verified(mx.ones((1, 2, 4, 4)), mx.ones((1, 6, 4)), lambda kept: [mx.zeros(1), mx.zeros(1)])
        else:
            width = 32 if kind == "quantised" else 4
            cache.update_and_fetch(mx.ones((rows, 1, 3, width)), mx.ones((rows, 1, 3, width)))
        cache.settle(3, kept[:rows])
        assert not cache.verifying


@pytest.mark.parametrize(("kept", "asked"), [([3, 3], False), ([3, 1], True), ([0, 3], True), ([2, 2], True)], ids=str)
def test_a_gdn_layer_reads_again_unless_every_row_keeps_everything(kept: list[int], asked: bool) -> None:
    """And what it would read again from is let go."""
    cache = GatedDeltaCache()
    cache.cache = [mx.zeros((2, 3, 4)), mx.zeros((2, 2, 4, 4))]
    calls: list[list[int]] = []

    def again(kept: Sequence[int]) -> list[mx.array]:
        calls.append(list(kept))
        return [mx.full((1,), 7.0), mx.full((1,), 8.0)]

    cache.begin_step()
    inputs = mx.arange(2 * 6 * 4).reshape(2, 6, 4)
    cache.verified(mx.ones((2, 2, 4, 4)), inputs, again)
    cache.settle(3, kept)
    assert calls == ([kept] if asked else [])
    if asked:
        assert [array.tolist() for array in cache.cache] == [[7.0], [8.0]]
    else:
        assert cache.cache[0].tolist() == inputs[:, 3:].tolist()
        assert cache.cache[1].tolist() == mx.ones((2, 2, 4, 4)).tolist()
    held = ref(again)
    del again
    gc.collect()
    assert held() is None


@pytest.mark.parametrize("read", [(), (1,), (0, 1)], ids=str)
def test_no_row_of_gdn_states_is_read_with_a_mask(read: tuple[int, ...]) -> None:
    """However many of the sequences were read before they became rows, and whoever joins them."""
    rows = [GatedDeltaCache(), GatedDeltaCache()]
    for row in read:
        rows[row].cache = [mx.zeros((1, 3, 4)), mx.zeros((1, 2, 4, 4))]
    batch = GatedDeltaCache.merge(rows)
    assert batch.make_mask(3) is None
    batch.cache = [mx.zeros((2, 3, 4)), mx.zeros((2, 2, 4, 4))]
    batch.extend(batch.extract(0))
    assert batch.make_mask(3) is None


def test_what_a_gdn_layer_cannot_be_restored_from_is_told() -> None:
    pair, cache = [mx.zeros((1, 3, 4)), mx.zeros((1, 2, 4, 4))], GatedDeltaCache()
    assert cache.check(3, (), pair) is None
    assert cache.check(3, (), pair[:1]) == "it has 1 arrays"
    assert cache.check(3, (), [*pair, pair[0]]) == "it has 3 arrays"
    assert cache.check(3, pair, pair) is not None


def test_what_an_attention_layer_cannot_be_restored_from_is_told() -> None:
    cache = filled(7)
    held = cache.held()
    assert cache.check(7, held, ()) is None
    for arrays, mark in ((held[:1], ()), (held * 2, ()), (held, held[:1]), ((), ())):
        assert cache.check(7, arrays, mark) == "it does not hold 7 tokens"
    assert cache.check(len(held[0][0, 0]) + 1, held, ()) is not None


def test_rows_that_keep_different_numbers_of_drafts_leave_no_growing_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step moves one of two rows by a token; the room in front of both is given back now and then."""
    batch = AttentionCache.merge([filled(3), filled(3)])
    batch.step = 4
    calls: list[list[int]] = []
    keep = BatchAttentionCache.filter

    def counted(self: BatchAttentionCache, rows: list[int]) -> None:
        calls.append(rows)
        keep(self, rows)

    monkeypatch.setattr(BatchAttentionCache, "filter", counted)
    gaps = []
    for step in range(12):
        batch.begin_step()
        batch.update_and_fetch(mx.ones((2, 1, 2, 4)), mx.ones((2, 1, 2, 4)))
        batch.settle(2, [1, 2] if step % 2 else [2, 1])
        gaps.append(min(batch.left_padding.tolist()))
    assert max(gaps) < 4
    assert calls == [[0, 1]] * 3
    assert [batch.extract(row).size() for row in range(2)] == [21, 21]
