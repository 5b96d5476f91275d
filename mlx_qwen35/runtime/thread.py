"""The thread that owns MLX.

MLX keeps its streams per thread: a lazy array made in one thread cannot be evaluated in
another. So every piece of work of a kit runs on one thread of its own, and callers from
any thread wait for it.
"""

import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

import mlx.core as mx

from mlx_qwen35.errors import KitClosedError

T = TypeVar("T")
_END = object()
_FORKED = (
    "a ModelKit was loaded before a fork, which MLX's threads do not outlive: load one in a new process, as "
    "multiprocessing's 'spawn' starts it"
)
# Where the first thread of this kind began: a child of a fork has copies of MLX's own, which would be waited for.
_first_process: int | None = None
_Job = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def check_process() -> None:
    """Make sure that MLX works in this process.

    Raises:
        KitClosedError: It was forked from one that had such a thread.
    """
    if _first_process not in (None, os.getpid()):
        raise KitClosedError(_FORKED)


class MlxThread:
    """Runs functions one after the other, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._worker = _Worker()
        # Also at the end of the process: only the thread itself can release its streams, and MLX
        # aborts the process if nobody does.
        self.close = weakref.finalize(self, self._worker.finish)

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a function on the thread and wait for its result; its exception is raised here.

        Raises:
            KitClosedError: After `close`.
        """
        if self.is_current():
            # A generator that is collected on this thread closes itself here.
            return function(*args, **kwargs)
        future: Future[T] = Future()
        self._worker.submit((future, function, args, kwargs))
        return future.result()

    def is_current(self) -> bool:
        """Whether the caller runs on this thread."""
        return threading.current_thread() is self._worker.thread

    def post(self, function: Callable[[], object]) -> None:
        """Run a function on the thread some time; nobody waits for it, so it has to deal with its own exceptions.

        Raises:
            KitClosedError: After `close`.
        """
        self._worker.submit((Future(), function, (), {}))

    @property
    def is_forked(self) -> bool:
        """Whether this process is a child of the one that the thread runs in."""
        return self._worker.process != os.getpid()

    def check(self) -> None:
        """Make sure that there is a thread which does what is asked for.

        Raises:
            KitClosedError: After `close`, and in the child of a fork.
        """
        self._worker.check()

    def iterate(self, start: Callable[[], Generator[T, None, None]]) -> Iterator[T]:
        """Run a generator on the thread, one step for each value asked for.

        Other work may run between two steps. When the consumer stops, so does the generator.

        Args:
            start: Makes the generator; all work belongs into its steps, which an interruption ends.
        """
        steps = self.call(self._worker.begin, start)
        try:
            while (value := self.call(next, steps, _END)) is not _END:
                yield value
        finally:
            with suppress(KitClosedError):
                self.call(self._worker.end, steps)


class _Worker:
    """The thread and its queue; knows nothing of the object that callers hold."""

    def __init__(self) -> None:
        global _first_process
        check_process()
        _first_process = os.getpid()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        # The collector may close an abandoned stream in whatever this thread is doing, so also here.
        self._lock = threading.RLock()
        self._closed = False
        # A child of a fork has this object, but not its thread.
        self.process = os.getpid()
        self._open: set[Generator[Any, None, None]] = set()
        # A daemon, so that it is still there when the interpreter runs its exit handlers.
        self.thread = threading.Thread(target=self._work, name="mlx_qwen35", daemon=True)
        self.thread.start()

    def submit(self, job: _Job) -> None:
        self.check()
        with self._lock:
            self.check()
            self._jobs.put(job)

    def check(self) -> None:
        # Before the lock is taken: another thread may have held it when the process was forked.
        if os.getpid() != self.process:
            raise KitClosedError(_FORKED)
        if self._closed:
            raise KitClosedError("this ModelKit was closed: load it again")

    def begin(self, start: Callable[[], Generator[T, None, None]]) -> Generator[T, None, None]:
        steps = start()
        self._open.add(steps)
        return steps

    def end(self, steps: Generator[Any, None, None]) -> None:
        self._open.discard(steps)
        steps.close()

    def finish(self) -> None:
        if os.getpid() != self.process:
            return
        with self._lock:
            self._closed = True
            self._jobs.put(None)
        if threading.current_thread() is not self.thread:
            self.thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, function, args, kwargs = job
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)
            # Keep nothing of a job alive while waiting for the next one.
            del job, future, function, args, kwargs
        for steps in list(self._open):
            self.end(steps)
        mx.clear_streams()
