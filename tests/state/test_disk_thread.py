"""The thread for files: in order, to the end, and nothing afterwards; and the clock that wakes it."""

import gc
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from weakref import WeakMethod

import pytest

from mlx_qwen35.state import disk_thread
from mlx_qwen35.state.disk_thread import Alarm, DiskThread


def test_what_was_posted_is_finished_in_order_when_it_is_closed() -> None:
    """Also what had not begun."""
    disk, release, done = DiskThread(), threading.Event(), []
    assert disk.post(release.wait, 60) is not None
    for number in range(5):
        disk.post(done.append, number)
    closing = threading.Thread(target=disk.close)
    closing.start()
    assert done == []
    release.set()
    closing.join(60)
    assert done == [0, 1, 2, 3, 4]


def test_closed_it_takes_nothing_and_whoever_waits_is_answered_at_once() -> None:
    disk, done = DiskThread(), []
    disk.close()
    disk.close()
    assert disk.post(done.append, 1) is None
    disk.wait()
    assert done == []
    assert disk.call(lambda a, b: a + b, 1, 2) == 3


@pytest.mark.parametrize("closed", [False, True])
def test_an_exception_is_raised_where_it_was_asked_for(closed: bool) -> None:
    disk = DiskThread()
    if closed:
        disk.close()
    with pytest.raises(ZeroDivisionError):
        disk.call(lambda: 1 / 0)
    assert disk.call(int) == 0
    disk.close()


def test_waiting_is_until_everything_is_done() -> None:
    disk, done = DiskThread(), []
    disk.wait()
    for number in range(3):
        disk.post(done.append, number)
    disk.wait()
    assert done == [0, 1, 2]
    disk.close()


def test_every_job_gives_its_thread_s_streams_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails too; on a thread of its own, which has no others."""
    released: list[threading.Thread] = []
    monkeypatch.setattr(disk_thread.mx, "clear_streams", lambda: released.append(threading.current_thread()))
    disk = DiskThread()
    threads = [disk.call(threading.current_thread) for _ in range(2)]
    with pytest.raises(ZeroDivisionError):
        disk.call(lambda: 1 / 0)
    disk.close()
    assert released[:2] == threads
    assert len(set(released)) == 3
    assert threading.current_thread() not in released


class Timer:
    """In place of threading's: it rings when a test says so."""

    made: list["Timer"]
    daemon = False

    def __init__(self, seconds: float, function: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.seconds, self._function, self._args = seconds, function, args
        self.cancelled = False
        self.made.append(self)

    def start(self) -> None:
        # Threads that are no daemons keep a process that has ended.
        assert self.daemon

    def cancel(self) -> None:
        self.cancelled = True

    def ring(self) -> None:
        self._function(*self._args)


class Sleeper:
    """Whom an alarm calls."""

    def __init__(self) -> None:
        self.woken = 0
        self.alarm = Alarm(WeakMethod(self.wake))

    def wake(self) -> None:
        self.woken += 1


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[Timer]:
    """Those that were made, at second 1000 of the monotonic clock."""
    Timer.made = []
    monkeypatch.setattr(disk_thread, "threading", SimpleNamespace(Timer=Timer, Lock=threading.Lock))
    monkeypatch.setattr(disk_thread, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    return Timer.made


def test_an_alarm_rings_at_the_earliest_time_that_it_was_set_to(timers: list[Timer]) -> None:
    """What was set for later before is cancelled; what is set for later or the same time afterwards changes nothing."""
    sleeper = Sleeper()
    for at in (1100.0, 1010.0, 1050.0, 1010.0):
        sleeper.alarm.ring_at(at)
    assert [(timer.seconds, timer.cancelled) for timer in timers] == [(100.0, True), (10.0, False)]
    timers[1].ring()
    assert sleeper.woken == 1


def test_an_alarm_that_has_rung_is_set_again(timers: list[Timer]) -> None:
    sleeper = Sleeper()
    for number, at in enumerate((1010.0, 1010.0, 1100.0)):
        sleeper.alarm.ring_at(at)
        assert len(timers) == number + 1
        timers[-1].ring()
    assert sleeper.woken == 3


def test_a_timer_that_rings_while_an_earlier_time_is_set_leaves_that_alone(timers: list[Timer]) -> None:
    """It was on its way when it was cancelled."""
    sleeper = Sleeper()
    sleeper.alarm.ring_at(1100.0)
    sleeper.alarm.ring_at(1010.0)
    timers[0].ring()
    sleeper.alarm.ring_at(1050.0)
    assert len(timers) == 2


def test_an_alarm_for_a_time_that_is_past_rings_at_once(timers: list[Timer]) -> None:
    Sleeper().alarm.ring_at(900.0)
    assert timers[0].seconds == 0.0


def test_a_closed_alarm_rings_no_more(timers: list[Timer]) -> None:
    sleeper = Sleeper()
    sleeper.alarm.ring_at(1010.0)
    sleeper.alarm.close()
    sleeper.alarm.ring_at(1001.0)
    assert [timer.cancelled for timer in timers] == [True]


@pytest.mark.thorough
def test_an_alarm_keeps_nobody_alive(timers: list[Timer]) -> None:
    sleeper = Sleeper()
    sleeper.alarm.ring_at(1010.0)
    del sleeper
    gc.collect()
    timers[0].ring()
