"""Many requests at once on one ModelKit: continuous batching.

Prompts are read a chunk at a time, in turn, and between two chunks every answer grows by a token:
all of them together, as the rows of mlx-lm's BatchGenerator, which come and go at any time. A row
joins when its prompt is read, images included; its rope delta comes with its caches.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field

import mlx.core as mx
from mlx_lm.generate import BatchGenerator

from mlx_qwen35.answers.results import GenerationChunk, PrefillProgress
from mlx_qwen35.answers.sampling import LogitsProcessor, Sampler, whole_number
from mlx_qwen35.errors import EngineFullError, GenerationCancelled, KitClosedError
from mlx_qwen35.model_kit import ModelKit
from mlx_qwen35.runtime.generate import Request, Writer, begin, read, remembered
from mlx_qwen35.state.prefix_cache import Reading

# Progress and chunks, up to the chunk with a finish reason; or the error that ended the request.
Event = PrefillProgress | GenerationChunk | BaseException

MAX_ROWS = 8
MAX_WAITING = 64
# While one prompt is read, the other requests wait for so many tokens of it.
PREFILL_STEP_SIZE = 512


@dataclass(eq=False)
class Job:
    """One request on its way; what `Engine.submit` returns, to cancel it by.

    Args:
        sink: Called with every event, on the thread that owns MLX; has to return at once.
        fault: What went wrong in code that the caller brought along.
    """

    request: Request
    sink: Callable[[Event], None]
    cancelled: bool = False
    fault: BaseException | None = None
    reading: Reading | None = None
    writer: Writer | None = None
    steps: Generator[int, None, None] | None = field(default=None, repr=False)

    @property
    def tokens(self) -> int:
        """Of prompt and answer together, at most."""
        return len(self.request.prompt.input_ids) + self.request.max_tokens

    def tell(self, event: Event) -> None:
        """Hand over an event; a sink that fails has nobody behind it any more."""
        try:
            self.sink(event)
        except Exception:
            self.cancelled = True

    def sampler(self) -> Sampler:
        """The request's own; where it fails, the row goes on harmlessly until it is removed."""
        sampler = self.request.make_sampler()
        return sampler if self.request.sampler is None else self._alone(sampler, lambda scores: scores.argmax(-1))

    def processors(self) -> list[LogitsProcessor]:
        """The request's own, likewise."""
        return [self._alone(processor, lambda tokens, logits: logits) for processor in self.request.make_processors()]

    def _alone(self, function: Callable[..., mx.array], otherwise: Callable[..., mx.array]) -> Callable[..., mx.array]:
        def run(*args: mx.array) -> mx.array:
            if self.fault is None:
                try:
                    return function(*args)
                except Exception as error:
                    self.fault = error
            return otherwise(*args)

        return run


