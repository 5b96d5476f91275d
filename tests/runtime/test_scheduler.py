"""The scheduler without a model, and the loop around it with an executor that only pretends."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_qwen35.answers.results import GenerationChunk, PrefillProgress
from mlx_qwen35.answers.sampling import SamplingOptions
from mlx_qwen35.errors import DeadlineError, GenerationCancelled, InsufficientMemoryError, KitClosedError
from mlx_qwen35.prompts.positions import MediaLayout, MediaSpan
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.runtime import loop as loop_module
from mlx_qwen35.runtime.loop import PATIENCE, Loop
from mlx_qwen35.runtime.request import Event, Job, Pool, Request, Status
from mlx_qwen35.runtime.scheduler import Begin, Encode, Read, Scheduler, Step, Write


def request(tokens: int = 6, answer: int = 2, *, step: int = 2, read_to: int | None = None) -> Request:
    prompt = Prompt(np.arange(tokens, dtype=np.int32))
    return Request(prompt, SamplingOptions(), 0 if read_to else answer, step, read_to=read_to)


def job(*args: Any, pool: Pool | None = None, granted: int | None = None, **kwargs: Any) -> Job:
    return Job(request(*args, **kwargs), lambda event: None, pool, granted=granted)


class Room:
    """An admission with so many places; it remembers what it was told."""

    def __init__(self, places: int = 99) -> None:
        self.places = places
        self.updates: list[list[Job]] = []

    def admit(self, job: Job, running: Sequence[Job]) -> bool:
        assert job not in running
        return len(running) < self.places

    def update(self, running: Sequence[Job]) -> None:
        self.updates.append(list(running))


def test_it_is_imported_without_mlx() -> None:
    script = """
import sys
import mlx_qwen35.runtime.scheduler, mlx_qwen35.runtime.request
print([name for name in sys.modules if name.split(".")[0] in ("mlx", "mlx_lm", "mlx_vlm", "transformers")])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def begun(scheduler: Scheduler, *jobs: Job, pieces: Sequence[int] = (), stops: Sequence[int] = ()) -> None:
    for one in jobs:
        scheduler.add(one)
    assert [begin.job for begin in scheduler.next_step().begin] == [one.id for one in jobs]
    for one in jobs:
        scheduler.begun(one, 0, pieces, stops)


def test_prompts_take_turns_a_chunk_at_a_time() -> None:
    scheduler = Scheduler(Room())
    jobs = [job(7, step=3), job(5, step=3), job(9, step=3)]
    begun(scheduler, *jobs)
    order = []
    while read := scheduler.next_step().read:
        (step,) = read
        assert isinstance(step, Read)
        order.append((jobs.index(scheduler[step.job]), step.start, step.stop))
        scheduler.has_read(scheduler[step.job], step.stop)
    assert order == [(0, 0, 3), (1, 0, 3), (2, 0, 3), (0, 3, 6), (1, 3, 4), (2, 3, 6), (2, 6, 8)]
    assert all(one.status is Status.WRITING for one in jobs)


@pytest.mark.parametrize(("pieces", "together"), [((), 2), ((0,), 1)])
def test_a_prompt_whose_pictures_are_still_to_be_encoded_is_not_read_along(
    pieces: Sequence[int], together: int
) -> None:
    scheduler, pool = Scheduler(Room()), Pool(4, 4)
    jobs = [job(3, step=4, pool=pool) for _ in range(2)]
    for one in jobs:
        scheduler.add(one)
    assert len(scheduler.next_step().begin) == 2
    for one, own in zip(jobs, ((), pieces), strict=True):
        scheduler.begun(one, 0, own, ())
    assert [step.job for step in scheduler.next_step().read] == [one.id for one in jobs[:together]]


def test_images_come_first_and_snapshots_end_a_chunk() -> None:
    scheduler = Scheduler(Room())
    one = job(10, step=4)
    begun(scheduler, one, pieces=(0, 2), stops=(2, 3, 9, 12))
    steps = []
    while read := scheduler.next_step().read:
        (step,) = read
        steps.append(step)
        if isinstance(step, Encode):
            scheduler.encoded(one)
        else:
            scheduler.has_read(one, step.stop)
    reads = [Read(one.id, 0, 2, True), Read(one.id, 2, 3, True), Read(one.id, 3, 7), Read(one.id, 7, 9, True)]
    assert steps == [Encode(one.id, 0), Encode(one.id, 2), *reads]


