"""Threads for what blocks: parsing, fetching, decoding, tokenising, compiling."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from mlx_qwen35.errors import EngineFullError
from mlx_qwen35.server.generation import RequestTimeoutError

T = TypeVar("T")

# Requests that are prepared at the same time.
PREPARING = 4
# Threads that nobody waits for any more, but that are still at it.
MAX_ABANDONED = 16


class PreparingThreads:
    """Runs functions on threads of their own, a few at a time, for as long as somebody waits for the result.

    No thread can be ended from outside. One whose caller has left, or whose time is up, makes room for the next, and
    does not keep the process from ending.
    """

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(PREPARING)
        self._abandoned = 0
        self._lock = threading.Lock()

    async def run(self, function: Callable[..., T], *args: Any, deadline: float) -> T:
        """The function's result; its exception is raised here.

        Args:
            deadline: Of `time.monotonic`.
        Raises:
            RequestTimeoutError: It took longer.
            EngineFullError: Too many threads work for nobody.
        """
        try:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            async with asyncio.timeout(left), self._slots:
                if self._abandoned >= MAX_ABANDONED:
                    raise EngineFullError(f"{self._abandoned} earlier requests are still being prepared")
                return await self._start(function, args)
        except TimeoutError:
            raise RequestTimeoutError("expected the request to be prepared in time") from None

    async def _start(self, function: Callable[..., T], args: tuple[Any, ...]) -> T:
        outcome: Future[T] = Future()
        waited_for = True

        def work() -> None:
            try:
                result = function(*args)
            except BaseException as error:
                outcome.set_exception(error)
            else:
                outcome.set_result(result)
            finally:
                with self._lock:
                    self._abandoned -= not waited_for

        threading.Thread(target=work, name="mlx_qwen35 preparing", daemon=True).start()
        result = asyncio.wrap_future(outcome)
        # Of an abandoned thread nobody asks for the exception, which asyncio would complain about.
        result.add_done_callback(lambda future: future.cancelled() or future.exception())
        try:
            # Shielded: a future that was cancelled takes no result.
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            with self._lock:
                waited_for = outcome.done()
                self._abandoned += not waited_for
            raise
