"""From which of several prefixes a prompt goes on."""

import numpy as np
import pytest

from mlx_qwen35.state.prefix import ImageRun, Prefix, keys_of
from mlx_qwen35.state.prefix_index import PrefixIndex
from mlx_qwen35.state.sequence import FrozenState, Snapshot

PAD = 9


def prefix_of(ids: list[int], places: list[int], turn_start: int, *images: ImageRun, held: bool = True) -> Prefix:
    state = FrozenState(tuple(Snapshot(place, ()) for place in places), ()) if held else None
    return Prefix(np.array(ids, np.int32), images, turn_start, places, state)


def index_of(*prefixes: Prefix) -> PrefixIndex:
    index = PrefixIndex()
    for prefix in prefixes:
        index.add(prefix)
    return index


def find(index: PrefixIndex, ids: list[int], *images: ImageRun) -> tuple[Prefix, int] | None:
    return index.find(keys_of(np.array(ids, np.int32), images), images)


def test_images_whose_hashes_begin_alike_are_told_apart() -> None:
    """Keys hold a part of a hash only; up to the image the prefix is the same."""
    one, other = (ImageRun(3, 5, "f" * 20 + end) for end in "01")
    ids = [1, 2, 3, PAD, PAD, 4]
    prefix = prefix_of(ids, [2, 6], 6, one)
    index = index_of(prefix)
    assert find(index, [*ids, 5], one) == (prefix, 6)
    assert find(index, [*ids, 5], other) == (prefix, 2)


@pytest.mark.parametrize("held", [0, 1, 2])
def test_of_several_at_one_place_one_that_is_in_memory_is_taken(held: int) -> None:
    """Whenever it was kept; but more on disk is better than less in memory."""
    prefixes = [prefix_of([1, 2, 3, end], [3, 4], 4, held=end == held) for end in range(3)]
    short = prefix_of([1, 2, 8], [2, 3], 3)
    for order in ([short, *prefixes], [*prefixes, short]):
        assert find(index_of(*order), [1, 2, 3, 7, 7]) == (prefixes[held], 3)


def test_where_a_turn_starts_and_where_it_ends_is_no_place_to_go_on_from() -> None:
    index = index_of(prefix_of([1, 2, 3, 4], [2], 3))
    found = find(index, [1, 2, 3, 4, 5])
    assert found is not None
    assert found[1] == 2


def test_what_a_new_prefix_continues_and_how_far_it_is_the_same() -> None:
    """As far as it goes on, though its turn began earlier; of one whose turn is written anew, up to that turn."""
    whole, rewritten = prefix_of([1, 2, 3, 4], [4], 2), prefix_of([1, 2, 3, 5], [4], 3)
    elsewhere, same_turn = prefix_of([7, 2, 3], [3], 1), prefix_of([1, 2, 3, 4, 5, 8], [6], 5)
    index = index_of(whole, rewritten, elsewhere, same_turn)
    found = index.continued_by(prefix_of([1, 2, 3, 4, 5, 6, 7], [7], 5))
    assert dict(found) == {whole: 4, rewritten: 3}


def test_a_prompt_reaches_the_turn_of_a_prefix_where_that_starts() -> None:
    prefix = prefix_of([1, 2, 3, 4], [2, 4], 3)
    index = index_of(prefix, prefix_of([1, 2], [2], 2))
    for ids, expected in (([1, 2], False), ([1, 2, 3], True), ([1, 2, 3, 9], True), ([1, 2, 9, 9], False)):
        assert index.reaches_turn(prefix, np.array(ids)) is expected


def test_forgotten_snapshots_are_no_places_to_go_on_from_and_the_others_are() -> None:
    prefix = prefix_of([1, 2, 3, 4, 5], [1, 2, 3, 5], 4)
    index = index_of(prefix)
    index.forget_snapshots(prefix, {1, 3, 5})
    prefix.snapshot_tokens = [1, 3, 5]
    places = {}
    for tokens in range(1, 6):
        found = find(index, [1, 2, 3, 4, 5][:tokens])
        assert found is not None
        places[tokens] = found[1]
    assert places == {1: 1, 2: 1, 3: 3, 4: 3, 5: 5}
    index.remove(prefix)
    assert len(index) == 0
    assert find(index, [1, 2, 3]) is None


def test_what_is_used_becomes_the_newest() -> None:
    first, second, third = (prefix_of([number, 2], [2], 2) for number in range(3))
    index = index_of(first, second, third)
    index.use(first)
    assert list(index) == [second, third, first]
    assert next(reversed(index)) is first
