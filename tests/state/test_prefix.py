"""A prefix: what it takes over from those that it continues, and its beginning."""

from pathlib import Path

import numpy as np
import pytest

from mlx_qwen35.state.prefix import ImageRun, Prefix, keys_of
from mlx_qwen35.state.sequence import FrozenState, Snapshot
from tests.state.test_kept_files import made

IMAGES = (ImageRun(2, 4, "ab" * 10), ImageRun(5, 8, "cd" * 10))


def prefix_of(tokens: int = 12, turn_start: int = 9, places: tuple[int, ...] = (4, 8, 12)) -> Prefix:
    state = FrozenState(tuple(Snapshot(place, ()) for place in places), ())
    return Prefix(np.arange(tokens, dtype=np.int32), IMAGES, turn_start, list(places), state)


def test_the_files_of_all_that_came_before_are_taken_over() -> None:
    """An earlier one's own, and those that it was still to replace."""
    first, second, third, new = (made(number) for number in range(4))
    first.is_in(Path("a"), 10)
    second.succeed(first, 3)
    second.file = Path("b")
    new.succeed(second, 3)
    new.succeed(third, 3)
    assert new.earlier == [Path("b"), Path("a")]
    new.is_in(Path("c"), 20)
    assert (new.file, new.file_bytes, new.earlier, new.saved) == (Path("c"), 20, [], len(new))


@pytest.mark.parametrize(
    ("saved", "tokens", "expected"), [((5,), (3,), 3), ((2,), (3,), 2), ((4, 1), (4, 4), 4), ((1, 4), (4, 4), 4)]
)
def test_so_much_is_saved_as_an_earlier_one_saved_of_what_is_the_same(
    saved: tuple[int, ...], tokens: tuple[int, ...], expected: int
) -> None:
    """Of several the one that saved the most."""
    new = made()
    for own, common in zip(saved, tokens, strict=True):
        other = made()
        other.saved = own
        new.succeed(other, common)
    assert new.saved == expected


@pytest.mark.parametrize("dues", [(5.0, 7.0), (7.0, 5.0), (None, 5.0), (5.0, None)], ids=str)
def test_it_is_due_when_the_first_of_them_was(dues: tuple[float | None, ...]) -> None:
    new = made()
    for due in dues:
        other = made()
        other.due = due
        new.succeed(other, 3)
    assert new.due == 5.0


@pytest.mark.parametrize(
    ("tokens", "images", "turn_start", "places"), [(4, 1, 4, [4]), (8, 2, 8, [4, 8]), (12, 2, 9, [4, 8, 12])]
)
def test_a_beginning_has_what_ends_in_it(tokens: int, images: int, turn_start: int, places: list[int]) -> None:
    """Images that end where it ends too."""
    prefix = prefix_of()
    assert prefix.state is not None
    found = prefix.beginning(prefix.state, tokens)
    assert found.input_ids.tolist() == list(range(tokens))
    assert (found.images, found.turn_start, found.snapshot_tokens) == (IMAGES[:images], turn_start, places)
    assert found.keys.tolist() == prefix.keys[:tokens].tolist()


def test_no_image_is_taken_for_tokens() -> None:
    """Not even one whose hash begins like nothing."""
    ids = np.zeros(4, np.int32)
    keys = keys_of(ids, [ImageRun(1, 3, "0" * 32)])
    assert keys[0] == keys[3] == 0
    assert (keys[1:3] < 0).all()
