"""Compiled decode steps outlive an exception, whichever layer raises it."""

from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_qwen35 import Engine, ModelKit
from mlx_qwen35.answers.results import GenerationChunk
from mlx_qwen35.patches.attention import PatchedAttention
from mlx_qwen35.patches.compiled_step import CompiledStep
from mlx_qwen35.patches.cpu import on_cpu
from mlx_qwen35.patches.gated_delta_net import PatchedGatedDeltaNet
from mlx_qwen35.runtime.request import Event
from tests.tiny import DENSE, Shape

PROMPT = [5, 6, 7, 8]
OPTIONS: dict[str, Any] = {"max_tokens": 5, "temperature": 0.0}


class Faulty(nn.Module):
    """Adds its weight, unless it is told to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = mx.array([1.0, 2.0])
        self.traces = 0
        self.fails = False
        self.error: type[BaseException] = KeyError

    def add(self, x: mx.array) -> mx.array:
        self.traces += 1
        out = x + self.weight
        if self.fails:
            raise self.error("no")
        return out


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_an_exception_while_tracing_is_raised_and_leaves_the_module_whole(error: type[BaseException]) -> None:
    module = Faulty()
    module.error = error
    step = CompiledStep(module.add, inputs=module)
    module.fails = True
    for _ in range(2):
        with pytest.raises(error, match="no"):
            step(mx.array([1.0, 1.0]))
        assert module.weight.tolist() == [1.0, 2.0]
    module.fails = False
    assert step(mx.array([1.0, 1.0])).tolist() == [2.0, 3.0]


def test_a_step_is_traced_once_and_sees_new_weights() -> None:
    # MLX 0.32 traces the first function that a process compiles twice.
    mx.compile(lambda x: x + 1)(mx.array([1.0]))
    module = Faulty()
    step = CompiledStep(module.add, inputs=module)
    assert step(mx.array([1.0, 1.0])).tolist() == [2.0, 3.0]
    module.weight = mx.array([3.0, 4.0])
    assert step(mx.array([1.0, 1.0])).tolist() == [4.0, 5.0]
    assert module.traces == 1


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, length: Callable[..., int]) -> None:
    """Raise the first time that a method sees one token."""
    original, raised = getattr(owner, name), []

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = original(self, *args, **kwargs)
        if not raised and length(*args) == 1:
            raised.append(True)
            raise ArithmeticError(f"{name} failed")
        return out

    monkeypatch.setattr(owner, name, watched)


LAYERS = [
    (PatchedAttention, "project", lambda x, rotate: x.shape[1]),
    (PatchedAttention, "finish", lambda out, gate: out.shape[2]),
    (PatchedGatedDeltaNet, "verify", lambda x, states, *rest: len(x) // len(states))
    if on_cpu()
    else (PatchedGatedDeltaNet, "__call__", lambda x, *rest: x.shape[1]),
]


def ask_kit(kit: ModelKit) -> tuple[int, ...]:
    return kit.generate(PROMPT, **OPTIONS).tokens


def ask_engine(kit: ModelKit) -> tuple[int, ...]:
    """Through an engine of its own."""
    events: SimpleQueue[Event] = SimpleQueue()
    engine = Engine(kit)
    try:
        engine.submit(kit.request(PROMPT, **OPTIONS), events.put)
        tokens: list[int] = []
        while True:
            event = events.get(timeout=60)
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, GenerationChunk):
                tokens.append(event.token)
                if event.finish_reason is not None:
                    return tuple(tokens)
    finally:
        engine.close()


@pytest.mark.some(3)
@pytest.mark.parametrize("ask", [ask_kit, ask_engine], ids=["ModelKit", "Engine"])
@pytest.mark.parametrize(("owner", "name", "length"), LAYERS, ids=["project", "finish", "gated delta"])
def test_only_the_request_fails_whose_step_raised(
    ask: Callable[[ModelKit], tuple[int, ...]],
    owner: Any,
    name: str,
    length: Callable[..., int],
    kit: ModelKit,
    checkpoint_dir: Callable[[Shape], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = ask_kit(kit)
    fail_once(monkeypatch, owner, name, length)
    with ModelKit.load(checkpoint_dir(DENSE)) as fresh:
        with pytest.raises(ArithmeticError, match=f"{name} failed"):
            ask(fresh)
        assert ask(fresh) == expected