def test_pictures_are_encoded_in_turn_too() -> None:
    """A prompt of many pictures keeps nobody waiting for more than one of them."""
    scheduler = Scheduler(Room())
    pictures, text = job(4, step=4), job(4, step=4)
    scheduler.add(pictures)
    scheduler.add(text)
    scheduler.next_step()
    scheduler.begun(pictures, 0, (0, 1), ())
    scheduler.begun(text, 0, (), ())
    assert scheduler.next_step().read == (Encode(pictures.id, 0),)
    scheduler.encoded(pictures)
    assert scheduler.next_step().read == (Read(text.id, 0, 3),)


def test_a_snapshot_ends_a_chunk_and_not_the_turn_whichever_it_is() -> None:
    scheduler = Scheduler(Room())
    cut, other = job(20, step=4), job(20, step=4)
    scheduler.add(cut)
    scheduler.add(other)
    scheduler.next_step()
    scheduler.begun(cut, 0, (), (5,))
    scheduler.begun(other, 0, (), ())
    order = []
    for _ in range(5):
        (read,) = scheduler.next_step().read
        assert isinstance(read, Read)
        scheduler.has_read(scheduler[read.job], read.stop)
        order.append((read.job == cut.id, read.start, read.stop))
    assert order == [(True, 0, 4), (False, 0, 4), (True, 4, 5), (True, 5, 9), (False, 4, 8)]


def test_who_is_read_along_is_not_read_in_larger_steps_than_it_may_be() -> None:
    """Padded to the longest, all of them are no more than the smallest of their steps."""
    scheduler, pool = Scheduler(Room()), Pool(4, 99)
    first, careful = job(4, step=8, pool=pool), job(4, step=4, pool=pool)
    begun(scheduler, first, careful)
    assert scheduler.next_step().read == (Read(first.id, 0, 3),)


def test_every_answer_grows_between_two_chunks() -> None:
    scheduler = Scheduler(Room())
    pool = Pool(8, 2)
    rows = [job(1, pool=pool), job(1, pool=pool), job(1), job(9, pool=pool)]
    begun(scheduler, *rows)
    for _ in range(3):
        step = scheduler.next_step()
        assert [set(write.jobs) for write in step.write] == [{rows[2].id}, {rows[0].id, rows[1].id}]
        (read,) = step.read
        assert read.job == rows[3].id


def test_a_pool_never_has_more_rows_than_it_may() -> None:
    scheduler = Scheduler(Room())
    pool, other = Pool(2, 4), Pool(1, 4)
    jobs = [job(pool=pool), job(pool=pool), job(pool=pool), job(pool=other), job(pool=other)]
    for one in jobs:
        scheduler.add(one)
    assert [begin.job for begin in scheduler.next_step().begin] == [jobs[0].id, jobs[1].id, jobs[3].id]
    scheduler.begun(jobs[0], 0, (), ())
    scheduler.end(jobs[0])
    assert jobs[2].id in [begin.job for begin in scheduler.next_step().begin]


def test_memory_is_asked_for_in_the_order_in_which_jobs_came() -> None:
    """Whoever waits for memory is overtaken by none, of whatever pool: small requests would starve a large one."""
    room = Room(1)
    scheduler = Scheduler(room)
    pool = Pool(4, 4)
    first, large, small = job(pool=pool), job(), job(pool=pool)
    scheduler.add(first)
    assert scheduler.next_step().begin == (Begin(first.id),)
    scheduler.add(large)
    scheduler.add(small)
    admit = room.admit
    room.admit = lambda one, running: one is not large and admit(one, running)  # type: ignore[method-assign]
    room.places = 3
    assert scheduler.next_step().begin == (Begin(first.id),)
    room.admit = admit  # type: ignore[method-assign]
    assert scheduler.next_step().begin == (Begin(first.id), Begin(large.id), Begin(small.id))


def test_what_was_admitted_begins_although_others_wait_for_memory() -> None:
    """It came later and was fetched from disk meanwhile; if it did not go on, nobody would."""
    room = Room(1)
    scheduler = Scheduler(room)
    early, restored = job(granted=0), job()
    scheduler.add(early)
    scheduler.add(restored)
    assert scheduler.next_step().begin == (Begin(restored.id),)
    restored.restoring = True
    early.granted = 1
    assert not scheduler.next_step()
    restored.restoring = False
    assert scheduler.next_step().begin == (Begin(restored.id),)


