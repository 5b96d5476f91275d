"""What the module knows of the rows of a batch, with a decoder that only counts."""

from typing import Any

import mlx.core as mx
import pytest

from mlx_qwen35.runtime import drafter as module
from mlx_qwen35.runtime.drafter import Drafter


class Counting:
    """In place of a decoder: what the module reads is written down, and its output says how much that was."""

    def __init__(self) -> None:
        self.read: list[tuple[list[list[int]], list[int] | None]] = []

    def follow(self, following: mx.array, hidden: mx.array, state: Any) -> tuple[mx.array, mx.array]:
        return self.settle_pairs(self.read_pairs(following, hidden, state), None, state)

    def read_pairs(self, following: mx.array, hidden: mx.array, state: Any) -> mx.array:
        assert hidden.shape[:2] == following.shape
        self.read.append((following.tolist(), None))  # type: ignore[arg-type]
        return following

    def settle_pairs(self, read: mx.array, kept: list[int] | None, state: Any) -> tuple[mx.array, mx.array]:
        self.read[-1] = (self.read[-1][0], kept)
        rows = mx.arange(len(read))[:, None]
        return rows[..., None].astype(mx.float32), rows

    def draft(self, seed: tuple[mx.array, mx.array], depth: int, state: Any) -> mx.array:
        hidden, draft = seed
        assert mx.array_equal(hidden[..., 0], draft)
        return mx.repeat(draft, depth, axis=1)


STATE: Any = object()


def note(drafter: Drafter, *tokens: int) -> None:
    """One token for each row."""
    drafter.note(mx.array(tokens)[:, None], mx.zeros((len(tokens), 1, 4)), STATE)


def test_pairs_wait_until_drafts_are_wanted_and_are_read_at_once() -> None:
    decoder = Counting()
    drafter = Drafter(decoder)  # type: ignore[arg-type]
    assert drafter.draft(2, STATE) is None
    note(drafter, 1, 11)
    note(drafter, 2, 12)
    assert decoder.read == []
    drafts = drafter.draft(2, STATE)
    assert drafts is not None
    assert drafts.tolist() == [[0, 0], [1, 1]]
    assert decoder.read == [([[1, 2], [11, 12]], None)]
    assert drafter.draft(1, STATE) is not None
    assert len(decoder.read) == 1


def test_not_too_many_pairs_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_UNREAD", 3)
    decoder = Counting()
    drafter = Drafter(decoder)  # type: ignore[arg-type]
    for token in range(7):
        note(drafter, token)
    assert decoder.read == [([[0, 1, 2]], None), ([[3, 4, 5]], None)]


def test_what_waits_is_read_before_a_step_s_tokens() -> None:
    decoder = Counting()
    drafter = Drafter(decoder)  # type: ignore[arg-type]
    note(drafter, 1)
    drafter.read_step(mx.array([[2, 3, 4]]), mx.zeros((1, 3, 4)), STATE)
    assert drafter.is_unsettled
    assert decoder.read == [([[1]], None), ([[2, 3, 4]], None)]
    drafter.settle([2], STATE)
    assert not drafter.is_unsettled
    assert decoder.read[1:] == [([[2, 3, 4]], [2])]


def test_rows_that_stay_draft_on() -> None:
    """Those that are named, in their order."""
    drafter = Drafter(Counting())  # type: ignore[arg-type]
    drafter.keep([0])
    assert drafter.draft(1, STATE) is None
    note(drafter, 1, 2, 3)
    drafter.catch_up(STATE)
    drafter.keep([2, 1])
    found = drafter.draft(1, STATE)
    assert found is not None
    assert found.tolist() == [[2], [1]]


@pytest.mark.parametrize("unread", [None, 0, 1])
def test_rows_that_join_draft_with_the_others_if_all_have_read(unread: int | None) -> None:
    drafters = [Drafter(Counting()) for _ in range(2)]  # type: ignore[arg-type]
    for number, drafter in enumerate(drafters):
        if number != unread:
            note(drafter, *range(number + 1))
            drafter.catch_up(STATE)
    drafters[0].extend(drafters[1])
    found = drafters[0].draft(1, STATE)
    if unread is None:
        assert found is not None
        assert found.tolist() == [[0], [0], [1]]
    else:
        assert found is None
