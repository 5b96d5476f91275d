"""Positions: spans, slices, and placeholders that do not fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_qwen35.errors import PromptMismatchError
from mlx_qwen35.prompts.positions import MediaLayout, expand_placeholders, lay_out, merged_grid

PAD, FRAME = 7, 8
GRIDS = st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 6))
PIECES = st.lists(st.one_of(st.integers(1, 20), GRIDS), min_size=1, max_size=8)


def layout_of(pieces: list[int | tuple[int, int, int]]) -> tuple[list[int], MediaLayout | None]:
    ids: list[int] = []
    grids = []
    for piece in pieces:
        if isinstance(piece, int):
            ids += [1] * piece
        else:
            ids += [PAD] * (piece[0] * piece[1] * piece[2])
            grids.append(piece)
    return ids, lay_out(ids, grids, image_token_id=PAD)


def test_a_hand_computed_table() -> None:
    """Two text tokens, an image of 2 x 3, one text token, an image of 1 x 1, one text token."""
    _, layout = layout_of([2, (1, 2, 3), 1, (1, 1, 1), 1])
    assert layout is not None
    expected = [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 7],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7],
    ]
    np.testing.assert_array_equal(layout.position_ids(0, 11), expected)
    assert layout.position_ids(0, 11).dtype == np.int32
    assert (layout.length, layout.rope_delta) == (11, -3)
    assert [layout.delta_at(tokens) for tokens in (1, 2, 7, 8, 9, 20)] == [0, 0, 0, -3, -3, -3]


@given(PIECES)
def test_positions_follow_the_definition(pieces: list[int | tuple[int, int, int]]) -> None:
    """Against a loop that walks the pieces one by one."""
    ids, layout = layout_of(pieces)
    expected: list[tuple[int, int, int]] = []
    cursor = 0
    for piece in pieces:
        if isinstance(piece, int):
            expected += [(cursor + i,) * 3 for i in range(piece)]
            cursor += piece
        else:
            t, h, w = piece
            expected += [(cursor + i, cursor + j, cursor + k) for i in range(t) for j in range(h) for k in range(w)]
            cursor += max(piece)
    if layout is None:
        assert all(isinstance(piece, int) for piece in pieces)
        return
    np.testing.assert_array_equal(layout.position_ids(0, len(ids)).T, expected)
    assert layout.rope_delta == cursor - len(ids) <= 0


@given(PIECES, st.data())
def test_a_slice_is_a_slice_of_the_whole(pieces: list[int | tuple[int, int, int]], data: st.DataObject) -> None:
    """Also past the end of the prompt, where positions go on as text."""
    ids, layout = layout_of(pieces)
    if layout is None:
        return
    whole = layout.position_ids(0, len(ids) + 5)
    start = data.draw(st.integers(0, len(ids) + 4))
    stop = data.draw(st.integers(start + 1, len(ids) + 5))
    np.testing.assert_array_equal(layout.position_ids(start, stop), whole[:, start:stop])
    if start == len(ids) or (start < len(ids) and ids[start] != PAD):
        assert layout.delta_at(start) + start == whole[0, start]


@given(PIECES)
def test_cuts_inside_images_are_known(pieces: list[int | tuple[int, int, int]]) -> None:
    ids, layout = layout_of(pieces)
    if layout is None:
        return
    inside = {cut for span in layout.spans for cut in range(span.start + 1, span.stop)}
    for cut in range(len(ids) + 1):
        assert (layout.inside(cut) is not None) == (cut in inside)


def test_the_images_of_a_slice_are_those_with_a_token_in_it() -> None:
    """Two text tokens, an image of 2 x 2, two more of 1 x 1 right behind it, one text token."""
    _, layout = layout_of([2, (1, 2, 2), (1, 1, 1), (1, 1, 1), 1])
    assert layout is not None
    slices = [(0, 2), (0, 3), (2, 6), (5, 7), (6, 7), (7, 8), (0, 9), (8, 9), (9, 12)]
    expected = [[], [0], [0], [0, 1], [1], [2], [0, 1, 2], [], []]
    assert [list(layout.overlapping(start, stop)) for start, stop in slices] == expected


@given(PIECES, st.data())
def test_the_images_of_a_slice_are_known(pieces: list[int | tuple[int, int, int]], data: st.DataObject) -> None:
    """Those with a token in it, not those that only touch it."""
    ids, layout = layout_of(pieces)
    if layout is None:
        return
    start = data.draw(st.integers(0, len(ids)))
    stop = data.draw(st.integers(start + 1, len(ids) + 2))
    expected = [
        index for index, span in enumerate(layout.spans) if set(range(span.start, span.stop)) & set(range(start, stop))
    ]
    assert list(layout.overlapping(start, stop)) == expected


def test_placeholders_are_expanded_once() -> None:
    ids = [1, PAD, 2, PAD, PAD]
    expanded = [1, PAD, PAD, PAD, 2, PAD, PAD, PAD, PAD, PAD]
    assert expand_placeholders(ids, [3, 1, 4], image_token_id=PAD) == expanded
    assert expand_placeholders(expanded, [3, 1, 4], image_token_id=PAD) == expanded
    assert expand_placeholders([1, 2], [], image_token_id=PAD) == [1, 2]


@pytest.mark.parametrize(
    ("ids", "lengths", "message"),
    [
        ([1, 2], [4], r"expected 1 image placeholders \(one per image\) or 4 \(one per merged patch\), found 0"),
        ([PAD, PAD], [], r"expected 0 image placeholders \(one per image\), found 2"),
        ([PAD, PAD, PAD], [4, 2], r"expected 2 image placeholders .* or 6 .*, found 3"),
    ],
)
def test_a_wrong_number_of_placeholders_is_refused(ids: list[int], lengths: list[int], message: str) -> None:
    with pytest.raises(PromptMismatchError, match=message):
        expand_placeholders(ids, lengths, image_token_id=PAD)


@pytest.mark.parametrize(
    ("ids", "grids", "message"),
    [
        ([1, PAD, PAD, 1], [(1, 2, 3)], r"prompt token 1: image 1 expected 6 placeholders .*1x2x3.*, found 2"),
        ([PAD, 1, PAD], [(1, 1, 3)], r"image 1 expected 3 placeholders .*, found 1"),
        ([PAD, PAD, 1], [(1, 1, 1)], r"prompt token 1: expected placeholders for 1 images, found more"),
        ([PAD, 1], [(1, 1, 1), (1, 1, 1)], r"expected placeholders for 2 images, found 1"),
        ([PAD, PAD], [(1, 1, 3)], r"image 1 expected 3 placeholders .*, found 2"),
    ],
)
def test_runs_must_match_the_grids(ids: list[int], grids: list[tuple[int, int, int]], message: str) -> None:
    with pytest.raises(PromptMismatchError, match=message):
        lay_out(ids, grids, image_token_id=PAD)


def test_the_merger_divides_height_and_width() -> None:
    assert merged_grid([1, 4, 6], 2) == (1, 2, 3)
    grid = merged_grid(np.array([3, 6, 9]), 3)
    assert grid == (3, 2, 3)
    assert [type(size) for size in grid] == [int, int, int]
    assert merged_grid([2, 6, 9], 3) == (2, 2, 3)


def test_images_and_pairs_of_frames_stand_in_the_order_of_their_tokens() -> None:
    """One text token, an image of 2 x 2, text, a pair of 1 x 2, text, another one, an image of 1 x 1, text."""
    ids = [1, *[PAD] * 4, 1, *[FRAME] * 2, 1, *[FRAME] * 2, PAD, 1]
    layout = lay_out(
        ids, [(1, 2, 2), (1, 1, 1)], image_token_id=PAD, frames_thw=[(1, 1, 2), (1, 1, 2)], video_token_id=FRAME
    )
    assert layout is not None
    assert [(span.start, span.stop, span.position) for span in layout.spans] == [
        (1, 5, 1), (6, 8, 4), (9, 11, 7), (11, 12, 9)
    ]  # fmt: skip
    assert (layout.length, layout.rope_delta) == (13, -2)
    assert layout.position_ids(12, 13).tolist() == [[10]] * 3


@pytest.mark.parametrize(
    ("ids", "grids", "frames", "message"),
    [
        ([PAD, FRAME, 1], [(1, 1, 2)], [(1, 1, 1)], r"^prompt token 0: image 1 expected 2 .*1x1x2\), found 1$"),
        ([FRAME, PAD, 1], [(1, 1, 1)], [(1, 1, 2)], r"^prompt token 0: pair of frames 1 expected 2 .*, found 1$"),
        ([1, FRAME, FRAME, 1, FRAME], [], [(1, 1, 2)] * 2, r"^prompt token 4: pair of frames 2 expected 2 .* found 1$"),
        ([FRAME, 1, FRAME], [], [(1, 1, 1)], r"^prompt token 2: expected .* for 1 pairs of frames, found more"),
        ([FRAME, 1], [], [(1, 1, 1)] * 2, r"^prompt: expected placeholders for 2 pairs of frames, found 1$"),
        ([FRAME, 1], [(1, 1, 1)], [(1, 1, 1)], r"^prompt: expected placeholders for 1 images, found 0$"),
    ],
)
def test_runs_of_frames_must_match_their_grids(
    ids: list[int], grids: list[tuple[int, int, int]], frames: list[tuple[int, int, int]], message: str
) -> None:
    """Whatever runs of images there are."""
    with pytest.raises(PromptMismatchError, match=message):
        lay_out(ids, grids, image_token_id=PAD, frames_thw=frames, video_token_id=FRAME)


def test_a_video_s_placeholder_is_text_to_a_checkpoint_without_videos() -> None:
    assert lay_out([1, FRAME], [], image_token_id=PAD) is None


def test_a_prompt_goes_on_behind_its_last_image() -> None:
    _, layout = layout_of([1, (1, 2, 2), 3])
    assert layout is not None
    assert layout.length == 8
