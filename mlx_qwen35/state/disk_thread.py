"""Where files of prefixes are written and read, so that nobody who computes has to wait for a disk."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

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
