"""A request that is run as fast as its caller asks for events."""

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from queue import SimpleQueue

from mlx_qwen35.answers.results import GenerationChunk, PrefillProgress
from mlx_qwen35.runtime.loop import Loop
from mlx_qwen35.runtime.request import Event, Job, Request

# Abandoned streams are ended by whoever collects them, which may be a thread that the loop waits for.
_END_SECONDS = 1.0


class AnswerStream(Iterator[GenerationChunk], AsyncIterator[GenerationChunk]):
    """The chunks of an answer, each computed when it is asked for: by `for`, or by `async for` in another thread."""

    def __init__(self, chunks: Generator[GenerationChunk]) -> None:
        self._chunks = chunks
        self._abandoned = False

    def __next__(self) -> GenerationChunk:
        return next(self._chunks)

    async def __anext__(self) -> GenerationChunk:
        step = asyncio.get_running_loop().run_in_executor(None, self._step)
        try:
            chunk = await asyncio.shield(step)
        except asyncio.CancelledError:
            # The step on its way cannot be interrupted; nothing follows it.
            self._abandoned = True
            raise
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    def _step(self) -> GenerationChunk | None:
        chunk = next(self._chunks, None)
        if self._abandoned:
            self.close()
        return chunk

    def close(self) -> None:
        """End the answer where it is; a stream that nobody holds any more ends by itself."""
        self._chunks.close()

    async def aclose(self) -> None:
        """The same, for `contextlib.aclosing`."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)


def stream(loop: Loop, request: Request) -> Iterator[PrefillProgress | GenerationChunk]:
    """The events of a request, each computed when it is asked for; a caller that stops has stopped the work.

    Raises:
        Qwen35Error, or whatever the caller's own code raised: What ended the request.
    """
    events: SimpleQueue[Event] = SimpleQueue()
    job = Job(request, events.put, granted=0)
    try:
        loop.submit(job)
        while True:
            loop.grant(job)
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if _is_last(event, request):
                return
    finally:
        if not job.done.is_set() and loop.cancel(job) and not loop.runs_here():
            job.done.wait(_END_SECONDS)


def _is_last(event: PrefillProgress | GenerationChunk, request: Request) -> bool:
    if isinstance(event, GenerationChunk):
        return event.finish_reason is not None
    return request.read_to is not None and event.processed >= request.read_to
