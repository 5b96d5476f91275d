"""Choices that are taken back: what was wrong with them goes too."""

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from mlx_qwen35.errors import OptionError
from mlx_qwen35.runtime.choosing import Chooser, choose_together

VOCAB_SIZE = 5


class Failing:
    """The likeliest token, but for one call; knows which call it is, as one who takes back calls has to."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def __call__(self, *arguments: mx.array) -> mx.array:
        self.calls += 1
        if self.calls - 1 == self.at:
            raise ZeroDivisionError
        return arguments[-1].argmax(axis=-1) if len(arguments) == 1 else arguments[-1]

    def rewind(self, count: int) -> None:
        self.calls -= count


class Forgetful(Failing):
    """One that cannot take back anything."""

    rewind = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name == "rewind":
            raise AttributeError(name)
        return super().__getattribute__(name)


def chooser(sampler: Any = None, *processors: Any) -> Chooser:
    likeliest = Failing(-1)
    request: Any = SimpleNamespace(
        sampler=sampler, processors=processors, thinking_budget=None, make_sampler=lambda: sampler or likeliest,
        make_processors=lambda: list(processors), top_logprobs=0,
    )  # fmt: skip
    return Chooser(request)


def step(one: Chooser, places: int) -> mx.array:
    tokens = mx.zeros((1, places), mx.int32)
    logits = mx.random.normal((1, places, VOCAB_SIZE), key=mx.random.key(places))
    return choose_together([one], tokens, logits).tokens


@pytest.mark.parametrize("kind", ["sampler", "processor"])
@pytest.mark.parametrize(("at", "back"), [(0, 3), (2, 1), (1, 2), (3, 1)])
def test_a_fault_behind_a_wrong_draft_never_happened(kind: str, at: int, back: int) -> None:
    """Where the same place is come to again, it happens again."""
    function = Failing(at)
    one = chooser(function) if kind == "sampler" else chooser(None, function)
    step(one, 4)
    assert isinstance(one.fault, ZeroDivisionError)
    one.rewind(back)
    kept = at < 4 - back
    assert (one.fault is not None) == kept
    if not kept:
        for _ in range(at - (4 - back)):
            step(one, 1)
            assert one.fault is None
        step(one, 1)
        assert isinstance(one.fault, ZeroDivisionError)


def test_a_fault_stays_while_nothing_is_taken_back() -> None:
    one = chooser(Failing(1))
    step(one, 2)
    one.rewind(0)
    assert isinstance(one.fault, ZeroDivisionError)
    step(one, 1)
    assert isinstance(one.fault, ZeroDivisionError)


def test_behind_a_fault_a_row_goes_on_without_its_function() -> None:
    """With what it would choose by itself, so that others can go on; what can be taken back is still counted."""
    logits = mx.array([[[0.0, 3.0, 1.0, 2.0, 0.0]]])
    for sampler, calls in ((Failing(0), 4), (Forgetful(0), 1)):
        one = chooser(sampler)
        assert choose_together([one], mx.zeros((1, 1), mx.int32), logits).tokens.tolist() == [[1]]
        step(one, 3)
        assert sampler.calls == calls


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (5, "sampler: expected shape \\(1,\\), found 5"),
        (mx.zeros((1, 1), mx.int32), "sampler: expected shape \\(1,\\), found \\(1, 1\\)"),
        (mx.zeros(1), "sampler: expected token ids, found mlx.core.float32"),
    ],
)
def test_what_is_no_token_is_a_fault(found: Any, message: str) -> None:
    one = chooser(lambda scores: found)
    step(one, 1)
    assert isinstance(one.fault, OptionError)
    with pytest.raises(OptionError, match=message):
        raise one.fault


def test_the_first_fault_is_the_one_that_is_told() -> None:
    """What is called again behind it, to be taken back with it, may fail in other ways."""
    errors = [ZeroDivisionError("first"), ValueError("second"), ValueError("third")]

    class Always(Failing):
        def __call__(self, *arguments: mx.array) -> mx.array:
            raise errors[min(self.calls, 2)]

    always = Always(0)
    one = chooser(always)
    for calls in range(3):
        always.calls = calls
        step(one, 1)
    assert one.fault is errors[0]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (mx.zeros((1, VOCAB_SIZE), mx.int32), "logits_processors: expected logits, found mlx.core.int32"),
        (mx.zeros((1, VOCAB_SIZE - 1)), "logits_processors: expected shape \\(1, 5\\), found \\(1, 4\\)"),
        (None, "logits_processors: expected shape \\(1, 5\\), found None"),
    ],
)
def test_what_are_no_logits_is_a_fault(found: Any, message: str) -> None:
    one = chooser(None, lambda tokens, logits: found)
    step(one, 1)
    with pytest.raises(OptionError, match=message):
        raise one.fault or AssertionError
