"""Scoring a text: the memory that it takes, and gives back."""

from types import SimpleNamespace
from typing import Any

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


def test_the_memory_of_logits_is_that_of_the_largest_image_too() -> None:
    """It is encoded before anything is read, and may take more than reading does."""
    asked: list[tuple[Any, ...]] = []

    def passing(tokens: int, step: int, patches: int) -> int:
        asked.append((tokens, step, patches))
        return 1000

    def take(purpose: str, nbytes: int, *, place: str) -> Any:
        asked.append((purpose, nbytes, place))
        raise InsufficientMemoryError("none left")

    loaded: Any = SimpleNamespace(
        checkpoint=SimpleNamespace(config=SimpleNamespace(text=SimpleNamespace(vocab_size=10))),
        guard=SimpleNamespace(held=lambda tokens: tokens, passing=passing), ledger=SimpleNamespace(take=take),
    )  # fmt: skip
    prompt: Any = SimpleNamespace(input_ids=[1] * 7, pieces=[SimpleNamespace(patches=size) for size in (4, 64, 16)])
    with pytest.raises(InsufficientMemoryError, match="none left"):
        teacher_forcing.score(loaded, prompt, 3)
    assert asked == [(7, 3, 64), ("logits", 7 + 1000 + 2 * 4 * 7 * 10, "prompt")]
