"""What went wrong once, each as its caller would see it.

Elsewhere: broken bytes in a stream (answers/test_text.py), labels of metrics and requests that are refused before they
are prepared (server/), seeds (answers/test_sampling.py), half-read prompts and faults in a batch (test_engine.py).
"""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from PIL import Image

from mlx_qwen35 import Engine, ModelKit
from mlx_qwen35.errors import (
    CheckpointError,
    GenerationCancelled,
    InsufficientMemoryError,
    KitClosedError,
    OptionError,
    PromptError,
    SessionError,
    VisionUnavailableError,
)
from mlx_qwen35.runtime import loop
from mlx_qwen35.runtime.ledger import process_ledger
from tests.runtime.test_engine import Caller, is_chunk
from tests.tiny import DENSE, IDS, VOCAB_SIZE, Shape

GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 6, "cache_prompt": False}
IDS_OF_A_PROMPT = list(range(20, 50))


def fails(*args: mx.array) -> mx.array:
    raise ZeroDivisionError("the caller's own")


def exits(*args: mx.array) -> mx.array:
    raise SystemExit("the caller's own")


def gives(value: Any, dtype: mx.Dtype = mx.uint32) -> Callable[[mx.array], mx.array]:
    return lambda scores: mx.array([value], dtype=dtype)


# What the request brings along, the error that it ends with, and what that says.
BROUGHT: dict[str, tuple[dict[str, Any], type[BaseException], str]] = {
    "a sampler of shape (1, 1)": (
        {"sampler": lambda scores: scores.argmax(axis=-1, keepdims=True)},
        OptionError,
        r"sampler: expected shape \(1,\), found \(1, 1\)",
    ),
    "an id of the vocabulary's size": ({"sampler": gives(VOCAB_SIZE)}, OptionError, "below 352, found 352"),
    "an id below 0": ({"sampler": gives(-1, mx.int32)}, OptionError, "sampler: expected a token id below 352, found"),
    "an id of more than 32 bits": ({"sampler": gives(2**32 + 5, mx.int64)}, OptionError, "found 4294967301"),
    "ids that are floats": ({"sampler": gives(1.5, mx.float32)}, OptionError, "sampler: expected token ids, found"),
    "a sampler that gives no array": ({"sampler": lambda scores: 5}, OptionError, "sampler: expected shape .* found 5"),
    "a sampler that raises": ({"sampler": fails}, ZeroDivisionError, "own"),
    "a sampler that exits": ({"sampler": exits}, SystemExit, "own"),
    "a processor that raises": ({"logits_processors": [fails]}, ZeroDivisionError, "own"),
    "a processor of another shape": (
        {"logits_processors": [lambda tokens, logits: logits[:, :7]]},
        OptionError,
        r"logits_processors: expected shape \(1, 352\), found \(1, 7\)",
    ),
    "a processor that gives ids": (
        {"logits_processors": [lambda tokens, logits: logits.astype(mx.int32)]},
        OptionError,
        "logits_processors: expected logits, found",
    ),
}  # fmt: skip


@pytest.mark.some(2)
@pytest.mark.parametrize("name", BROUGHT)
def test_what_one_request_brings_along_ends_that_request_alone(kit: ModelKit, name: str) -> None:
    """Alone, and beside another row; and everybody after it gets what they would have got."""
    options, error, message = BROUGHT[name]
    expected = kit.generate(IDS_OF_A_PROMPT, **GREEDY).tokens
    with pytest.raises(error, match=message):
        kit.generate(IDS_OF_A_PROMPT, **GREEDY, **options)
    engine = Engine(kit)
    good = Caller(engine, kit.request(IDS_OF_A_PROMPT, **GREEDY))
    bad = Caller(engine, kit.request(IDS_OF_A_PROMPT, **GREEDY, **options)).end()
    assert isinstance(bad, error)
    assert good.result().tokens == expected
    engine.close()
    assert kit.generate(IDS_OF_A_PROMPT, **GREEDY).tokens == expected


def test_a_fault_in_the_middle_of_a_batch_leaves_the_other_rows_as_they_were(kit: ModelKit) -> None:
    options = {**GREEDY, "max_tokens": 12}
    expected = kit.generate(IDS_OF_A_PROMPT, **options).tokens

    def late(tokens: mx.array, logits: mx.array) -> mx.array:
        return logits if len(tokens) < 5 else fails()

    engine = Engine(kit)
    rows = [
        Caller(engine, kit.request(IDS_OF_A_PROMPT, **options, logits_processors=[late] if number == 1 else []))
        for number in range(3)
    ]
    assert isinstance(rows[1].end(), ZeroDivisionError)
    assert [rows[number].result().tokens for number in (0, 2)] == [expected] * 2
    engine.close()