def test_a_pool_that_is_full_is_no_reason_for_others_to_wait() -> None:
    scheduler = Scheduler(Room())
    pool = Pool(1, 4)
    jobs = [job(pool=pool), job(pool=pool), job()]
    for one in jobs:
        scheduler.add(one)
    assert scheduler.next_step().begin == (Begin(jobs[0].id), Begin(jobs[2].id))


def test_nothing_is_done_for_a_caller_who_wants_nothing() -> None:
    scheduler = Scheduler(Room())
    one = job(granted=0)
    scheduler.add(one)
    assert not scheduler.next_step()
    one.granted = 1
    assert scheduler.next_step().begin == (Begin(one.id),)
    scheduler.begun(one, 0, (), ())
    one.delivered = 1
    assert not scheduler.next_step()
    assert not scheduler.stalled(one)


def test_who_wants_nothing_holds_nobody_up() -> None:
    """Neither while prompts are read, nor while answers are written."""
    scheduler = Scheduler(Room())
    paused, reading = job(9, granted=1), job(9)
    begun(scheduler, paused, reading)
    paused.delivered = 1
    assert [read.job for read in scheduler.next_step().read] == [reading.id]
    for one in (paused, reading):
        scheduler.has_read(one, 8)
    assert scheduler.next_step().write == (Write((reading.id,)),)


def test_who_wants_nothing_is_not_read_along() -> None:
    scheduler, pool = Scheduler(Room()), Pool(4, 8)
    reading, paused = job(3, step=8, pool=pool), job(3, step=8, pool=pool, granted=1)
    begun(scheduler, reading, paused)
    paused.delivered = 1
    assert [read.job for read in scheduler.next_step().read] == [reading.id]


def test_who_waits_in_vain_is_told_from_who_waits_for_others() -> None:
    scheduler = Scheduler(Room(1))
    first, second = job(granted=1), job(granted=1)
    begun(scheduler, first)
    scheduler.add(second)
    assert scheduler.next_step().begin == ()
    assert not scheduler.stalled(second)
    first.delivered = 1
    assert scheduler.stalled(second)
    assert not scheduler.stalled(first)
    second.delivered = 1
    assert not scheduler.stalled(second)


def test_one_caller_who_goes_on_is_enough_for_the_others_to_wait_for() -> None:
    scheduler = Scheduler(Room(2))
    paused, going, waiting = job(granted=1), job(granted=1), job()
    begun(scheduler, paused, going)
    scheduler.add(waiting)
    assert scheduler.next_step().begin == ()
    paused.delivered = 1
    assert not scheduler.stalled(waiting)
    going.delivered = 1
    assert scheduler.stalled(waiting)


def test_who_has_to_be_ended_and_why() -> None:
    scheduler = Scheduler(Room())
    late, cancelled, other, early = job(), job(), job(), job()
    late.deadline, early.deadline, cancelled.cancelled = 5.0, 5.001, True
    for one in (late, cancelled, other, early):
        scheduler.add(one)
    found = [(one, type(error), str(error)) for one, error in scheduler.overdue(5.0)]
    late_message = "expected an answer within the time that it may take, found no end"
    assert found == [(late, DeadlineError, late_message), (cancelled, GenerationCancelled, "cancelled")]


def test_memory_is_given_back_at_every_end() -> None:
    room = Room()
    scheduler = Scheduler(room)
    jobs = [job(), job(), job()]
    begun(scheduler, *jobs)
    for number, one in enumerate(jobs):
        scheduler.end(one)
        assert room.updates[-1] == jobs[number + 1 :]
        assert (one.status, one.admitted, one.id in scheduler) == (Status.DONE, False, False)


# The loop, with everything around it pretended.


class Thread:
    """Runs what was posted when the test says so."""

    def __init__(self) -> None:
        self.posted: list[Callable[[], object]] = []
        self.closed = False

    def post(self, function: Callable[[], object]) -> None:
        self.check()
        self.posted.append(function)

    def check(self) -> None:
        if self.closed:
            raise KitClosedError("closed")

    def is_current(self) -> bool:
        return False

    def run(self, most: int = 1) -> None:
        for _ in range(most):
            if self.posted:
                self.posted.pop(0)()


def chunk(*, last: bool) -> GenerationChunk:
    return GenerationChunk(
        text="a", reasoning="", token=1, logprob=None, top_logprobs=None, in_reasoning=False,
        finish_reason="length" if last else None, stop_string=None, stats=None,
    )  # fmt: skip


