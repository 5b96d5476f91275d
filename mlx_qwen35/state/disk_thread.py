"""Where files of prefixes are written and read, so that nobody who computes has to wait for a disk."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakMethod

import mlx.core as mx

T = TypeVar("T")


class DiskThread:
    """Runs functions one after the other, in the order in which they were asked for; any thread may ask."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._closed = False

    def post(self, function: Callable[..., Any], *args: Any) -> "Future[Any] | None":
        """Run a function some time; None after `close`, when it is not run."""
        with self._lock:
            if self._closed:
                return None
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix="mlx_qwen35 disk")
            return self._executor.submit(_with_streams, function, args)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function and wait for its result; its exception is raised here. After `close` it runs at once."""
        future = self.post(function, *args)
        result: T = _with_streams(function, args) if future is None else future.result()
        return result

    def wait(self) -> None:
        """Until everything that was posted is done."""
        if self._executor is not None:
            self.call(lambda: None)

    def close(self) -> None:
        """Finish what was posted, and take nothing more."""
        with self._lock:
            self._closed = True
        if self._executor is not None:
            self._executor.shutdown()


class Alarm:
    """Calls a method at a time, on a thread of its own; any thread may set it.

    Args:
        method: Has to return at once.
    """

    def __init__(self, method: "WeakMethod[Callable[[], object]]") -> None:
        self._method = method
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._at: float | None = None
        self._closed = False

    def ring_at(self, at: float) -> None:
        """Call the method at this time, by the clock of `time.monotonic`, unless it will be called earlier."""
        with self._lock:
            if self._closed or (self._at is not None and self._at <= at):
                return
            if self._timer is not None:
                self._timer.cancel()
            self._at = at
            self._timer = threading.Timer(max(0.0, at - time.monotonic()), self._ring, (at,))
            self._timer.daemon = True
            self._timer.start()

    def close(self) -> None:
        """Call it no more."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()

    def _ring(self, at: float) -> None:
        with self._lock:
            if self._at == at:
                self._at = self._timer = None
        method = self._method()
        if method is not None:
            method()


def _with_streams(function: Callable[..., T], args: tuple[Any, ...]) -> T:
    """Run a function on a thread of its own: MLX wants a thread's streams released, and gives it no new ones then."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(function(*args))
        except BaseException as error:
            outcome.set_exception(error)
        finally:
            mx.clear_streams()

    thread = threading.Thread(target=run, name="mlx_qwen35 disk job", daemon=True)
    thread.start()
    thread.join()
    return outcome.result()
