"""Many requests at once on one ModelKit: continuous batching.

Prompts are read a chunk at a time, in turn, and between two chunks every answer grows by a token, all of them together
in one batch, whose rows come and go at any time.
"""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self
from weakref import ref

from mlx_qwen35.answers.sampling import number, whole_number
from mlx_qwen35.errors import EngineFullError, KitClosedError
from mlx_qwen35.runtime.request import Event, Job, Pool, Request, Status

if TYPE_CHECKING:
    from mlx_qwen35.model_kit import ModelKit

MAX_ROWS = 32
MAX_WAITING = 64
# While one prompt is read, the other requests wait for so many tokens of it.
PREFILL_STEP_SIZE = 512


class Reservation:
    """A place in an engine's queue, so that a request which has to be prepared first cannot be refused afterwards."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back: Callable[[], None] | None = give_back

    def release(self) -> None:
        """Give the place back, unless that was done."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class Engine:
    """Runs requests of one kit together. Any thread may call it.

    Every answer is what the request alone would get: greedy tokens are the same, whatever runs beside
    them, and earlier turns are not read again. The kit can be used directly meanwhile, and takes turns.

    Args:
        max_rows: Requests that are read and answered at the same time.
        max_waiting: Further ones that wait for their turn.
        prefill_step_size: Tokens of a prompt that are read at once, at most.
    Raises:
        OptionError: An option is out of range.
    """

    def __init__(
        self,
        kit: "ModelKit",
        *,
        max_rows: int = MAX_ROWS,
        max_waiting: int = MAX_WAITING,
        prefill_step_size: int = PREFILL_STEP_SIZE,
    ) -> None:
        self.kit = kit
        self._pool = Pool(
            whole_number("max_rows", max_rows, 1), whole_number("prefill_step_size", prefill_step_size, 1)
        )
        self._max_waiting = whole_number("max_waiting", max_waiting, 0)
        # Replaced whole, so that it can be looked at without the lock. Whoever runs a job holds it: one that has ended
        # is not to keep its prompt, with all pixels of its images, until the next one comes.
        self._submitted: tuple[ref[Job], ...] = ()
        self._places = 0
        self._lock = threading.Lock()
        self._accepting = True

    def __repr__(self) -> str:
        return f"<Engine over {self.kit!r}: {self.running} running, {self.waiting} waiting>"

    @property
    def running(self) -> int:
        """Requests that are being read or answered."""
        return sum(job.status in (Status.READING, Status.WRITING) for job in self._jobs())

    @property
    def waiting(self) -> int:
        """Requests whose turn has not come."""
        return sum(job.status is Status.WAITING for job in self._jobs())

    @property
    def capacity(self) -> int:
        """Requests that it has places for, those that wait included."""
        return self._max_waiting + self._pool.max_rows

    def reserve(self) -> Reservation:
        """A place for a request that is still to be prepared; `submit` takes it over.

        Raises:
            EngineFullError: Too many are waiting.
            KitClosedError: After `close`.
        """
        with self._lock:
            self._check_accepting()
            if self._places >= self.capacity:
                raise EngineFullError(f"expected at most {self._max_waiting} requests that wait, found as many")
            self._places += 1
        return Reservation(self._give_back)

    def submit(
        self,
        request: Request,
        sink: Callable[[Event], None],
        *,
        reservation: Reservation | None = None,
        timeout: float | None = None,
    ) -> Job:
        """Run a request; every event goes to `sink`, the last being a finished chunk or an error.

        Args:
            request: From `ModelKit.request`.
            sink: Called on the thread that owns MLX; has to return at once.
            reservation: From `reserve`, if the request has its place already.
            timeout: Seconds after which it is ended with a DeadlineError; None for none.
        Returns:
            What `cancel` takes.
        Raises:
            EngineFullError: Too many are waiting.
            KitClosedError: After `close`.
            OptionError: The timeout is no positive number.
        """
        deadline = None if timeout is None else time.monotonic() + number("timeout", timeout, 0.0, open_low=True)
        place = self.reserve() if reservation is None else reservation
        job = Job(request, sink, self._pool, deadline=deadline, on_done=place.release)
        try:
            with self._lock:
                # Once more: the place may have been reserved before `close`, which waits for what stands here.
                self._check_accepting()
                self._submitted = (*(ref(other) for other in self._jobs() if not other.done.is_set()), ref(job))
            self.kit._loop.submit(job)
        except BaseException:
            job.status = Status.DONE
            place.release()
            job.done.set()
            raise
        return job

    def cancel(self, job: Job) -> None:
        """End a request at its next step; its last event is then `GenerationCancelled`. What was read is kept."""
        self.kit._loop.cancel(job)

    def close(self, timeout: float | None = None) -> None:
        """Take nothing more, finish what is running, and return when everything has ended.

        Args:
            timeout: After so many seconds what still runs is cancelled; None waits for it.
        Raises:
            KitClosedError: Something still runs, in the process that this one was forked from.
        """
        with self._lock:
            self._accepting = False
        try:
            self.kit._thread.check()
        except KitClosedError:
            if not all(job.done.is_set() for job in self._jobs()):
                raise
        deadline = None if timeout is None else time.monotonic() + timeout
        jobs = self._jobs()
        for job in jobs:
            job.done.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        left = [job for job in jobs if not job.done.is_set()]
        for job in left:
            self.cancel(job)
        for job in left:
            job.done.wait()

    def _jobs(self) -> list[Job]:
        """Those that were submitted and are still there."""
        return [job for submitted in self._submitted if (job := submitted()) is not None]

    def _check_accepting(self) -> None:
        if not self._accepting:
            raise KitClosedError("this engine was closed")

    def _give_back(self) -> None:
        with self._lock:
            self._places -= 1
