"""The stream of an answer, by `for` and by `async for`."""

import asyncio
import threading
from collections.abc import Generator
from contextlib import aclosing
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.answers.results import GenerationChunk, PrefillProgress
from mlx_qwen35.answers.sampling import SamplingOptions
from mlx_qwen35.errors import GenerationCancelled
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.runtime.request import Event, Job, Request
from mlx_qwen35.runtime.stream import AnswerStream, stream
from tests.runtime.interrupting import interrupted_anywhere

PROMPT = "the quick brown fox"
CHUNK = GenerationChunk("a", "", 1)


def test_async_for_gives_what_for_gives(kit: ModelKit) -> None:
    """To two callers of one event loop as well, in turns."""

    async def collect() -> list[int]:
        return [chunk.token async for chunk in kit.stream(PROMPT, max_tokens=6, temperature=0.0)]

    async def both() -> list[list[int]]:
        return list(await asyncio.gather(collect(), collect()))

    tokens = [chunk.token for chunk in kit.stream(PROMPT, max_tokens=6, temperature=0.0)]
    assert len(tokens) == 6
    assert asyncio.run(both()) == [tokens, tokens]


def test_the_event_loop_is_free_while_a_token_is_computed() -> None:
    computing, done = threading.Event(), threading.Event()

    def chunks() -> Generator[GenerationChunk]:
        computing.set()
        assert done.wait(60)
        yield CHUNK

    async def both() -> GenerationChunk:
        token = asyncio.ensure_future(anext(AnswerStream(chunks())))
        await asyncio.to_thread(computing.wait, 60)
        done.set()
        return await token

    assert asyncio.run(both()) == CHUNK


@pytest.mark.thorough
def test_after_ctrl_c_at_any_moment_the_next_request_is_answered(kit: ModelKit) -> None:
    """A flag was set, and Ctrl-C came before the loop was told: it slept for ever."""
    request = kit.request(PROMPT, max_tokens=2, temperature=0.0)

    def ask() -> list[int]:
        return [event.token for event in stream(kit._loop, request) if isinstance(event, GenerationChunk)]

    expected, moments = ask(), 0
    for _ in interrupted_anywhere(ask):
        moments += 1
        answers: SimpleQueue[list[int]] = SimpleQueue()
        threading.Thread(target=lambda: answers.put(ask()), daemon=True).start()  # noqa: B023
        assert answers.get(timeout=60) == expected
        assert not kit._loop._scheduler.jobs
    assert moments > 50


def test_errors_come_through(kit: ModelKit) -> None:
    async def cancelled() -> None:
        async for _ in kit.stream(PROMPT, max_tokens=4, on_progress=lambda done, total: False):
            pass

    with pytest.raises(GenerationCancelled):
        asyncio.run(cancelled())


def test_a_stream_that_is_closed_has_ended() -> None:
    ended = threading.Event()

    def chunks() -> Generator[GenerationChunk]:
        try:
            while True:
                yield CHUNK
        finally:
            ended.set()

    async def leave(stream: AnswerStream) -> None:
        async with aclosing(stream):
            assert await anext(stream) == CHUNK

    stream = AnswerStream(chunks())
    asyncio.run(leave(stream))
    assert ended.is_set()
    assert list(stream) == []


def test_a_cancelled_task_ends_the_answer_behind_the_step_on_its_way() -> None:
    computing, done, ended = threading.Event(), threading.Event(), threading.Event()

    def chunks() -> Generator[GenerationChunk]:
        try:
            yield CHUNK
            computing.set()
            assert done.wait(60)
            yield CHUNK
        finally:
            ended.set()

    async def read(stream: AnswerStream) -> None:
        async for _ in stream:
            pass

    async def cancel(stream: AnswerStream) -> None:
        task = asyncio.ensure_future(read(stream))
        await asyncio.to_thread(computing.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        done.set()
        assert await asyncio.to_thread(ended.wait, 60)

    stream = AnswerStream(chunks())
    asyncio.run(cancel(stream))
    assert list(stream) == []


class Pretended:
    """A loop that has these events, one each time that one is wanted."""

    def __init__(self, *events: Event) -> None:
        self.events = list(events)
        self.jobs: list[Job] = []
        self.cancelled: list[Job] = []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def grant(self, job: Job) -> None:
        job.sink(self.events.pop(0))

    def cancel(self, job: Job) -> bool:
        self.cancelled.append(job)
        return True

    def runs_here(self) -> bool:
        return True


def asked(read_to: int | None) -> Request:
    return Request(Prompt(np.arange(6, dtype=np.int32)), SamplingOptions(), 4, 2, read_to=read_to)


@pytest.mark.parametrize("read_to", [4, None])
def test_what_is_only_read_ends_when_it_has_been_read(read_to: int | None) -> None:
    """Nothing more is asked for; of an answer, reading is not the end."""
    end = GenerationChunk("", "", 1, finish_reason="stop")
    loop = Pretended(PrefillProgress(2, 4), PrefillProgress(4, 4), end)
    assert len(list(stream(loop, asked(read_to)))) == (3 if read_to is None else 2)  # type: ignore[arg-type]


def test_a_stream_that_the_loop_itself_abandons_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is collected there: what it would wait for is to be done by this very thread."""
    loop = Pretended(PrefillProgress(2, 6))
    events: Any = stream(loop, asked(None))  # type: ignore[arg-type]
    next(events)
    (job,) = loop.jobs
    monkeypatch.setattr(job.done, "wait", lambda seconds: pytest.fail("it waits for itself"))
    events.close()
    assert loop.cancelled == [job]
