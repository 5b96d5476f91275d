"""The thread that owns MLX.

MLX keeps its streams per thread: a lazy array made in one thread cannot be evaluated in
another. So every piece of work of a kit runs on one thread of its own, and callers from
any thread wait for it.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import mlx.core as mx

from mlx_qwen35.errors import KitClosedError

T = TypeVar("T")
_END = object()


class MlxThread:
    """Runs functions one after the other, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlx_qwen35")
        self._ident = self._executor.submit(threading.get_ident).result()
        self._closed = False

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a function on the thread and wait for its result; its exception is raised here.

        Raises:
            KitClosedError: After `close`.
        """
        if threading.get_ident() == self._ident:
            # A generator that is collected on this thread closes itself here.
            return function(*args, **kwargs)
        if self._closed:
            raise KitClosedError("this ModelKit was closed: load it again")
        return self._executor.submit(function, *args, **kwargs).result()

    def iterate(self, start: Callable[[], Iterator[T]]) -> Iterator[T]:
        """Run a generator on the thread, one step for each value asked for.

        Other work may run between two steps. When the consumer stops, so does the generator.
        """
        steps = self.call(start)
        try:
            while (value := self.call(next, steps, _END)) is not _END:
                yield value
        finally:
            if not self._closed:
                self.call(_close, steps)

    def close(self) -> None:
        """Finish what is running, and end the thread; a second call does nothing."""
        if self._closed:
            return
        self.call(mx.clear_streams)
        self._closed = True
        self._executor.shutdown()


def _close(steps: Any) -> None:
    # A list's iterator has nothing to close, a generator has.
    close = getattr(steps, "close", None)
    if close is not None:
        close()