class Pretender:
    """An executor whose steps only check that they make sense; fails where a job's plan says so."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.fails: dict[Job, str] = {}
        self.restores: set[Job] = set()
        self.ready: list[Callable[[], None]] = []
        self.read_so_far: dict[Job, int] = {}
        self.written: dict[Job, int] = {}
        self.ended: dict[Job, bool] = {}
        self.steps: list[dict[Job, int]] = []
        self.shared: list[Job] = []
        self.closed = False

    def _fail(self, job: Job, where: str) -> None:
        if self.fails.get(job) == where:
            raise ZeroDivisionError(where)

    def begin(self, job: Job, on_ready: Callable[[], None]) -> tuple[int, list[int], Sequence[int]] | None:
        assert job.admitted
        assert job not in self.read_so_far
        if job in self.restores:
            self.restores.discard(job)
            self.ready.append(on_ready)
            return None
        self._fail(job, "begin")
        cached = min(job.id % 3, job.request.stop_reading)
        self.read_so_far[job] = cached
        return cached, list(range(job.id % 2)) if cached < job.request.stop_reading else [], (1, 3)

    def read(self, steps: Sequence[tuple[Job, Encode | Read]]) -> None:
        assert len({job for job, _ in steps}) == len(steps) > 0
        self.steps.append({job: step.stop - step.start if isinstance(step, Read) else 0 for job, step in steps})
        for job, step in steps:
            assert job.status is Status.READING
            self._fail(job, "read")
            if isinstance(step, Encode):
                assert len(steps) == 1
                continue
            assert step.start == self.read_so_far[job] < step.stop <= job.request.stop_reading
            assert step.stop - step.start <= job.step_size
            self.read_so_far[job] = step.stop
        if len(steps) > 1:
            assert len({job.pool for job, _ in steps}) == 1
            longest = max(step.stop - step.start for _, step in steps if isinstance(step, Read))
            assert len(steps) * longest <= min(job.step_size for job, _ in steps)

    def share(self, job: Job) -> None:
        assert job in self.read_so_far
        self.shared.append(job)
        self._fail(job, "share")

    def write(self, jobs: Sequence[Job]) -> dict[Job, list[Event]]:
        assert jobs
        assert len(jobs) == len(set(jobs))
        assert len({job.pool for job in jobs}) == 1
        for job in jobs:
            assert job.status is Status.WRITING
            assert job.id in self.scheduler
            assert self.read_so_far[job] == job.request.stop_reading
        if any(self.fails.get(job) == "batch" for job in jobs):
            raise ZeroDivisionError("batch")
        out: dict[Job, list[Event]] = {}
        for job in jobs:
            count = self.written[job] = self.written.get(job, 0) + 1
            total = len(job.request.prompt.input_ids)
            first: list[Event] = [PrefillProgress(total, total)] if count == 1 else []
            broken = self.fails.get(job) == "write"
            out[job] = [ZeroDivisionError("write")] if broken else [*first, chunk(last=count == job.request.max_tokens)]
        return out

    def end(self, job: Job, *, keep: bool) -> None:
        assert job not in self.ended
        self.ended[job] = keep
        self._fail(job, "end")

    def close(self) -> None:
        self.closed = True


class House:
    """A loop, and what came of every job."""

    def __init__(self, places: int = 99) -> None:
        self.thread, self.room = Thread(), Room(places)
        self.scheduler = Scheduler(self.room)
        self.executor = Pretender(self.scheduler)
        self.loop = Loop(self.thread, self.scheduler, self.executor)  # type: ignore[arg-type]
        self.events: dict[Job, list[Event]] = {}
        self.late: list[Event] = []
        self.jobs: list[Job] = []

    def submit(
        self, asked: Request, *, pool: Pool | None = None, granted: int | None = None,
        deadline: float | None = None, fails: str = "", restores: bool = False, breaks_at: int = 0,
    ) -> Job:  # fmt: skip
        seen: list[Event] = []

        def sink(event: Event) -> None:
            # Not an assertion: what a sink raises is its own fault.
            if one.done.is_set():
                self.late.append(event)
            seen.append(event)
            if len(seen) == breaks_at:
                raise BrokenPipeError

        one = Job(asked, sink, pool, granted=granted, deadline=deadline)
        self.events[one] = seen
        self.jobs.append(one)
        if fails:
            self.executor.fails[one] = fails
        if restores:
            self.executor.restores.add(one)
        self.loop.submit(one)
        return one

    def run(self, most: int = 1000) -> int:
        """Until nothing is left to do; returns the number of rounds."""
        rounds = 0
        while self.thread.posted and rounds < most:
            self.thread.run()
            rounds += 1
        return rounds

    def last(self, one: Job) -> Event:
        return self.events[one][-1]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> "Clock":
    clock = Clock()
    monkeypatch.setattr(loop_module, "time", clock)
    monkeypatch.setattr(loop_module.threading, "Timer", Timer)
    return clock


class Clock:
    """Time passes when the test says so."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Timer:
    """Goes off when the test calls its function, if it does."""

    daemon = False

    def __init__(self, seconds: float, function: Callable[[], None]) -> None:
        assert seconds > 0
        self.function = function

    def start(self) -> None:
        self.started = True


