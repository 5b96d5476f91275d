"""What a device learns from while nothing new is drawn."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from threading import Event

import pytest

from tools.box.replay import Replay


def numbers(stop: int, gate: Event) -> Iterator[int]:
    """So many at once, and the others only when the gate is open."""
    for number in range(10**9):
        if number == stop:
            gate.wait()
        yield number


@pytest.fixture
def gate() -> Iterator[Event]:
    event = Event()
    yield event
    event.set()


def test_without_replays_everything_comes_once_and_in_order() -> None:
    stream = Replay(iter(range(10**9)), uses=1, held=8)
    assert [next(stream) for _ in range(50)] == list(range(50))
    assert stream.drawn == 50
    stream.close()


def test_where_nothing_is_drawn_the_oldest_comes_again_and_none_too_often(gate: Event) -> None:
    stream = Replay(numbers(6, gate), uses=3, held=8)
    found = [next(stream) for _ in range(2)]  # fewer are kept than may lie between two uses: these waited
    assert found == [0, 1]
    while stream.drawn < 6:
        found.append(next(stream))
    # One alone that is left waits for others, whose two uses may be still to come.
    found += [next(stream) for _ in range(16 - len(found))]
    counted = Counter(found)
    assert set(counted) == set(range(6))
    assert max(counted.values()) == 3
    for number in range(6):
        at = [place for place, item in enumerate(found) if item == number]
        assert all(later - earlier >= 2 for earlier, later in pairwise(at))
    gate.set()
    assert any(next(stream) >= 6 for _ in range(100))
    stream.close()


def test_only_the_latest_are_kept(gate: Event) -> None:
    stream = Replay(numbers(40, gate), uses=100, held=4)
    while stream.drawn < 40:
        next(stream)
    assert {next(stream) for _ in range(20)} == {36, 37, 38, 39}
    gate.set()
    stream.close()


def test_closing_ends_the_reader() -> None:
    stream = Replay(iter(range(10**9)), uses=1, held=8)
    next(stream)
    stream.close()
    assert not stream._reader.is_alive()


def test_what_goes_wrong_in_drawing_is_raised() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("no such font")

    stream = Replay(failing(), uses=1, held=8)
    assert next(stream) == 1
    with pytest.raises(ValueError, match="no such font"):
        next(stream)
    stream.close()