class Engine:
    """Runs requests of one kit together. Any thread may call it.

    Every answer is what the request alone would get: greedy tokens are the same, whatever runs beside
    them, and earlier turns are not read again. The kit can be used directly meanwhile, and takes turns.

    Args:
        max_rows: Requests that are read and answered at the same time.
        max_waiting: Further ones that wait for their turn.
        prefill_step_size: Tokens of a prompt that are read at once, at most.
    Raises:
        OptionError: An option is out of range.
    """

    def __init__(
        self,
        kit: ModelKit,
        *,
        max_rows: int = MAX_ROWS,
        max_waiting: int = MAX_WAITING,
        prefill_step_size: int = PREFILL_STEP_SIZE,
    ) -> None:
        self.kit = kit
        self._max_rows = whole_number("max_rows", max_rows, 1)
        self._max_waiting = whole_number("max_waiting", max_waiting, 0)
        self._step_size = whole_number("prefill_step_size", prefill_step_size, 1)
        self._waiting: deque[Job] = deque()
        self._reading: deque[Job] = deque()
        self._rows: dict[int, Job] = {}
        self._generator: BatchGenerator | None = None
        self._changed = threading.Condition()
        self._accepting = True
        self._thread = threading.Thread(target=self._drive, name="mlx_qwen35 engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Requests that are being read or answered."""
        return len(self._reading) + len(self._rows)

    @property
    def waiting(self) -> int:
        """Requests whose turn has not come."""
        return len(self._waiting)

    def submit(self, request: Request, sink: Callable[[Event], None]) -> Job:
        """Run a request; every event goes to `sink`, the last being a finished chunk or an error.

        Args:
            request: From `ModelKit.request`.
        Raises:
            EngineFullError: Too many are waiting.
            KitClosedError: After `close`.
        """
        job = Job(request, sink)
        with self._changed:
            if not self._accepting:
                raise KitClosedError("this engine was closed")
            if self.waiting >= self._max_waiting + max(0, self._max_rows - self.running):
                raise EngineFullError(f"expected at most {self._max_waiting} requests that wait, found as many")
            self._waiting.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """End a request at its next step; its last event is then `GenerationCancelled`. What was read is kept."""
        with self._changed:
            job.cancelled = True
            self._changed.notify()

    def close(self, timeout: float | None = None) -> None:
        """Take nothing more, finish what is running, and stop.

        Args:
            timeout: After so many seconds what still runs is cancelled; None waits for it.
        """
        with self._changed:
            self._accepting = False
            self._changed.notify()
        self._thread.join(timeout)
        if self._thread.is_alive():
            with self._changed:
                for job in self._all():
                    job.cancelled = True
                self._changed.notify()
            self._thread.join()

    def _all(self) -> list[Job]:
        return [*self._waiting, *self._reading, *self._rows.values()]

    def _drive(self) -> None:
        """One round after the other while there is work; each is one piece of work for the kit's thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._all() or not self._accepting)
                if not self._all():
                    break
            try:
                self.kit._thread.call(self._round)
            except KitClosedError as error:
                self._accepting = False
                self._fail(error)
            except BaseException as error:
                with suppress(KitClosedError):
                    self.kit._thread.call(self._fail, error)
        with suppress(KitClosedError):
            self.kit._thread.call(self._reset)

    def _round(self) -> None:
        for job in [job for job in self._all() if job.cancelled]:
            self._end(job, GenerationCancelled("cancelled"))
        while self._waiting and self._fits(self._waiting[0]):
            self._start(self._waiting.popleft())
        if self._reading:
            self._read(self._reading.popleft())
        if self._rows:
            self._write()

    def _fits(self, job: Job) -> bool:
        """Whether another request may run: alone always, since it was checked; else if memory holds all."""
        return not self.running or (self.running < self._max_rows and self._room(job) >= 0)

    def _room(self, job: Job) -> int:
        """Bytes of memory that are left for earlier prompts when a request runs beside the others."""
        others = [*self._reading, *self._rows.values()]
        # Rows of a batch are padded to the longest.
        longest = max(other.tokens for other in [job, *others])
        kept = len(others) * self.kit.guard.held(longest) + self.kit.vision.features.nbytes
        return self.kit.guard.limit - self.kit.guard.needs(longest, self._step_size, kept=kept)

    def _start(self, job: Job) -> None:
        kit, request, room = self.kit, job.request, self._room(job)
        self._reading.append(job)
        try:
            job.reading = begin(kit.model, kit.prompt_cache, request)
            kit.prompt_cache.shrink(max(0, min(room, request.cache_room)))
            job.writer = Writer(request, job.reading, kit.tokenizer, kit.prompt_cache)
        except Exception as error:
            self._end(job, error)
            return
        step_size, last = min(self._step_size, request.prefill_step_size), len(request.prompt.input_ids) - 1
        # Kept as soon as it is read, so that requests that begin alike read it once.
        job.steps = remembered(kit.prompt_cache, job.reading, read(kit.model, kit.vision, job.reading, step_size, last))
        job.tell(PrefillProgress(job.reading.start, last + 1))

    def _read(self, job: Job) -> None:
        """One chunk of one prompt; behind the last one its row joins the batch."""
        assert job.steps is not None
        assert job.reading is not None
        input_ids = job.request.prompt.input_ids
        try:
            processed = next(job.steps, None)
        except Exception as error:
            job.steps = None
            self._reading.append(job)
            self._end(job, error)
            return
        if processed is not None:
            self._reading.append(job)
            job.tell(PrefillProgress(processed, len(input_ids)))
            return
        job.steps = None
        if self._generator is None:
            self._generator = BatchGenerator(
                self.kit.model, completion_batch_size=self._max_rows, stream=mx.default_stream(mx.default_device())
            )
        (uid,) = self._generator.insert(
            [[int(input_ids[-1])]],
            # The writer ends the answer, so that there is one way for a row to leave.
            max_tokens=[job.request.max_tokens + 1],
            caches=[job.reading.caches],
            samplers=[job.sampler()],
            logits_processors=[job.processors()],
        )
        job.reading.caches = []
        self._rows[uid] = job

    def _write(self) -> None:
        """One token of every answer."""
        assert self._generator is not None
        _, responses = self._generator.next()
        for response in responses:
            job = self._rows[response.uid]
            assert job.writer is not None
            if job.fault is not None:
                self._end(job, job.fault)
                continue
            try:
                chunk = job.writer.add(response.token, response.logprobs)
            except Exception as error:
                self._end(job, error)
                continue
            if chunk.finish_reason is None:
                job.tell(chunk)
            else:
                self._end(job, chunk)

    def _end(self, job: Job, last: Event) -> None:
        """Let a request go, wherever it is, and keep what was read of it unless something is wrong with it."""
        if job in self._waiting:
            self._waiting.remove(job)
        if job in self._reading:
            self._reading.remove(job)
            if job.steps is not None:
                job.steps.close()
        for uid in [uid for uid, row in self._rows.items() if row is job]:
            assert self._generator is not None
            assert job.reading is not None
            del self._rows[uid]
            keep = job.reading.snapshots is not None and isinstance(last, GenerationChunk | GenerationCancelled)
            caches = self._generator.remove([uid], return_prompt_caches=keep)
            if keep:
                job.reading.caches = caches[uid][0]
                self.kit.prompt_cache.keep(job.reading)
        job.tell(last)

    def _fail(self, error: BaseException) -> None:
        """Tell every request what went wrong, and begin anew."""
        jobs = self._all()
        self._waiting.clear()
        self._reading.clear()
        self._rows.clear()
        self._reset()
        for job in jobs:
            job.tell(error)

    def _reset(self) -> None:
        if self._generator is not None:
            self._generator.close()
        self._generator = None
