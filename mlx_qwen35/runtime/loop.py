"""The one loop that runs requests: ask the scheduler, carry its step out, hand over what it gave."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from mlx_qwen35.answers.results import GenerationChunk, PrefillProgress
from mlx_qwen35.errors import GenerationCancelled, InsufficientMemoryError, KitClosedError
from mlx_qwen35.runtime.executor import Executor
from mlx_qwen35.runtime.request import Event, Job, Status
from mlx_qwen35.runtime.scheduler import Begin, Encode, Read, Scheduler, Step, Write
from mlx_qwen35.runtime.thread import MlxThread

# A request that waits for memory which only callers who do not go on could give back is refused after so many seconds.
PATIENCE = 2.0


class Loop:
    """Runs jobs on the thread that owns MLX, one step after the other; any thread may call it.

    Each step is a piece of work for that thread, so other work runs between two of them. What callers want comes in
    through a queue, and everything else happens on that thread: nothing here needs a lock, and Ctrl-C in a caller finds
    nothing half done.
    """

    def __init__(self, thread: MlxThread, scheduler: Scheduler, executor: Executor) -> None:
        self._thread = thread
        self._scheduler, self._executor = scheduler, executor
        self._wishes: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._awake = False
        self._closed = False
        # Whether somebody will wake it to look for what has waited long enough.
        self._comes_back = False

    def submit(self, job: Job) -> None:
        """Run a job.

        Raises:
            KitClosedError: After `close`.
        """
        self._wish(lambda: self._add(job))

    def grant(self, job: Job) -> None:
        """The job's caller wants one more event."""

        def more() -> None:
            assert job.granted is not None
            job.granted += 1

        self._wish(more)

    def cancel(self, job: Job) -> bool:
        """End a job at its next step; its last event is then `GenerationCancelled`. What was read is kept.

        Returns:
            Whether there is still somebody who does so.
        """

        def stop() -> None:
            job.cancelled = True
            if job.id not in self._scheduler:
                # It has ended, or Ctrl-C came before it was handed over.
                job.done.set()

        try:
            self._wish(stop)
        except KitClosedError:
            return False
        return True

    def wake(self) -> None:
        """Look whether there is something to do."""
        with suppress(KitClosedError):
            self._thread.post(self._wake)

    def runs_here(self) -> bool:
        """Whether the calling thread is the one that the loop runs on."""
        return self._thread.is_current()

    def close(self, error: Exception) -> None:
        """End every job with an error, and take no more; only on the thread that owns MLX."""
        self._closed = True
        self._fulfil()
        self._fail(error)
        self._executor.close()

    def _wish(self, wish: Callable[[], None]) -> None:
        if self._closed:
            raise KitClosedError("this ModelKit was closed: load it again")
        self._wishes.put(wish)
        # A message for each: what only one of the callers was to send, Ctrl-C could keep it from sending.
        self._thread.post(self._hear)

    def _hear(self) -> None:
        self._fulfil()
        self._wake()

    def _fulfil(self) -> None:
        with suppress(Empty):
            while True:
                self._wishes.get_nowait()()

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            with suppress(KitClosedError):
                self._thread.post(self._round)

    def _add(self, job: Job) -> None:
        if self._closed:
            job.finish(KitClosedError("this ModelKit was closed: load it again"))
        else:
            self._scheduler.add(job)

    def _round(self) -> None:
        """One step."""
        self._awake = False
        self._fulfil()
        try:
            for job, error in self._scheduler.overdue(time.monotonic()):
                self._end(job, error)
            step = self._scheduler.next_step()
            self._run(step)
        except Exception as error:
            self._fail(error)
            return
        if step:
            # Somebody went on, so nobody waited in vain.
            for job in self._scheduler.jobs:
                job.stalled_since = None
            self._wake()
        else:
            self._look_for_stalled()

    def _run(self, step: Step) -> None:
        for begin in step.begin:
            self._guard(begin.job, self._begin, begin)
        if step.read:
            self._read(step.read)
        for write in step.write:
            self._write(write)

    def _guard(self, number: int, function: Callable[[Job, Any], None], step: Any) -> None:
        """Carry out what concerns one job; where it fails, only that job ends."""
        job = self._scheduler[number]
        try:
            function(job, step)
        except Exception as error:
            self._end(job, error)

    def _begin(self, job: Job, step: Begin) -> None:
        def ready() -> None:
            def go_on() -> None:
                job.restoring = False

            with suppress(KitClosedError):
                self._wish(go_on)

        found = self._executor.begin(job, ready)
        if found is None:
            job.restoring = True
            return
        cached, pieces, stops = found
        self._scheduler.begun(job, cached, pieces, stops)
        self._tell_progress(job)

    def _read(self, steps: Sequence[Encode | Read]) -> None:
        found = [(self._scheduler[step.job], step) for step in steps if step.job in self._scheduler]
        try:
            self._executor.read(found)
        except Exception as error:
            for job, _ in found:
                self._end(job, error)
            return
        for job, step in found:
            self._guard(job.id, self._has_read, step)

    def _has_read(self, job: Job, step: Encode | Read) -> None:
        if isinstance(step, Encode):
            self._scheduler.encoded(job)
        else:
            self._scheduler.has_read(job, step.stop)
        if job.pool is not None and job.status is Status.WRITING:
            self._executor.share(job)
        self._tell_progress(job)

    def _tell_progress(self, job: Job) -> None:
        """How much is read; that is the last event of a request that only reads, once it has."""
        request = job.request
        total = len(request.prompt.input_ids) if request.read_to is None else request.read_to
        progress = PrefillProgress(job.position, total, job.frames_seen, job.frames)
        if job.status is Status.WRITING and request.read_to is not None:
            self._end(job, progress)
        else:
            job.tell(progress)

    def _write(self, step: Write) -> None:
        jobs = [self._scheduler[number] for number in step.jobs if number in self._scheduler]
        try:
            found = self._executor.write(jobs)
        except Exception as error:
            found = {job: [error] for job in jobs}
        for job, events in found.items():
            for event in events:
                last = isinstance(event, BaseException) or getattr(event, "finish_reason", None) is not None
                if last:
                    self._end(job, event)
                elif job.id in self._scheduler:
                    job.tell(event)

    def _end(self, job: Job, last: Event) -> None:
        """The one way for a job to end: its memory is given back or kept, then its caller is told.

        Of a job that has ended already, as when a sink closes the kit, nothing is left to do.
        """
        if job.id not in self._scheduler:
            return
        try:
            self._scheduler.end(job)
            keep = isinstance(last, PrefillProgress | GenerationChunk | GenerationCancelled)
            self._executor.end(job, keep=keep)
        except Exception as error:
            last = last if isinstance(last, BaseException) else error
        job.finish(last)

    def _fail(self, error: Exception) -> None:
        """End every job."""
        for job in self._scheduler.jobs:
            self._end(job, error)

    def _look_for_stalled(self) -> None:
        """Nothing could be done: refuse what waits in vain, and come back for what has not waited long enough."""
        now = time.monotonic()
        stalled = [job for job in self._scheduler.jobs if self._scheduler.stalled(job)]
        for job in stalled:
            if job.stalled_since is None:
                job.stalled_since = now
            elif now - job.stalled_since >= PATIENCE:
                self._end(
                    job,
                    InsufficientMemoryError(
                        "memory: expected room for another request beside those that are open, found none; read the "
                        "other answers to their end or close them"
                    ),
                )
                # Those behind it may fit now.
                self._wake()
                break
        if stalled and not self._comes_back:
            self._comes_back = True
            timer = threading.Timer(PATIENCE / 4, self._come_back)
            timer.daemon = True
            timer.start()

    def _come_back(self) -> None:
        # Before the loop is woken, which may look before this thread has ended.
        self._comes_back = False
        self.wake()
