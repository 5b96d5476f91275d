"""Scoring a text: the memory that it takes, and gives back."""

import mlx.core as mx
import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.errors import InsufficientMemoryError
from mlx_qwen35.runtime import teacher_forcing


def test_logits_hold_memory_while_they_are_computed_and_none_afterwards(
    kit: ModelKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice those of the result at least, and what a sequence remembers; also where computing fails."""
    compute, held = teacher_forcing.teacher_forced, []

    def watched(*arguments: object) -> mx.array:
        held.append(kit.ledger.by_purpose()["logits"])
        if len(held) > 2:
            raise ZeroDivisionError
        return compute(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(teacher_forcing, "teacher_forced", watched)
    prompt = kit.process_prompt([5] * 20)
    # What could be given back would make room.
    kit.prompt_cache.clear()
    kit.vision.reclaim(2**40)
    before = kit.ledger.by_purpose()
    for _ in range(2):
        nbytes = kit.logits(prompt).nbytes
        assert kit.ledger.by_purpose() == before
    assert held == [held[0]] * 2
    assert held[0] >= 2 * nbytes + kit.guard.held(20)
    with pytest.raises(ZeroDivisionError):
        kit.logits(prompt)
    assert kit.ledger.by_purpose() == before


def test_logits_without_room_are_refused_before_they_are_computed(
    kit: ModelKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = kit.process_prompt([5] * 20)
    # What could be given back would make room.
    kit.prompt_cache.clear()
    kit.vision.reclaim(2**40)
    before = kit.ledger.by_purpose()
    monkeypatch.setattr(teacher_forcing, "teacher_forced", lambda *_: pytest.fail("computed"))
    monkeypatch.setattr(kit.ledger, "limit", kit.ledger.held + 1000)
    with pytest.raises(InsufficientMemoryError, match="prompt: expected at most 0.00 GB"):
        kit.logits(prompt)
    assert kit.ledger.by_purpose() == before