class Slow:
    """A model whose prompts take until they are let go."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.reading, self.go_on = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, tokens: mx.array, **kwargs: Any) -> Any:
        self.reading.set()
        assert self.go_on.wait(30)
        return self._model(tokens, **kwargs)


@pytest.fixture
def slow(kit: ModelKit, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    slow = Slow(kit.model)
    monkeypatch.setattr(kit._loop._executor._decoder, "model", slow)
    yield slow
    slow.go_on.set()


def test_a_request_counts_as_running_while_a_chunk_of_it_is_read(kit: ModelKit, slow: Slow) -> None:
    engine = Engine(kit)
    caller = Caller(engine, kit.request(IDS_OF_A_PROMPT, **GREEDY))
    assert slow.reading.wait(30)
    assert (engine.running, engine.waiting) == (1, 0)
    slow.go_on.set()
    caller.result()
    engine.close()
    assert (engine.running, engine.waiting) == (0, 0)


def test_closing_at_once_during_a_chunk_cancels(kit: ModelKit, slow: Slow) -> None:
    engine = Engine(kit)
    caller = Caller(engine, kit.request(IDS_OF_A_PROMPT, **GREEDY))
    assert slow.reading.wait(30)
    closing = threading.Thread(target=engine.close, kwargs={"timeout": 0})
    closing.start()
    while not kit._loop._wishes.qsize():
        time.sleep(0.001)
    slow.go_on.set()
    closing.join(30)
    assert not closing.is_alive()
    assert isinstance(caller.end(), GenerationCancelled)


def test_a_row_that_cannot_join_the_batch_is_told_so(kit: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    def add(batch: Any, other: Any) -> None:
        raise ZeroDivisionError("joining")

    engine = Engine(kit)
    with monkeypatch.context() as patch:
        patch.setattr("mlx_qwen35.runtime.batch.Batch.add", add)
        # One after the other: prompts that wait together begin as one batch.
        asked = kit.request(IDS_OF_A_PROMPT, **GREEDY | {"max_tokens": 500})
        callers = [Caller(engine, asked)]
        callers[0].until(is_chunk)
        callers.append(Caller(engine, asked))
        assert any(isinstance(caller.end(), ZeroDivisionError) for caller in callers)
        for caller in callers:
            engine.cancel(caller.job)
            assert caller.job.done.wait(30)
    assert len(Caller(engine, kit.request(IDS_OF_A_PROMPT, **GREEDY)).result().tokens) == 6
    engine.close()


def test_a_fault_while_reading_keeps_nothing(fresh: Callable[..., ModelKit], monkeypatch: pytest.MonkeyPatch) -> None:
    kit = fresh()
    reads = []

    def second_fails(*args: Any, **kwargs: Any) -> Any:
        reads.append(1)
        return fails() if len(reads) == 2 else read(*args, **kwargs)

    decoder = kit._loop._executor._decoder
    read = decoder.read
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "read", second_fails)
        with pytest.raises(ZeroDivisionError):
            kit.generate(IDS_OF_A_PROMPT, max_tokens=2, prefill_step_size=8)
    assert (len(kit.prompt_cache), set(kit.ledger.by_purpose())) == (0, {"weights"})
    assert kit.generate(IDS_OF_A_PROMPT, max_tokens=2).stats.cached_tokens == 0


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("speculate", "kv_bits"),
    [*(pytest.param(one, 0, marks=pytest.mark.thorough) for one in ("off", "mtp")), ("mtp", 4)],
)
def test_the_memory_limit_is_never_exceeded(
    checkpoint_dir: Callable[[Shape], Path], tmp_path: Path, speculate: str, kv_bits: int
) -> None:
    """By what is held at any event, and by what MLX took at any moment: see limited.py."""
    command = [sys.executable, "-m", "tests.runtime.limited", str(checkpoint_dir(DENSE)), str(tmp_path / "s.session")]
    command += [speculate, str(kv_bits)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    looked, held, peak, limit = done.stdout.split()
    assert looked == "True"
    assert int(held) <= int(limit)
    assert int(peak) <= int(limit)


def test_sessions_do_not_cross_between_arithmetics(fresh: Callable[..., ModelKit], tmp_path: Path) -> None:
    kits = {exact: fresh(exact=exact) for exact in (False, True)}
    for exact, kit in kits.items():
        kit.generate(IDS_OF_A_PROMPT, max_tokens=2)
        kit.save_session(tmp_path / f"{exact}")
    for exact, kit in kits.items():
        with pytest.raises(SessionError, match="arithmetic"):
            kit.load_session(tmp_path / f"{not exact}")
        assert fresh(exact=exact).load_session(tmp_path / f"{exact}")


def with_an_image(kit: ModelKit) -> Any:
    ids = [IDS["<|vision_start|>"], IDS["<|image_pad|>"], IDS["<|vision_end|>"], 5, 6]
    return kit.process_prompt(ids, images=[Image.new("RGB", (96, 64), "red")])


@pytest.mark.some(1)
@pytest.mark.parametrize("closes", [True, False], ids=["closed", "forgotten"])
def test_what_a_kit_held_is_given_back(checkpoint_dir: Callable[[Shape], Path], closes: bool) -> None:
    """Weights, features and kept prefixes: when it is closed, though somebody still has the object, or forgotten."""
    gc.collect()
    before, leased = mx.get_active_memory(), process_ledger().held
    kit = ModelKit.load(checkpoint_dir(DENSE))
    weights = kit.guard.weights
    kit.generate(with_an_image(kit), max_tokens=3)
    assert mx.get_active_memory() - before > weights
    assert process_ledger().held - leased > weights
    if closes:
        kit.close()
        gc.collect()
        assert kit.model is None
    else:
        gone = weakref.ref(kit.model)
        del kit
        gc.collect()
        assert gone() is None
    assert mx.get_active_memory() - before < weights // 10
    assert process_ledger().held == leased


@pytest.mark.thorough
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_kit_in_a_forked_child_says_so(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    """In a process of its own, which has no other threads than the kit's; whoever hangs is ended by an alarm."""
    script = f"""
import os, signal, warnings
from mlx_qwen35 import Engine, KitClosedError, ModelKit
warnings.simplefilter("ignore")
kit = ModelKit.load({str(checkpoint_dir(DENSE))!r})
kit.generate([1, 2, 3] * 5, max_tokens=2)
path = {str(tmp_path / "s.session")!r}
kit.save_session(path)
engine, request, prompt = Engine(kit), kit.request([1, 2]), kit.process_prompt([1, 2])
talk = [dict(role="user", content="a"), dict(role="assistant", content="b")]
engine.submit(kit.request([7, 8], max_tokens=2000, logit_bias={{5: 100.0}}), lambda event: None)
open_stream = kit.stream([4, 5, 6], max_tokens=50)
next(open_stream)
uses = [
    lambda: kit.generate([1, 2]), lambda: next(open_stream), lambda: kit.logits(prompt), lambda: kit.save_session(path),
    lambda: kit.load_session(path), lambda: kit.prefill_ahead(talk), lambda: engine.submit(request, print),
    engine.close, lambda: ModelKit.load({str(checkpoint_dir(DENSE))!r}),
]
child = os.fork()
if child == 0:
    signal.alarm(20)
    for use in uses:
        try:
            use()
        except KitClosedError as error:
            assert "before a fork" in str(error)
            continue
        os._exit(1)
    kit.close()
    os._exit(0)
engine.close(timeout=0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(kit.generate([1, 2], max_tokens=2).tokens))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("0 2\n", "")


def test_what_cannot_be_is_refused_before_any_work(
    kit: ModelKit, kits: Callable[[Shape], ModelKit], monkeypatch: pytest.MonkeyPatch
) -> None:
    text_only = kits(Shape("text-only", seed=5, text_only=True))
    picture = with_an_image(kit)
    for one in (kit, text_only):
        monkeypatch.setattr(one._loop, "submit", lambda job: pytest.fail("work"))
        monkeypatch.setattr(one._thread, "call", lambda function: pytest.fail("work"))
    for ask in (text_only.stream, text_only.logits):
        with pytest.raises(VisionUnavailableError, match=r"prompt\.media\[0\]: this checkpoint cannot see images"):
            ask(picture)
    with pytest.raises(PromptError, match="prompt: expected messages, a string or token ids, found int"):
        kit.logits(5)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="logits_processors: expected a list of functions, found NoneType"):
        kit.stream([1, 2], logits_processors=None)
    with pytest.raises(OptionError, match=r"logits_processors\[0\]: expected a function, found int"):
        kit.stream([1, 2], logits_processors=[5])
    with pytest.raises(OptionError, match="sampler: expected a function, found str"):
        kit.stream([1, 2], sampler="greedy")
    with pytest.raises(PromptError, match="messages: expected a list of messages, found generator"):
        kit.prefill_ahead(message for message in ())  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="model: expected"):
        ModelKit.load(None)  # type: ignore[arg-type]


def test_a_reserved_place_is_no_way_into_a_closed_engine(kit: ModelKit) -> None:
    engine = Engine(kit, max_rows=1, max_waiting=0)
    place = engine.reserve()
    engine.close()
    with pytest.raises(KitClosedError, match="this engine was closed"):
        engine.submit(kit.request([1, 2], **GREEDY), lambda event: None, reservation=place)
    assert engine._places == 0


# Streams that are open at once.


@pytest.fixture
def narrow(fresh: Callable[..., ModelKit], monkeypatch: pytest.MonkeyPatch) -> ModelKit:
    """A kit with room for one of the long answers below and half another, whose loop has less patience."""
    monkeypatch.setattr(loop, "PATIENCE", 0.2)
    kit = fresh(prompt_cache_bytes=0)
    monkeypatch.setattr(kit.ledger, "limit", kit.guard.needs(930, 1) + kit.guard.held(930) // 2)
    return kit


LONG: dict[str, Any] = {"max_tokens": 900, "temperature": 0.0, "prefill_step_size": 64, "logit_bias": {5: 100.0}}


def test_a_second_stream_that_memory_has_no_room_for_is_refused(narrow: ModelKit) -> None:
    first, second = (narrow.stream(IDS_OF_A_PROMPT, **LONG) for _ in range(2))
    tokens = [next(first).token]
    began = time.monotonic()
    with pytest.raises(InsufficientMemoryError, match="memory: expected room for another request beside those"):
        next(second)
    assert time.monotonic() - began >= 0.2
    tokens += [next(first).token for _ in range(5)]
    assert tokens == [5] * 6
    first.close()  # type: ignore[attr-defined]
    assert next(narrow.stream(IDS_OF_A_PROMPT, **LONG)).token == 5


def test_one_that_is_refused_for_want_of_memory_does_not_depend_on_when_a_timer_ends(
    narrow: ModelKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop may look again before the thread that woke it has ended; it used to wait for ever then."""

    class Lingering(threading.Timer):
        def run(self) -> None:
            super().run()
            time.sleep(1.0)

    monkeypatch.setattr(threading, "Timer", Lingering)
    first, second = (narrow.stream(IDS_OF_A_PROMPT, **LONG) for _ in range(2))
    next(first)
    found: list[BaseException] = []

    def ask() -> None:
        try:
            next(second)
        except BaseException as error:
            found.append(error)

    waiting = threading.Thread(target=ask)
    waiting.start()
    waiting.join(30)
    narrow.close()
    waiting.join(30)
    assert [type(error) for error in found] == [InsufficientMemoryError]