def is_last(event: Event, asked: Request) -> bool:
    if isinstance(event, PrefillProgress):
        return asked.read_to is not None and event.processed >= asked.read_to
    return isinstance(event, BaseException) or event.finish_reason is not None


def test_a_request_goes_its_way() -> None:
    house = House()
    one = house.submit(request(tokens=6, answer=2, step=2))
    house.run()
    told = [
        event.processed if isinstance(event, PrefillProgress) else event.finish_reason for event in house.events[one]
    ]  # type: ignore[union-attr]
    assert told[-3:] == [6, None, "length"]
    assert told[:-3] == sorted(told[:-3])  # type: ignore[type-var]
    assert one.done.is_set()
    assert house.executor.ended == {one: True}


@pytest.mark.parametrize("where", ["begin", "read", "share", "batch", "write", "end"])
def test_a_failure_ends_the_one_request_whatever_was_done_for_it(where: str) -> None:
    """The others, in the same pool and alone, get their answers; rows of a failed pass end together."""
    house = House()
    pool = Pool(4, 4)
    others = [house.submit(request(), pool=Pool(4, 4)), house.submit(request())]
    if where not in ("read", "batch"):
        others.append(house.submit(request(), pool=pool))
    bad = house.submit(request(), pool=pool, fails=where)
    house.run()
    assert isinstance(house.last(bad), ZeroDivisionError)
    for one in others:
        assert is_last(house.last(one), one.request)
        assert isinstance(house.last(one), GenerationChunk)
    assert all(one.done.is_set() for one in house.jobs)
    assert house.scheduler.jobs == []


def test_a_sink_that_fails_ends_its_request_and_is_told_so_once() -> None:
    house = House()
    gone, other = house.submit(request(), breaks_at=2), house.submit(request())
    house.run()
    assert [isinstance(event, GenerationCancelled) for event in house.events[gone]] == [False, False, True]
    assert isinstance(house.last(other), GenerationChunk)


@pytest.mark.parametrize("when", [PrefillProgress, GenerationChunk])
def test_a_sink_that_closes_the_kit_gets_no_event_after_the_last_one(when: type) -> None:
    """In the middle of a step, whose other events and other rows are still to be told."""
    house = House()
    pool = Pool(4, 4)

    def close(event: Event) -> None:
        seen.append(event)
        if isinstance(event, when) and closer.status is Status.WRITING:
            house.loop.close(KitClosedError("closed"))

    seen: list[Event] = []
    closer = Job(request(1, answer=1 if when is PrefillProgress else 5), close, pool)
    house.loop.submit(closer)
    beside = [house.submit(request(1, answer=1), pool=pool), house.submit(request(1, answer=5))]
    house.run()
    for events in (seen, *(house.events[one] for one in beside)):
        assert [isinstance(event, KitClosedError) for event in events][-1:] == [True]
        assert sum(isinstance(event, BaseException) for event in events) == 1
    assert house.late == []
    assert house.executor.closed


@pytest.mark.parametrize("rounds", range(4))
def test_closing_ends_what_was_asked_for_however_far_it_came(rounds: int) -> None:
    """Also what nobody has looked at yet, and then nothing is taken any more."""
    house = House()
    early = house.submit(request(answer=9))
    house.run(rounds)
    late = house.submit(request())
    house.loop.close(KitClosedError("closed"))
    house.run()
    for one in (early, late):
        assert isinstance(house.last(one), KitClosedError)
        assert one.done.is_set()
    with pytest.raises(KitClosedError):
        house.submit(request())


