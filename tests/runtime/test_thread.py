"""The thread: order, errors, generators, and its end."""

import gc
import threading
import time
import weakref
from collections.abc import Iterator

import mlx.core as mx
import pytest

from mlx_qwen35.errors import KitClosedError
from mlx_qwen35.runtime.thread import MlxThread


@pytest.fixture
def thread() -> Iterator[MlxThread]:
    thread = MlxThread()
    yield thread
    thread.close()


def test_work_runs_on_one_other_thread(thread: MlxThread) -> None:
    idents = {thread.call(threading.get_ident) for _ in range(3)}
    assert len(idents) == 1
    assert threading.get_ident() not in idents


def test_lazy_arrays_stay_usable_there(thread: MlxThread) -> None:
    """What goes wrong without it: an array made lazily in one thread cannot be evaluated in another."""
    lazy = thread.call(lambda: mx.ones((4, 4)) @ mx.ones((4, 4)))
    assert thread.call(lambda: lazy.sum().item()) == 64
    other = thread.call(lambda: mx.ones((2, 2)) @ mx.ones((2, 2)))
    with pytest.raises(RuntimeError, match="no Stream"):
        other.sum().item()


def test_exceptions_come_back_and_the_thread_goes_on(thread: MlxThread) -> None:
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 / 0)
    with pytest.raises(SystemExit):
        thread.call(exit)
    assert thread.call(lambda: 5) == 5


def test_generators_take_turns(thread: MlxThread) -> None:
    order = []

    def count(name: str) -> Iterator[int]:
        for number in range(3):
            order.append(f"{name}{number}")
            yield number

    pairs = zip(thread.iterate(lambda: count("a")), thread.iterate(lambda: count("b")), strict=True)  # type: ignore[arg-type, return-value]
    assert list(pairs) == [(0, 0), (1, 1), (2, 2)]
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2"]


@pytest.mark.thorough
def test_a_generator_ends_when_its_consumer_does(thread: MlxThread) -> None:
    ended: list[bool] = []

    def forever() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.append(threading.current_thread() is not threading.main_thread())

    stream = thread.iterate(forever)  # type: ignore[arg-type]
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert ended == [True]
    stream = thread.iterate(forever)  # type: ignore[arg-type]
    next(stream)
    del stream
    gc.collect()
    assert ended == [True, True]


def test_closing_ends_open_generators_on_the_thread() -> None:
    thread = MlxThread()
    ended: list[str] = []

    def forever() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.append(threading.current_thread().name)

    stream = thread.iterate(forever)  # type: ignore[arg-type]
    next(stream)
    thread.close()
    thread.close()
    assert ended == ["mlx_qwen35"]
    with pytest.raises(KitClosedError):
        next(stream)
    with pytest.raises(KitClosedError):
        thread.call(lambda: 1)


def test_what_is_abandoned_after_the_end_is_no_fault() -> None:
    thread = MlxThread()

    def forever() -> Iterator[int]:
        while True:
            yield 1

    stream = thread.iterate(forever)  # type: ignore[arg-type]
    next(stream)
    thread.close()
    stream.close()  # type: ignore[attr-defined]
    assert list(stream) == []


def test_the_thread_does_not_wait_for_itself(thread: MlxThread, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> int:
        # It would get to that when it has done this.
        monkeypatch.setattr(thread._worker, "submit", lambda job: pytest.fail("it waits for itself"))
        try:
            return thread.call(lambda: 5)
        finally:
            monkeypatch.undo()

    assert thread.call(ask) == 5


def test_nothing_of_what_was_done_is_kept(thread: MlxThread) -> None:
    """While nothing else is asked for: weights, a prompt, an answer."""

    class Thing:
        def work(self) -> None:
            pass

    thing = Thing()
    kept = weakref.ref(thing)
    thread.call(thing.work)
    del thing
    deadline = time.monotonic() + 5
    while kept() is not None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert kept() is None


def test_a_child_of_the_process_leaves_the_thread_alone(thread: MlxThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a copy of the lock, which may be held for ever there."""
    with monkeypatch.context() as patch:
        patch.setattr(thread._worker, "process", -1)
        patch.setattr(thread._worker, "_lock", None)
        thread._worker.finish()
        with pytest.raises(KitClosedError, match="fork"):
            thread.call(lambda: 5)
    assert thread.call(lambda: 5) == 5


@pytest.mark.thorough
def test_a_forgotten_thread_ends_by_itself() -> None:
    before = threading.active_count()
    thread = MlxThread()
    thread.call(lambda: mx.eval(mx.ones(3) + 1))
    assert threading.active_count() == before + 1
    del thread
    gc.collect()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_callers_that_race_with_closing_are_answered() -> None:
    """Each call either gets its result or KitClosedError; none waits for ever."""
    thread = MlxThread()
    outcomes: list[str] = []

    def ask() -> None:
        for _ in range(200):
            try:
                thread.call(lambda: None)
                outcomes.append("done")
            except KitClosedError:
                outcomes.append("closed")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for each in threads:
        each.start()
    thread.close()
    for each in threads:
        each.join(timeout=10)
    assert len(outcomes) == 800
    assert outcomes[-1] == "closed"


def test_a_stream_that_is_collected_at_a_bad_moment_does_not_deadlock(thread: MlxThread) -> None:
    """The collector may run while this very thread holds the lock."""

    def forever() -> Iterator[int]:
        while True:
            yield 1

    stream = thread.iterate(forever)  # type: ignore[arg-type]
    next(stream)
    done = threading.Event()

    def collect() -> None:
        with thread._worker._lock:
            stream.close()  # type: ignore[attr-defined]
        done.set()

    threading.Thread(target=collect, daemon=True).start()
    assert done.wait(timeout=10)
