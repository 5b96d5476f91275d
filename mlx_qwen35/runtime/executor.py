"""Carries the scheduler's steps out: the one place where prompts are read and tokens are chosen.

Only on the thread that owns MLX. A row that runs alone keeps its own caches, and is computed as mlx-lm's generate_step
computes it, to the last bit. Rows of a pool are merged as soon as there are two of them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_qwen35.answers.results import GenerationChunk, GenerationStats, PrefillProgress, TokenLogprob
from mlx_qwen35.answers.sampling import LogitsProcessor, Sampler
from mlx_qwen35.answers.text import AnswerText
from mlx_qwen35.errors import OptionError
from mlx_qwen35.prompts.tokenizer import Tokenizer
from mlx_qwen35.runtime.admission import MemoryAdmission
from mlx_qwen35.runtime.request import Event, Job
from mlx_qwen35.runtime.scheduler import Encode, Read
from mlx_qwen35.state.cache import attach_media
from mlx_qwen35.state.media import PromptMedia
from mlx_qwen35.state.prefix import Reading
from mlx_qwen35.state.prefix_cache import PrefixCache
from mlx_qwen35.state.sequence import SequenceState
from mlx_qwen35.vision import VisionAddOn

# Decoding steps after which MLX's free memory is given back.
_CLEAR_EVERY = 256


@dataclass(eq=False)
class Row:
    """What a running job has in memory.

    Args:
        reading: The prompt's state; that of the row moves into a batch while it is written.
        features: Embeddings of the prompt's images that are still to be read, by their index.
        images_encoded: Images that the vision tower had to look at.
        began, first: `time.perf_counter()` of the row's beginning, and of its first token.
        fault: What went wrong in code that the caller brought along.
    """

    job: Job
    reading: Reading
    text: AnswerText
    began: float
    features: dict[int, mx.array] = field(default_factory=dict)
    images_encoded: int = 0
    first: float = 0.0
    fault: BaseException | None = None
    sampler: Sampler | None = None
    processors: list[LogitsProcessor] = field(default_factory=list)
    # Token ids that processors get: the prompt's last one and the answer.
    history: mx.array | None = None


class _Batch:
    """Rows that get a token in the same forward pass, one token ahead of what was handed out.

    Args:
        rows: In the order of the batch.
        state: Theirs: a row's own if it is alone, else merged.
        tokens: The last ones chosen, (B,); what comes next is computed from them.
        scores: Log probabilities that they were chosen from, (B, V).
    """

    def __init__(self, model: Any, vocab_size: int, rows: list[Row], state: SequenceState, tokens: mx.array) -> None:
        self._model, self._vocab_size = model, vocab_size
        self.rows, self.state = rows, state
        self.tokens = tokens
        self.scores: mx.array | None = None
        self._chosen = tokens

    def step(self) -> tuple[list[int], mx.array | None]:
        """Read the last tokens and begin to choose the next ones.

        Returns:
            The last tokens, and the scores that they were chosen from.

        Source:
            mlx-lm 0.32.2, generate.py, generate_step and GenerationBatch._step.
        """
        chosen, scores = self._chosen, self.scores
        logits = self._model(self.tokens[:, None], cache=self.state.caches)[:, -1, :]
        if any(row.processors for row in self.rows):
            logits = mx.concatenate([self._processed(number, row, logits) for number, row in enumerate(self.rows)])
        self.scores = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        samplers = [row.sampler for row in self.rows]
        if all(sampler is samplers[0] for sampler in samplers) and self.rows[0].job.request.sampler is None:
            assert samplers[0] is not None
            self._chosen = self.tokens = samplers[0](self.scores)
        else:
            self._chosen = mx.concatenate([self._sampled(number, row) for number, row in enumerate(self.rows)])
            # A sampler of the caller's may name a token that the model does not have.
            self.tokens = mx.clip(self._chosen, 0, self._vocab_size - 1).astype(mx.uint32)
        histories = [row.history for row in self.rows if row.history is not None]
        mx.async_eval(self._chosen, self.tokens, self.scores, histories)  # type: ignore[no-untyped-call]
        given: Any = chosen.tolist()
        return given, scores

    def add(self, other: "_Batch") -> None:
        """Take the rows of another batch in; both have a step behind them."""
        if len(self.rows) == 1:
            self.state = SequenceState.merge([self.state])
        if len(other.rows) == 1:
            other.state = SequenceState.merge([other.state])
        self.state.extend(other.state)
        assert self.scores is not None
        assert other.scores is not None
        self.tokens = mx.concatenate([self.tokens, other.tokens])
        self._chosen = mx.concatenate([self._chosen, other._chosen])
        self.scores = mx.concatenate([self.scores, other.scores])
        self.rows = self.rows + other.rows

    def remove(self, row: Row, *, keep: bool) -> SequenceState | None:
        """Let a row go; its state if that is to be kept. A row that is left alone gets its own caches back."""
        number = self.rows.index(row)
        if len(self.rows) == 1:
            self.rows = []
            return self.state if keep else None
        state = self.state.extract(number) if keep else None
        rows = [other for other in range(len(self.rows)) if other != number]
        self.rows = [self.rows[other] for other in rows]
        self.tokens, self._chosen = self.tokens[rows], self._chosen[rows]
        self.scores = None if self.scores is None else self.scores[rows]
        if len(rows) == 1:
            self.state = self.state.extract(rows[0])
        else:
            self.state.keep(rows)
        return state

    def _processed(self, number: int, row: Row, logits: mx.array) -> mx.array:
        logits, new = self._of(logits, number), self._of(self.tokens, number)
        if not row.processors:
            return logits
        row.history = new if row.history is None else mx.concatenate([row.history, new])
        for processor in row.processors:
            logits = _guarded(row, "logits_processors", processor, lambda _, same: same, row.history, logits)
        return logits

    def _sampled(self, number: int, row: Row) -> mx.array:
        assert row.sampler is not None
        assert self.scores is not None
        return _guarded(row, "sampler", row.sampler, lambda same: same.argmax(axis=-1), self._of(self.scores, number))

    def _of(self, array: mx.array, number: int) -> mx.array:
        """One row of an array."""
        return array if len(self.rows) == 1 else array[number : number + 1]


def _guarded(
    row: Row, name: str, function: Callable[..., mx.array], otherwise: Callable[..., mx.array], *args: mx.array
) -> mx.array:
    """What a row's own code gives; where that fails, the row goes on harmlessly until it is removed."""
    expected = otherwise(*args)
    if row.fault is None:
        try:
            found = function(*args)
            whole = mx.issubdtype(expected.dtype, mx.integer)
            if not isinstance(found, mx.array) or found.shape != expected.shape:
                raise OptionError(f"{name}: expected shape {expected.shape}, found {getattr(found, 'shape', found)!r}")
            if whole != mx.issubdtype(found.dtype, mx.integer):
                raise OptionError(f"{name}: expected {'token ids' if whole else 'logits'}, found {found.dtype}")
            # Wide enough for what is no token id: it must not become one.
            return found.astype(mx.int64) if whole else found
        except BaseException as error:
            row.fault = error
    return expected