def test_deadlines_and_cancelling_end_a_request_at_the_next_step(clock: Clock) -> None:
    house = House(places=2)
    late = house.submit(request(answer=50), deadline=5.0)
    cancelled, waiting = house.submit(request(answer=50)), house.submit(request(), deadline=5.0)
    house.run(10)
    house.loop.cancel(cancelled)
    house.run(2)
    assert isinstance(house.last(cancelled), GenerationCancelled)
    assert house.executor.ended[cancelled]
    assert not late.done.is_set()
    clock.now = 5.0
    house.run(1)
    assert isinstance(house.last(late), DeadlineError)
    assert not house.executor.ended[late]
    house.run()
    assert waiting.done.is_set()


def test_who_waits_in_vain_is_refused_after_a_while(clock: Clock) -> None:
    house = House(places=1)
    paused, waiting = house.submit(request(), granted=1), house.submit(request(), granted=1)
    house.run()
    clock.now = PATIENCE - 0.1
    house.loop.wake()
    house.run()
    assert not waiting.done.is_set()
    clock.now = PATIENCE
    house.loop.wake()
    house.run()
    assert isinstance(house.last(waiting), InsufficientMemoryError)
    assert not paused.done.is_set()


def test_only_one_is_refused_at_a_time_and_those_behind_it_may_fit(clock: Clock) -> None:
    """Beside a caller who does not go on there is room for a small one, but not for the large one before it."""
    house = House()
    paused = house.submit(request(), granted=1)
    house.run()
    large, small = house.submit(request(tokens=50)), house.submit(request())
    house.room.admit = lambda one, running: one is not large  # type: ignore[method-assign]
    house.run()
    clock.now = PATIENCE
    house.loop.wake()
    house.run()
    assert isinstance(house.last(large), InsufficientMemoryError)
    assert isinstance(house.last(small), GenerationChunk)
    assert not paused.done.is_set()