def test_a_stream_waits_for_one_that_goes_on_however_long_that_takes(narrow: ModelKit) -> None:
    first = narrow.stream(IDS_OF_A_PROMPT, **LONG)
    next(first)
    found: list[int] = []
    waiting = threading.Thread(target=lambda: found.append(next(narrow.stream(IDS_OF_A_PROMPT, **LONG)).token))
    waiting.start()
    for _ in range(12):
        time.sleep(0.05)
        next(first)
    assert found == []
    first.close()  # type: ignore[attr-defined]
    waiting.join(60)
    assert found == [5]


def test_an_abandoned_stream_makes_room_when_it_is_collected(narrow: ModelKit) -> None:
    first = narrow.stream(IDS_OF_A_PROMPT, **LONG)
    next(first)
    holder: list[Any] = [first]
    holder.append(holder)
    del first, holder
    gc.collect()
    assert next(narrow.stream(IDS_OF_A_PROMPT, **LONG)).token == 5


def test_an_abandoned_stream_may_be_collected_on_the_thread_that_owns_mlx(narrow: ModelKit) -> None:
    def sampler(scores: mx.array) -> mx.array:
        streams.clear()
        return scores.argmax(axis=-1)

    streams = [narrow.stream(IDS_OF_A_PROMPT, **LONG | {"max_tokens": 50})]
    next(streams[0])
    options = LONG | {"max_tokens": 50, "sampler": sampler}
    assert len(list(narrow.stream(IDS_OF_A_PROMPT, **options))) == 50
    assert narrow.ledger.by_purpose().keys() == {"weights"}