class Executor:
    """Runs one step at a time on one model.

    Args:
        admission: Asked for the memory of snapshots and of images that are encoded.
    """

    def __init__(
        self,
        model: Any,
        vision: VisionAddOn,
        tokenizer: Tokenizer,
        prefix_cache: PrefixCache,
        admission: MemoryAdmission,
        vocab_size: int,
    ) -> None:
        self._model, self._vision, self._tokenizer = model, vision, tokenizer
        self._prefix_cache, self._admission = prefix_cache, admission
        self._vocab_size = vocab_size
        self._rows: dict[Job, Row] = {}
        # The batch that a job's row is in; a row that runs alone has one of its own.
        self._batches: dict[Job, _Batch] = {}
        self._steps = 0

    def begin(self, job: Job, on_ready: Callable[[], None]) -> tuple[int, list[int], Sequence[int]] | None:
        """Make a job's caches, with what was read before if it allows that.

        Returns:
            How many tokens that is, the images that are still to be encoded, and where snapshots are wanted; None
            if it has to come from disk first, and `on_ready` will be called.
        """
        request = job.request
        reading: Reading | None
        if request.cache_prompt:
            reading = self._prefix_cache.begin(request.prompt, on_ready)
            if reading is None:
                return None
        else:
            reading = Reading(request.prompt, SequenceState(self._model.make_cache()))
        text = AnswerText(self._tokenizer, in_reasoning=request.prompt.in_reasoning, stop=request.stop)
        self._rows[job] = Row(job, reading, text, time.perf_counter())
        layout = request.prompt.layout
        images = [] if layout is None else [n for n, span in enumerate(layout.spans) if span.stop > reading.start]
        if layout is not None and not images:
            self._attach(self._rows[job])
        return reading.start, images, request.prompt.branch_points if reading.snapshots is not None else ()

    def read(self, job: Job, step: Encode | Read) -> None:
        """Encode an image of a prompt, or read a chunk of it."""
        row = self._rows[job]
        if isinstance(step, Encode):
            self._encode(row, step.image)
            return
        state, reading = row.reading.state, row.reading
        chunk = mx.array(reading.prompt.input_ids[step.start : step.stop])
        # The logits are never evaluated, so the vocabulary projection is not computed.
        self._model(chunk[None], cache=state.caches)
        state.evaluate()
        mx.clear_cache()
        if step.snapshot and reading.snapshots is not None:
            mark = state.mark()
            if self._admission.take_snapshot(job, mark.nbytes):
                reading.snapshots.append(state.snapshot())

    def share(self, job: Job) -> None:
        """Keep what was read of a prompt while its answer is still to come, for others that begin alike."""
        self._prefix_cache.keep(self._rows[job].reading)

    def write(self, jobs: Sequence[Job]) -> dict[Job, list[Event]]:
        """One more token for each of these, in one forward pass; an error stands in place of a row's token."""
        rows = [self._rows[job] for job in jobs]
        out: dict[Job, list[Event]] = {row.job: [] for row in rows}
        batch = self._join(rows, out)
        if batch is None:
            return out
        try:
            tokens, scores = batch.step()
        except Exception as error:
            # What its rows have in memory may be of different lengths now.
            for row in batch.rows:
                del self._batches[row.job]
            return out | {row.job: [error] for row in batch.rows}
        self._steps += 1
        if self._steps % _CLEAR_EVERY == 0:
            mx.clear_cache()
        for number, (row, token) in enumerate(zip(batch.rows, tokens, strict=True)):
            assert scores is not None
            try:
                out[row.job] += self._events(row, token, scores[number])
            except BaseException as error:
                out[row.job] = [error]
        return out

    def end(self, job: Job, *, keep: bool) -> None:
        """Let a job's row go, wherever it is, and keep what was read of it if that is whole."""
        row = self._rows.pop(job, None)
        batch = self._batches.pop(job, None)
        if row is None:
            return
        keep = keep and row.reading.snapshots is not None
        if batch is not None:
            state = batch.remove(row, keep=keep)
            row.reading.state = SequenceState([]) if state is None else state
        if keep:
            self._prefix_cache.keep(row.reading)

    def close(self) -> None:
        """Let everything go, the model too."""
        self._rows.clear()
        self._batches.clear()
        self._model = None

    def _encode(self, row: Row, number: int) -> None:
        image = row.reading.prompt.images[number]
        new = not self._vision.has_seen(image)
        t, h, w = image.grid_thw
        with self._admission.encoding(t * h * w if new else 0):
            row.features[number] = self._vision.encode(image)
        row.images_encoded += new
        layout = row.reading.prompt.layout
        assert layout is not None
        if number == len(layout.spans) - 1:
            self._attach(row)

    def _attach(self, row: Row) -> None:
        """Give the row's caches its images, all of which have been encoded or read."""
        layout = row.reading.prompt.layout
        assert layout is not None
        features = [row.features.pop(number, None) for number in range(len(layout.spans))]
        attach_media(row.reading.state.caches, PromptMedia(layout, features))

    def _join(self, rows: list[Row], out: dict[Job, list[Event]]) -> _Batch | None:
        """The batch of these rows; those that are new read their prompt's last token first, each alone."""
        for row in rows:
            if row.job in self._batches:
                continue
            request = row.job.request
            last = mx.array(row.reading.prompt.input_ids[-1:])
            batch = _Batch(self._model, self._vocab_size, [row], row.reading.state, last)
            try:
                row.sampler, row.processors = request.make_sampler(), request.make_processors()
                batch.step()
            except Exception as error:
                out[row.job] = [error]
                continue
            self._batches[row.job] = batch
        joined: _Batch | None = None
        for row in rows:
            found = self._batches.get(row.job)
            if found is None or found is joined:
                continue
            if joined is None:
                joined = found
                continue
            joined.add(found)
            for other in found.rows:
                self._batches[other.job] = joined
        return joined

    def _events(self, row: Row, token: int, scores: mx.array) -> Iterator[Event]:
        """What one more token of a row gives.

        Args:
            scores: Log probabilities that it was chosen from, (V,).
        """
        if row.fault is not None:
            raise row.fault
        if not 0 <= token < self._vocab_size:
            raise OptionError(f"sampler: expected a token id below {self._vocab_size}, found {token}")
        request, written = row.job.request, row.reading.written
        written.append(token)
        count, now = len(written), time.perf_counter()
        if count == 1:
            row.first = now
            total = len(request.prompt.input_ids)
            yield PrefillProgress(total, total)
        in_reasoning, piece = row.text.in_reasoning, row.text.add(token)
        if count == request.max_tokens and not piece.stopped:
            piece += row.text.close()
        finish_reason = "stop" if piece.stopped else "length" if count == request.max_tokens else None
        yield GenerationChunk(
            text=piece.text,
            reasoning=piece.reasoning,
            token=token,
            logprob=_value(scores[token]) if request.logprobs or request.top_logprobs else None,
            top_logprobs=_top(scores, request.top_logprobs, self._tokenizer) if request.top_logprobs else None,
            in_reasoning=in_reasoning,
            finish_reason=finish_reason,
            stop_string=piece.stop_string,
            stats=None if finish_reason is None else self._stats(row, now),
        )

    def _stats(self, row: Row, now: float) -> GenerationStats:
        request, count = row.job.request, len(row.reading.written)
        prompt, start = request.prompt, row.reading.start
        total = len(prompt.input_ids)
        return GenerationStats(
            prompt_tokens=total,
            image_tokens=prompt.image_tokens,
            cached_tokens=start,
            images_encoded=row.images_encoded,
            images_reused=len(prompt.images) - row.images_encoded,
            completion_tokens=count,
            prompt_tps=(total - start) / max(row.first - row.began, 1e-9),
            generation_tps=(count - 1) / (now - row.first) if count > 1 else 0.0,
            time_to_first_token=row.first - request.started,
            peak_memory=int(mx.get_peak_memory()),
            prompt_cache_bytes=self._prefix_cache.nbytes,
        )


def _top(scores: mx.array, count: int, tokenizer: Tokenizer) -> tuple[TokenLogprob, ...]:
    best = mx.argpartition(-scores, kth=count - 1)[:count]
    best = best[mx.argsort(-scores[best])]
    tokens, values = np.array(best).tolist(), np.array(scores[best].astype(mx.float32)).tolist()
    return tuple(
        TokenLogprob(token, tokenizer.decode([token]), value) for token, value in zip(tokens, values, strict=True)
    )


def _value(scalar: mx.array) -> float:
    return float(scalar.item())  # type: ignore[arg-type]
