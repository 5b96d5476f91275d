"""The decoder with its module: drafts that are made leave nothing behind."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen35.checkpoints.mtp_heads import read_mtp_head
from mlx_qwen35.patches.mtp import MultiTokenPrediction
from mlx_qwen35.runtime.decoder import Decoder, Seed
from mlx_qwen35.state.sequence import SequenceState
from tests.conftest import Bench
from tests.tiny import Shape


@pytest.fixture
def decoder(benches: Callable[[Shape], Bench], dense_and_moe: Shape) -> Decoder:
    bench = benches(dense_and_moe)
    head = read_mtp_head(bench.checkpoint)
    assert head is not None
    return Decoder(bench.model, MultiTokenPrediction.from_head(bench.checkpoint.config, head))


def begun(decoder: Decoder, seed: int, length: int) -> tuple[SequenceState, Seed]:
    """A prompt that was read, and the module's output behind it."""
    ids = mx.array(np.random.default_rng(seed).integers(0, 300, (1, length)))
    state = decoder.make_state()
    decoder.read(ids[:, :-1], ids[:, 1:], state)
    return state, after(decoder, state, ids[:, -1:])


def after(decoder: Decoder, state: SequenceState, token: mx.array) -> Seed:
    """The module's output behind one more token of each row and the likeliest to follow."""
    logits, hidden = decoder.step(token, state)
    assert hidden is not None
    return decoder.settle_pairs(decoder.read_pairs(logits.argmax(axis=-1), hidden, state), [1] * len(token), state)


def joined(seeds: list[Seed]) -> Seed:
    hidden, drafts = (mx.concatenate(list(parts)) for parts in zip(*seeds, strict=True))
    return hidden, drafts


def test_drafts_can_be_made_again_and_again(decoder: Decoder) -> None:
    """The same ones, and nothing of them stays: behind the next token it drafts as one who never drafted."""
    (state, seed), (other, same) = begun(decoder, 1, 12), begun(decoder, 1, 12)
    drafts = decoder.draft(seed, 5, state)
    assert drafts.shape == (1, 5)
    for depth in (5, 1, 3):
        assert mx.array_equal(decoder.draft(seed, depth, state), drafts[:, :depth]).item()
    assert [cache.size() for cache in state.caches] == [cache.size() for cache in other.caches]
    token = mx.array([[7]])
    found, expected = after(decoder, state, token), after(decoder, other, token)
    for one, wanted in ((found, expected), (same, seed)):
        assert all(mx.array_equal(array, like).item() for array, like in zip(one, wanted, strict=True))
    assert mx.array_equal(decoder.draft(found, 4, state), decoder.draft(expected, 4, other)).item()


def test_rows_of_a_batch_draft_as_each_would_alone(decoder: Decoder) -> None:
    """Again and again too; within 1e-5 of the scale of what drafts are read from."""
    rows = [begun(decoder, seed, length) for seed, length in ((2, 5), (3, 14), (4, 9))]
    alone = [decoder.draft(seed, 4, state) for state, seed in rows]
    token = mx.array([[7]])
    batch = SequenceState.merge([state for state, _ in rows])
    seeds = joined([seed for _, seed in rows])
    for _ in range(2):
        assert mx.array_equal(decoder.draft(seeds, 4, batch), mx.concatenate(alone)).item()
    expected = np.array(joined([after(decoder, state, token) for state, _ in rows])[0])
    found = np.array(after(decoder, batch, mx.concatenate([token] * 3))[0])
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_what_drafts_are_made_from_is_the_newest_pair_that_is_right(decoder: Decoder) -> None:
    """Of each row its own; of several at once the last. Oracle: one pair after the other, 1e-5 of the scale."""
    (state, _), (other, _) = begun(decoder, 1, 12), begun(decoder, 1, 12)
    tokens = mx.array([[7, 8, 9, 10]])
    _, hidden = decoder.step(tokens, state)
    _, same = decoder.step(tokens, other)
    assert hidden is not None
    assert same is not None
    decoder.settle(state, 4, [4])
    decoder.settle(other, 4, [4])
    following = mx.array([[8, 9, 10, 11]])
    whole = decoder.follow(following, hidden, state)
    alone = [decoder.follow(following[:, at : at + 1], same[:, at : at + 1], other) for at in range(4)]
    scale = np.abs(np.array(whole[0])).max()
    np.testing.assert_allclose(np.array(whole[0]), np.array(alone[-1][0]), atol=1e-5 * scale)
    assert mx.array_equal(whole[1], alone[-1][1])


def test_a_single_draft_that_was_wrong_is_forgotten(decoder: Decoder) -> None:
    """By the layers that read it; a step of one token may not be forgotten, and is not put off."""
    state, _ = begun(decoder, 1, 12)
    before = state.tokens
    decoder.step(mx.array([[7, 8]]), state)
    decoder.settle(state, 2, [1])
    assert state.tokens == before + 1
    decoder.step(mx.array([[9]]), state)
    assert not any(cache.verifying for cache in state.caches)
    decoder.settle(state, 1, [1])
    assert state.tokens == before + 2


def test_rows_keep_as_many_pairs_as_were_right(decoder: Decoder) -> None:
    rows = [begun(decoder, seed, length)[0] for seed, length in ((2, 5), (3, 14))]
    batch = SequenceState.merge(rows)
    _, hidden = decoder.step(mx.array([[7, 8, 9]] * 2), batch)
    assert hidden is not None
    decoder.settle(batch, 3, [3, 1])
    decoder.settle_pairs(decoder.read_pairs(mx.array([[8, 9, 10]] * 2), hidden, batch), [3, 1], batch)
    sizes = [{cache.size() for cache in batch.extract(row).caches if cache.size()} for row in range(2)]
    assert sizes == [{5 + 3}, {14 + 1}]
