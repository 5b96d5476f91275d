"""Marks, rolling back, freezing and restoring: to the bit, whatever was read meanwhile."""

import gc
from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import pytest
from PIL import Image

from mlx_qwen35.errors import CacheError
from mlx_qwen35.state.cache import AttentionCache
from mlx_qwen35.state.sequence import FrozenState, SequenceState, SharedBytes, Snapshot
from tests.conftest import Bench
from tests.state.conftest import make_caches
from tests.tiny import DENSE, IDS, Shape

TEXT = list(range(20, 34))
PICTURE = [IDS["<|vision_start|>"], IDS["<|image_pad|>"], IDS["<|vision_end|>"]]
RED = Image.new("RGB", (96, 64), "red")


def begin(bench: Bench, *, image: bool) -> SequenceState:
    """A sequence that has read its prompt but for the last token."""
    prompt = bench.prompt(TEXT + PICTURE if image else TEXT, [RED] if image else None)
    state = SequenceState(bench.cache(prompt))
    bench.model(mx.array(prompt.input_ids[:-1])[None], cache=state.caches)
    state.evaluate()
    return state


def read(bench: Bench, state: SequenceState, *tokens: int) -> list[mx.array]:
    """Logits after each token, read one by one."""
    logits = [bench.model(mx.array([[token]]), cache=state.caches)[0, -1] for token in tokens]
    mx.eval(logits)
    return logits


def same(one: list[mx.array], other: list[mx.array]) -> bool:
    return len(one) == len(other) and all(mx.array_equal(a, b).item() for a, b in zip(one, other, strict=True))


@pytest.mark.some(4)
@pytest.mark.parametrize("image", [False, True], ids=["text", "image"])
@pytest.mark.parametrize("further", [1, 5])
def test_a_sequence_that_is_rolled_back_goes_on_as_if_it_had_gone_no_further(
    benches: Callable[[Shape], Bench], dense_and_moe: Shape, image: bool, further: int
) -> None:
    """Token by token and several at once; and again from the same mark."""
    bench = benches(dense_and_moe)
    expected = read(bench, begin(bench, image=image), 7, 8, 9)
    state = begin(bench, image=image)
    mark = state.mark()
    tokens = state.tokens
    read(bench, state, *range(100, 100 + further))
    assert state.tokens == tokens + further
    state.roll_back(mark)
    assert state.tokens == tokens
    assert same(read(bench, state, 7, 8, 9), expected)
    state.roll_back(mark)
    bench.model(mx.array([[5] * 6]), cache=state.caches)
    state.evaluate()
    state.roll_back(mark)
    assert same(read(bench, state, 7, 8, 9), expected)


def test_a_sequence_is_rolled_back_to_its_beginning(benches: Callable[[Shape], Bench], dense_and_moe: Shape) -> None:
    """Where no layer holds anything: what is read then is read as by a fresh one."""
    bench = benches(dense_and_moe)
    state = SequenceState(bench.model.make_cache())
    mark = state.mark()
    expected = read(bench, state, 7, 8)
    for other in (50, 51):
        state.roll_back(mark)
        assert state.tokens == 0
        read(bench, state, other)
    state.roll_back(mark)
    assert same(read(bench, state, 7, 8), expected)


def test_several_tokens_are_taken_back_to_a_mark_between_them(benches: Callable[[Shape], Bench]) -> None:
    """As a step does that drafts tokens and keeps the first ones."""
    bench = benches(DENSE)
    expected = read(bench, begin(bench, image=True), 7, 8, 9, 10)
    state = begin(bench, image=True)
    marks = []
    for token in (7, 8, 11, 12):
        read(bench, state, token)
        marks.append(state.mark())
    state.roll_back(marks[1])
    assert same(read(bench, state, 9, 10), expected[2:])
    with pytest.raises(CacheError, match="cannot rewind to token 17: expected a cut outside the image"):
        state.roll_back(replace(marks[0], tokens=17))


@pytest.mark.parametrize("image", [False, True], ids=["text", "image"])
def test_a_frozen_sequence_is_restored_at_each_of_its_snapshots(
    benches: Callable[[Shape], Bench], dense_and_moe: Shape, image: bool
) -> None:
    """After what was frozen has gone on, and each restored one its own way."""
    bench = benches(dense_and_moe)
    state = begin(bench, image=image)
    reference = begin(bench, image=image)
    snapshots = [state.snapshot()]
    read(bench, state, 7, 8)
    snapshots.append(state.snapshot())
    frozen = state.freeze(snapshots)
    read(bench, state, 50, 51, 52)
    expected = read(bench, reference, 7, 8, 9)
    media = next((cache.media for cache in state.caches if hasattr(cache, "media")), None)
    for _ in range(2):
        for snapshot, following in ((snapshots[0], (7, 8, 9)), (snapshots[1], (9,))):
            restored = frozen.restore(snapshot.tokens, bench.model.make_cache)
            assert restored.tokens == snapshot.tokens
            for cache in restored.caches:
                if hasattr(cache, "media"):
                    cache.media = media
            assert same(read(bench, restored, *following), expected[-len(following) :])
            read(bench, restored, 60, 61)


def test_a_cut_is_the_beginning_with_arrays_of_its_own(benches: Callable[[Shape], Bench]) -> None:
    bench = benches(DENSE)
    state = begin(bench, image=False)
    snapshots = [state.snapshot()]
    read(bench, state, *range(40))
    snapshots.append(state.snapshot())
    frozen = state.freeze(snapshots)
    cut = frozen.cut(snapshots[0].tokens)
    assert [snapshot.tokens for snapshot in cut.snapshots] == [snapshots[0].tokens]
    assert {array.shape[2] for layer in cut.held for array in layer} == {snapshots[0].tokens}
    expected = read(bench, frozen.restore(snapshots[0].tokens, bench.model.make_cache), 7, 8)
    assert same(read(bench, cut.restore(snapshots[0].tokens, bench.model.make_cache), 7, 8), expected)
    assert [s.tokens for s in frozen.without(lambda s: s is snapshots[0]).snapshots] == [snapshots[1].tokens]