def test_who_waits_is_looked_at_again_until_that_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a timer that keeps no process from ending, one at a time; whether its thread has ended does not matter."""
    started: list[Timer] = []
    monkeypatch.setattr(Timer, "start", lambda timer: started.append(timer))
    house = House(places=1)
    house.submit(request(), granted=1)
    house.submit(request(), granted=1)
    house.run()
    for count in (1, 2, 3):
        for _ in range(2):
            house.loop.wake()
            house.run()
            assert len(started) == count
        started[-1].function()
        house.run()
    assert len(started) == 4
    assert all(timer.daemon for timer in started)


def test_what_is_fetched_from_disk_is_waited_for_and_asked_for_once() -> None:
    house = House()
    restored, other = house.submit(request(), restores=True), house.submit(request(answer=9))
    house.run()
    assert other.done.is_set()
    assert (restored.status, restored in house.executor.read_so_far) == (Status.WAITING, False)
    (ready,) = house.executor.ready
    ready()
    house.run()
    assert isinstance(house.last(restored), GenerationChunk)


def test_what_was_read_is_shared_with_its_pool_and_nobody_else() -> None:
    house = House()
    house.submit(request())
    one = house.submit(request(), pool=Pool(4, 4))
    house.run()
    assert house.executor.shared == [one]


def test_progress_counts_what_is_to_be_read() -> None:
    house = House()
    whole, part = house.submit(request(tokens=9)), house.submit(request(tokens=9, read_to=4))
    house.run()
    for one, total in ((whole, 9), (part, 4)):
        totals = [event.total for event in house.events[one] if isinstance(event, PrefillProgress)]
        assert set(totals) == {total}


def test_who_waits_for_a_slow_caller_is_not_refused(clock: Clock) -> None:
    """Between two of its events every caller looks as if it did not go on."""
    house = House(places=1)
    slow, waiting = house.submit(request(answer=30), granted=1), house.submit(request(), granted=9)
    while not slow.done.is_set():
        house.run()
        clock.now += PATIENCE / 2
        house.loop.grant(slow)
    house.run()
    assert clock.now > 10 * PATIENCE
    assert isinstance(house.last(waiting), GenerationChunk)


def test_nobody_waits_for_ever_once_the_thread_is_gone() -> None:
    """Also where a round was on its way when that happened, as in the child of a fork."""
    house = House()
    house.submit(request())
    house.thread.closed = True
    with pytest.raises(KitClosedError):
        house.submit(request())


def test_cancelling_says_whether_somebody_will_do_it() -> None:
    """Who waits for the end of a stream need not, if nobody is left."""
    house = House()
    one = house.submit(request())
    assert house.loop.cancel(one)
    house.run()
    assert isinstance(house.last(one), GenerationCancelled)
    house.thread.closed = True
    assert not house.loop.cancel(one)


def test_many_small_requests_do_not_starve_a_large_one() -> None:
    house = House()
    pool = Pool(3, 4)
    small = [house.submit(request(answer=3), pool=pool) for _ in range(3)]
    large = house.submit(request())
    # The large one needs everything.
    house.room.admit = lambda one, running: not running if one is large else large not in running  # type: ignore[method-assign]
    for _ in range(100):
        if large.done.is_set():
            break
        house.run(2)
        while sum(not one.done.is_set() for one in small) < 3:
            small.append(house.submit(request(answer=3), pool=pool))
    assert isinstance(house.last(large), GenerationChunk)


POOLS = [None, Pool(1, 3), Pool(3, 2)]
SUBMIT = st.fixed_dictionaries(
    {
        "what": st.just("submit"),
        "tokens": st.integers(1, 9),
        "answer": st.integers(1, 4),
        "step": st.integers(1, 5),
        "read": st.booleans(),
        "pool": st.integers(0, 2),
        "paused": st.booleans(),
        "fails": st.sampled_from([""] * 6 + ["begin", "read", "share", "batch", "write", "end"]),
        "restores": st.booleans(),
        "breaks_at": st.sampled_from([0, 0, 0, 1, 2, 4]),
        "deadline": st.sampled_from([None, None, 3.0, 8.0]),
    }
)
OTHER = st.fixed_dictionaries(
    {
        "what": st.sampled_from(["grant", "grant", "cancel", "restored", "wait", "run", "run", "refuse"]),
        "number": st.integers(0, 9),
    }
)


TOLD = {
    PrefillProgress,
    GenerationChunk,
    ZeroDivisionError,
    GenerationCancelled,
    DeadlineError,
    InsufficientMemoryError,
}


def act(house: House, clock: Clock, action: dict[str, Any]) -> None:
    if action["what"] == "submit":
        tokens = action["tokens"]
        pool = POOLS[action["pool"]]
        read_to = max(1, tokens - 1) if action["read"] and pool is None else None
        asked = request(tokens, action["answer"], step=action["step"], read_to=read_to)
        deadline = None if action["deadline"] is None else clock.now + action["deadline"]
        house.submit(
            asked, pool=pool, granted=1 if action["paused"] and pool is None else None, deadline=deadline,
            fails=action["fails"], restores=action["restores"], breaks_at=action["breaks_at"],
        )  # fmt: skip
        return
    number = action["number"]
    chosen = house.jobs[number % len(house.jobs)] if house.jobs else None
    match action["what"]:
        case "grant" if chosen is not None and chosen.granted is not None:
            house.loop.grant(chosen)
        case "cancel" if chosen is not None:
            house.loop.cancel(chosen)
        case "restored" if house.executor.ready:
            house.executor.ready.pop(number % len(house.executor.ready))()
        case "wait":
            clock.now += number / 3
            house.loop.wake()
        case "run":
            house.thread.run(number)
        case "refuse":
            house.room.places = 1 + number % 4


def check(house: House) -> None:
    running = house.scheduler.running()
    for pool in POOLS[1:]:
        assert pool is not None
        assert sum(one.pool is pool for one in running) <= pool.max_rows
    assert len(house.room.updates) == len(house.executor.ended)
    assert house.late == []


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(actions=st.lists(st.one_of(SUBMIT, OTHER, OTHER), max_size=40))
def test_whatever_happens_every_request_ends_once(clock: Clock, actions: list[dict[str, Any]]) -> None:
    clock.now = 0.0
    house = House()
    for action in actions:
        act(house, clock, action)
        check(house)
    # From here on every caller goes on and the disk answers; so each request ends within so many rounds.
    house.room.places = max(1, house.room.places)
    for one in house.jobs:
        for _ in range(0 if one.granted is None else 30):
            house.loop.grant(one)
    rounds = 0
    while house.thread.posted or house.executor.ready:
        for ready in house.executor.ready[:]:
            house.executor.ready.remove(ready)
            ready()
        house.thread.run()
        check(house)
        rounds += 1
        assert rounds < 40 * (len(house.jobs) + 2), "somebody starves"
    assert house.scheduler.jobs == []
    for one in house.jobs:
        events = house.events[one]
        lasts = [event for event in events if is_last(event, one.request)]
        assert one.done.is_set()
        assert len(lasts) == 1, events
        assert is_last(events[-1], one.request), events
        # Above all no AssertionError of the executor's, nor a KeyError of the loop's.
        assert {type(event) for event in events} <= TOLD, events
        assert one in house.executor.ended
        seen = [event.processed for event in events if isinstance(event, PrefillProgress)]
        assert seen == sorted(seen)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sizes=st.lists(st.tuples(st.integers(2, 20), st.integers(1, 5)), min_size=2, max_size=5), together=st.booleans())
def test_a_prompts_turn_ends_with_as_many_tokens_as_a_step_may_have(
    sizes: list[tuple[int, int]], together: bool
) -> None:
    """However snapshots cut it, and whoever is read along: nobody who waits is passed over for longer."""
    house = House()
    pool = Pool(8, 5) if together else None
    jobs = [house.submit(request(tokens, step=step), pool=pool) for tokens, step in sizes]
    house.run()
    steps = house.executor.steps
    for one in jobs:
        mine = [at for at, step in enumerate(steps) if one in step]
        for at, again in pairwise(mine):
            between = steps[at + 1 : again]
            for other in jobs:
                # Only those whose turn it is lead a step.
                led = [step[other] for step in between if next(iter(step)) is other]
                assert sum(led) < 2 * other.step_size


def test_prompts_of_a_pool_are_read_together_as_far_as_they_fit_into_one_step() -> None:
    """Padded to the longest: three of 3 tokens fit into 9, a fourth does not, nor do pictures, nor other pools."""
    scheduler = Scheduler(Room())
    pool = Pool(8, 9)
    short = [job(4, pool=pool, step=99) for _ in range(4)]
    others = [job(4, step=99), job(4, pool=Pool(8, 9), step=99), job(13, pool=pool, step=99)]
    begun(scheduler, short[0], *others, *short[1:])
    order = []
    while read := scheduler.next_step().read:
        order.append([(step.job, step.start, step.stop) for step in read if isinstance(step, Read)])
        for step in read:
            assert isinstance(step, Read)
            scheduler.has_read(scheduler[step.job], step.stop)
    alone, elsewhere, long = others
    assert order == [
        [(one.id, 0, 3) for one in short[:3]],
        [(alone.id, 0, 3)],
        [(elsewhere.id, 0, 3)],
        [(long.id, 0, 9)],
        [(short[3].id, 0, 3), (long.id, 9, 12)],
    ]


def test_a_prompt_with_pictures_is_read_alone() -> None:
    scheduler = Scheduler(Room())
    pool = Pool(8, 99)
    jobs = [job(4, pool=pool, step=99) for _ in range(3)]
    layout = MediaLayout((MediaSpan(1, 2, 1, (1, 2, 2)),), 4)
    prompt = replace(jobs[1].request.prompt, layout=layout)
    jobs[1].request = replace(jobs[1].request, prompt=prompt)
    begun(scheduler, *jobs)
    found = []
    while read := scheduler.next_step().read:
        found.append([step.job for step in read])
        for step in read:
            assert isinstance(step, Read)
            scheduler.has_read(scheduler[step.job], step.stop)
    assert found == [[jobs[0].id, jobs[2].id], [jobs[1].id]]


def test_a_failed_step_ends_those_that_it_read_and_nobody_else() -> None:
    house = House()

    def begin(one: Job, on_ready: Callable[[], None]) -> tuple[int, list[int], Sequence[int]]:
        house.executor.read_so_far[one] = 0
        return 0, [], ()

    house.executor.begin = begin  # type: ignore[method-assign]
    pool = Pool(8, 9)
    broken, beside = (house.submit(request(4, step=9), pool=pool, fails=fails) for fails in ("read", ""))
    other = house.submit(request(4, step=9))
    house.run()
    assert isinstance(house.last(broken), ZeroDivisionError)
    assert isinstance(house.last(beside), ZeroDivisionError)
    assert getattr(house.last(other), "finish_reason", None) == "length"


def test_steps_are_plain_data() -> None:
    step = Step((Begin(1),), (Read(1, 0, 3), Encode(2, 0)), (Write((3, 4)),))
    assert step == Step((Begin(1),), (Read(1, 0, 3), Encode(2, 0)), (Write((3, 4)),))
    assert len({step, Step()}) == 2
    assert not Step()
    assert step
