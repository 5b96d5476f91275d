"""Pieces: which frames go through the vision tower together."""

from collections.abc import Sequence

import numpy as np
import pytest

from mlx_qwen35.prompts import pieces
from mlx_qwen35.prompts.images import PreparedImage
from mlx_qwen35.prompts.pieces import Piece, cut


def units(*names: str, side: int = 4) -> list[PreparedImage]:
    """One for each name, of side x side patches."""
    return [PreparedImage(np.zeros((side**2, 1)), (1, side, side), (1, side // 2, side // 2), name) for name in names]


def bounds(found: Sequence[Piece]) -> list[tuple[int, int, bool]]:
    return [(piece.start, piece.stop, piece.is_video) for piece in found]


@pytest.fixture
def three_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of frames of 16 patches."""
    monkeypatch.setattr(pieces, "PIECE_PATCHES", 3 * 16 + 15)


@pytest.mark.usefixtures("three_at_once")
def test_images_stand_alone_and_frames_of_one_video_together_up_to_a_number_of_patches() -> None:
    media = units("a", "b", *"cdefghi", "j")
    found = cut(media, [range(2, 7), range(7, 9)])
    assert bounds(found) == [(0, 1, False), (1, 2, False), (2, 5, True), (5, 7, True), (7, 9, True), (9, 10, False)]
    assert [piece.patches for piece in found] == [16, 16, 48, 32, 32, 16]
    assert [len(piece) for piece in found] == [1, 1, 3, 2, 2, 1]


@pytest.mark.usefixtures("three_at_once")
def test_pairs_that_are_larger_than_a_piece_stand_alone() -> None:
    assert bounds(cut(units("a", "b", side=16), [range(2)])) == [(0, 1, True), (1, 2, True)]


@pytest.mark.usefixtures("three_at_once")
def test_what_stands_between_two_pairs_parts_them() -> None:
    """A caller's own expanded ids may have anything there."""
    assert bounds(cut(units(*"abcd"), [(0, 1, 3)])) == [(0, 2, True), (2, 3, False), (3, 4, True)]


def test_a_piece_is_known_by_all_that_is_in_it() -> None:
    """The last bit of what the tower makes of a frame depends on what goes through it at the same time."""
    (one,), (same,), (longer,), (other,) = (
        cut(units(*names), [range(len(names))]) for names in ("ab", "ab", "abc", "ba")
    )
    assert one == same
    assert len({one.content_hash, longer.content_hash, other.content_hash}) == 3
    hashes = [piece.hash_of(index) for piece in (one, longer) for index in range(len(piece))]
    assert len(set(hashes)) == 5
    assert all(int(name, 16) >= 0 for name in hashes)


def test_a_frame_is_no_image() -> None:
    """Their placeholders are different tokens, which a module that drafts ahead looks at."""
    (image,) = cut(units("ab"), [])
    (frame,) = cut(units("ab"), [range(1)])
    assert image.hash_of(0) == image.content_hash == "ab"
    assert frame.hash_of(0) != "ab"


def test_where_a_video_is_cut_does_not_depend_on_what_stands_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what was encoded for one prompt serves the next turn's."""
    monkeypatch.setattr(pieces, "PIECE_PATCHES", 32)
    alone = cut(units(*"abcde"), [range(5)])
    later = cut(units("x", *"yz", *"abcde"), [range(1, 3), range(3, 8)])
    assert [piece.content_hash for piece in later[2:]] == [piece.content_hash for piece in alone]
    assert [piece.hash_of(index + 3) for piece, index in zip(later[2:], (0, 2, 4), strict=True)] == [
        piece.hash_of(index) for piece, index in zip(alone, (0, 2, 4), strict=True)
    ]