def test_rows_of_a_batch_are_what_they_were_alone(benches: Callable[[Shape], Bench], dense_and_moe: Shape) -> None:
    bench = benches(dense_and_moe)
    alone = [begin(bench, image=False), begin(bench, image=True)]
    batch = SequenceState.merge(alone)
    before = [[mx.array(array) for cache in state.caches for array in cache.mark()] for state in alone]
    for row, state in enumerate(alone):
        extracted = batch.extract(row)
        assert extracted.tokens == state.tokens
        assert same([array for cache in extracted.caches for array in cache.mark()], before[row])
        assert same(read(bench, extracted, 7, 8), read(bench, state, 7, 8))


@pytest.mark.thorough
def test_a_row_that_was_taken_out_does_not_keep_the_batch_alive(benches: Callable[[Shape], Bench]) -> None:
    """Of 16 rows one is kept: what is in memory then is about what that row says it holds."""
    bench = benches(DENSE)
    # All weights are there once something is written, and what earlier tests left goes now rather than meanwhile.
    read(bench, begin(bench, image=False), 7)
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    batch = SequenceState.merge([begin(bench, image=False) for _ in range(16)])
    read_rows = bench.model(mx.array([[7]] * 16), cache=batch.caches)
    mx.eval(read_rows)
    batch.evaluate()
    whole = mx.get_active_memory() - before
    row = batch.extract(3)
    held = sum(array.nbytes for cache in row.caches for array in [*cache.mark(), *cache.held()])
    del batch, read_rows
    left = mx.get_active_memory() - before
    assert held <= left < held + 2**16 < whole // 4


def test_a_state_without_layers_has_read_nothing() -> None:
    state = SequenceState([])
    assert state.tokens == 0
    state.roll_back(state.mark())
    assert state.freeze([state.snapshot()]).nbytes == 0


def pending(shape: tuple[int, ...]) -> mx.array:
    """An array that is still to be computed, and so takes no memory yet."""
    return mx.zeros(shape) + 1


def unread() -> SequenceState:
    """A state of one GDN and one attention layer, of which nothing is computed."""
    gdn, attention = make_caches()
    gdn.cache = [pending((1, 3, 2**12)), pending((1, 4, 64, 64))]
    attention.update_and_fetch(pending((1, 2, 256, 64)), pending((1, 2, 256, 64)))
    return SequenceState([gdn, attention])


@pytest.mark.some(1)
@pytest.mark.parametrize("what", ["snapshot", "freeze", "extract"])
def test_what_outlives_a_sequence_is_computed(what: str) -> None:
    """So that it does not keep alive what it is computed from, and may be written by another thread."""
    state = unread()
    if what == "extract":
        state = SequenceState.merge([unread(), unread()])
    mark = state.mark() if what == "freeze" else None
    gc.collect()
    before = mx.get_active_memory()
    if what == "snapshot":
        kept = state.snapshot().arrays()
    elif what == "freeze":
        assert mark is not None
        kept = state.freeze([mark]).arrays()
    else:
        kept = [array for cache in state.extract(1).caches for array in [*cache.mark(), *cache.held()]]
    # But for a few numbers that it was computed from.
    assert mx.get_active_memory() - before > 0.9 * sum(array.nbytes for array in kept) > 2**16


def test_a_step_concerns_the_layers_that_are_named() -> None:
    state = SequenceState([AttentionCache() for _ in range(3)])
    for cache in state.caches:
        cache.update_and_fetch(pending((1, 1, 5, 4)), pending((1, 1, 5, 4)))
    state.begin_step(slice(2, None))
    assert [cache.verifying for cache in state.caches] == [False, False, True]
    state.settle(3, [1], slice(2, None))
    assert [cache.size() for cache in state.caches] == [5, 5, 3]
    assert [cache.verifying for cache in state.caches] == [False] * 3
    state.begin_step()
    state.settle(2, [0])
    assert [cache.size() for cache in state.caches] == [3, 3, 1]


def test_a_frozen_state_holds_the_arrays_of_all_its_snapshots_and_what_they_share() -> None:
    marks = [((mx.zeros((place,)),), ()) for place in (1, 2, 3)]
    snapshots = tuple(Snapshot(place, mark) for place, mark in zip((1, 2, 3), marks, strict=True))
    pair = (mx.zeros((1, 1, 3, 4)), mx.zeros((1, 1, 3, 4)))
    frozen = FrozenState(snapshots, ((), pair))
    assert len(frozen.arrays()) == 5
    assert frozen.nbytes == 4 * (1 + 2 + 3) + 2 * pair[0].nbytes
    for tokens in (1, 2, 3):
        assert [snapshot.tokens for snapshot in frozen.cut(tokens).snapshots] == [1, 2, 3][:tokens]


def test_bytes_that_are_shared_count_once_and_as_long_as_anybody_holds_them() -> None:
    shared, own = mx.zeros((100,)), mx.zeros((10,))
    snapshot = Snapshot(1, ((shared,),))
    one, other = FrozenState((snapshot,), ()), FrozenState((snapshot,), ((own,),))
    counted, told = SharedBytes(), []
    for change, state in (
        (counted.add, one), (counted.add, other), (counted.add, other),
        (counted.remove, other), (counted.remove, one), (counted.remove, other),
    ):  # fmt: skip
        change(state)
        told.append(counted.nbytes)
    assert told == [400, 440, 440, 440, 440, 0]
