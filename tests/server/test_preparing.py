"""Threads for what blocks: bounded, and abandoned when nobody waits."""

import asyncio
import gc
import threading
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("uvicorn", reason="needs the server extra")

from mlx_qwen35.errors import EngineFullError, OptionError
from mlx_qwen35.server.generation import RequestTimeoutError
from mlx_qwen35.server.preparing import MAX_ABANDONED, PREPARING, PreparingThreads


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What stuck functions wait for."""
    event = threading.Event()
    yield event
    event.set()


def soon(seconds: float = 60.0) -> float:
    return time.monotonic() + seconds


def test_results_and_exceptions_come_back() -> None:
    def fail() -> None:
        raise OptionError("x: expected y")

    async def run() -> None:
        threads = PreparingThreads()
        assert await threads.run(lambda a, b: a + b, 1, 2, deadline=soon()) == 3
        with pytest.raises(OptionError, match="x: expected y"):
            await threads.run(fail, deadline=soon())

    asyncio.run(run())


def test_a_few_run_at_once_and_the_others_wait(release: threading.Event) -> None:
    running = threading.Semaphore(0)

    def work() -> None:
        running.release()
        release.wait()

    async def run() -> None:
        threads = PreparingThreads()
        tasks = [asyncio.create_task(threads.run(work, deadline=soon())) for _ in range(PREPARING + 3)]
        for _ in range(PREPARING):
            assert await asyncio.to_thread(running.acquire, True, 20)
        assert not await asyncio.to_thread(running.acquire, True, 0.05)
        release.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_what_is_stuck_is_abandoned_at_its_deadline(release: threading.Event) -> None:
    """Its place is free for others, until too many are stuck; once they end all is as before."""

    async def run() -> None:
        threads = PreparingThreads()
        assert MAX_ABANDONED > PREPARING
        # On a slow machine a deadline may pass before its thread is started.
        while threads._abandoned < MAX_ABANDONED:
            with pytest.raises(RequestTimeoutError):
                await threads.run(release.wait, deadline=soon(0.05))
        with pytest.raises(EngineFullError, match=f"{MAX_ABANDONED} earlier requests are still being prepared"):
            await threads.run(int, deadline=soon())
        release.set()
        for _ in range(2000):
            if not threads._abandoned:
                break
            await asyncio.sleep(0.01)
        assert await threads.run(int, deadline=soon()) == 0

    asyncio.run(run())


def test_a_caller_that_leaves_abandons_its_thread(release: threading.Event) -> None:
    begun = threading.Event()

    def work() -> None:
        begun.set()
        release.wait()

    async def run() -> None:
        threads = PreparingThreads()
        task = asyncio.create_task(threads.run(work, deadline=soon()))
        assert await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert threads._abandoned == 1

    asyncio.run(run())


def test_a_deadline_that_has_passed_starts_nothing() -> None:
    called: list[int] = []

    async def run() -> None:
        with pytest.raises(RequestTimeoutError):
            await PreparingThreads().run(called.append, 1, deadline=time.monotonic() - 1)

    asyncio.run(run())
    assert not called


def test_no_thread_keeps_the_process_from_ending() -> None:
    async def run() -> bool:
        return await PreparingThreads().run(lambda: threading.current_thread().daemon, deadline=soon())

    assert asyncio.run(run())


def test_who_leaves_when_the_thread_has_ended_abandons_nothing(release: threading.Event) -> None:
    """However late the loop hears of that: what counts for ever would at last leave no room for anybody."""
    begun: list[threading.Thread] = []

    def work() -> None:
        begun.append(threading.current_thread())
        release.wait()

    async def run() -> None:
        threads = PreparingThreads()
        task = asyncio.create_task(threads.run(work, deadline=soon()))
        while not begun:
            await asyncio.sleep(0)
        # The loop does nothing until the thread has ended, and is told to cancel before it hears of that.
        release.set()
        begun[0].join(20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert threads._abandoned == 0

    asyncio.run(run())


@pytest.mark.thorough
def test_nobody_complains_of_what_fails_after_it_was_abandoned(release: threading.Event) -> None:
    complaints: list[object] = []

    def fail() -> None:
        release.wait()
        raise OptionError("x: expected y")

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        threads = PreparingThreads()
        with pytest.raises(RequestTimeoutError):
            await threads.run(fail, deadline=soon(0.05))
        release.set()
        while threads._abandoned:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        gc.collect()

    asyncio.run(run())
    gc.collect()
    assert complaints == []
