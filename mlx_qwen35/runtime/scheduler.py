"""What to do next, decided from where the requests stand; knows no model and no array.

Prompts are read a chunk at a time, in turn, short ones of a pool together, and between two chunks every answer grows by
a token. Steps are plain data: they can be logged, tested without a model, and sent to other machines.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mlx_qwen35.errors import DeadlineError, GenerationCancelled
from mlx_qwen35.runtime.request import Job, Pool, Status


@dataclass(frozen=True)
class Encode:
    """Let the vision tower look at one image of a prompt."""

    job: int
    image: int


@dataclass(frozen=True)
class Read:
    """Read the tokens [start, stop) of a prompt, and take a snapshot behind them if asked to.

    Those of one step are read in the same forward pass.
    """

    job: int
    start: int
    stop: int
    snapshot: bool = False


@dataclass(frozen=True)
class Write:
    """One more token for each of these jobs, in one forward pass."""

    jobs: tuple[int, ...]


@dataclass(frozen=True)
class Begin:
    """Make a job's caches, from what was read before where that is possible."""

    job: int


@dataclass(frozen=True)
class Step:
    """What is done before the scheduler is asked again, in this order."""

    begin: tuple[Begin, ...] = ()
    read: tuple[Encode | Read, ...] = ()
    write: tuple[Write, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.begin or self.read or self.write)


class Admission(Protocol):
    """Whether memory has room for another request."""

    def admit(self, job: Job, running: Sequence[Job]) -> bool:
        """Set memory aside for a job beside those that run, or say that there is none."""

    def update(self, running: Sequence[Job]) -> None:
        """Give back what these do not need."""


class Scheduler:
    """Decides steps; everything happens on one thread, but for the counts.

    A job is WAITING until `Begin` was carried out, READING until its prompt is read, WRITING until its last event.

    Args:
        admission: Asked in the order in which jobs came: who waits for memory is overtaken by none, who waits for a
            row of its pool by other pools only.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._jobs: dict[int, Job] = {}
        # The prompts that are being read, in the order of their turns.
        self._turns: deque[Job] = deque()

    @property
    def jobs(self) -> list[Job]:
        """All that are not DONE, in the order in which they came."""
        return list(self._jobs.values())

    def running(self) -> list[Job]:
        """Jobs that hold memory."""
        return [job for job in self._jobs.values() if job.admitted]

    def __getitem__(self, job: int) -> Job:
        return self._jobs[job]

    def __contains__(self, job: int) -> bool:
        return job in self._jobs

    def add(self, job: Job) -> None:
        """A new job."""
        self._jobs[job.id] = job

    def overdue(self, now: float) -> list[tuple[Job, Exception]]:
        """Jobs that are to be ended before the next step, and with what."""
        found: list[tuple[Job, Exception]] = []
        for job in self._jobs.values():
            if job.cancelled:
                found.append((job, GenerationCancelled("cancelled")))
            elif job.deadline is not None and now >= job.deadline:
                found.append((job, DeadlineError("expected an answer within the time that it may take, found no end")))
        return found

    def next_step(self) -> Step:
        """What to do next; an empty step if every job waits for its caller or for memory."""
        return Step(tuple(self._admit()), tuple(self._reading()), tuple(self._writing()))

    def stalled(self, job: Job) -> bool:
        """Whether a job waits for memory that only callers who do not go on could give back."""
        return not job.admitted and job.wanted and not any(other.wanted for other in self.running())

    def begun(self, job: Job, cached: int, images: Iterable[int], stops: Iterable[int]) -> None:
        """`Begin` was carried out: so much had been read before, and this is left to do."""
        job.status = Status.READING
        job.cached = job.position = cached
        job.images, job.stops = tuple(images), tuple(stops)
        self._turns.append(job)
        self._next_status(job)

    def encoded(self, job: Job) -> None:
        """The job's first image was encoded."""
        job.images = job.images[1:]
        self._next_status(job)

    def has_read(self, job: Job, position: int) -> None:
        """So many tokens of the prompt are read."""
        job.position = position
        self._next_status(job)

    def end(self, job: Job) -> None:
        """A job is done, however it ended."""
        self._jobs.pop(job.id, None)
        if job in self._turns:
            self._turns.remove(job)
        job.status, job.admitted = Status.DONE, False
        self._admission.update(self.running())

    def _next_status(self, job: Job) -> None:
        if not job.images and job.position >= job.request.stop_reading:
            self._turns.remove(job)
            job.status = Status.WRITING

    def _admit(self) -> Iterable[Begin]:
        running = self.running()
        full: set[Pool] = set()
        refused = False
        for job in self._jobs.values():
            if job.status is not Status.WAITING or job.restoring or job.pool in full or not job.wanted:
                continue
            if not job.admitted:
                if job.pool is not None and sum(other.pool is job.pool for other in running) >= job.pool.max_rows:
                    full.add(job.pool)
                    continue
                if refused or not self._admission.admit(job, running):
                    refused = True
                    continue
                job.admitted = True
                running.append(job)
            yield Begin(job.id)

    def _reading(self) -> Iterable[Encode | Read]:
        first = next((job for job in self._turns if job.wanted), None)
        if first is None:
            return
        if first.images:
            self._next_turn(first)
            yield Encode(first.id, first.images[0])
            return
        chosen: list[tuple[Job, Read]] = []
        longest, most = 0, first.step_size
        for job in [first, *(job for job in self._turns if job.reads_with(first))]:
            read = _next_chunk(job)
            longer, fewer = max(longest, read.stop - read.start), min(most, job.step_size)
            # Padded, they are no more than a chunk of any of them may be.
            if not chosen or (len(chosen) + 1) * longer <= fewer:
                chosen.append((job, read))
                longest, most = longer, fewer
        for job, read in chosen:
            job.turn += read.stop - read.start
            if job.turn >= job.step_size:
                self._next_turn(job)
            yield read

    def _next_turn(self, job: Job) -> None:
        """The others come first now."""
        self._turns.remove(job)
        self._turns.append(job)
        job.turn = 0

    def _writing(self) -> Iterable[Write]:
        pools: dict[Pool, list[int]] = {}
        for job in self._jobs.values():
            if job.status is not Status.WRITING or not job.wanted:
                continue
            if job.pool is None:
                yield Write((job.id,))
            else:
                pools.setdefault(job.pool, []).append(job.id)
        for jobs in pools.values():
            yield Write(tuple(jobs))


def _next_chunk(job: Job) -> Read:
    """What is to be read of a prompt next, up to a place where a snapshot is wanted."""
    end = job.request.stop_reading
    following = [stop for stop in job.stops if job.position < stop <= end]
    stop = min([job.position + job.step_size, end, *following])
    return Read(job.id, job.position, stop, snapshot=stop in following)
