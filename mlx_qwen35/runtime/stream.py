"""A request that is run as fast as its caller asks for events."""

from collections.abc import Iterator
from queue import SimpleQueue

from mlx_qwen35.answers.results import GenerationChunk, PrefillProgress
from mlx_qwen35.runtime.loop import Loop
from mlx_qwen35.runtime.request import Event, Job, Request

# Abandoned streams are ended by whoever collects them, which may be a thread that the loop waits for.
_END_SECONDS = 1.0


def stream(loop: Loop, request: Request) -> Iterator[PrefillProgress | GenerationChunk]:
    """The events of a request, each computed when it is asked for; a caller that stops has stopped the work.

    Raises:
        Qwen35Error, or whatever the caller's own code raised: What ended the request.
    """
    events: SimpleQueue[Event] = SimpleQueue()
    job = Job(request, events.put, granted=0)
    loop.submit(job)
    try:
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
