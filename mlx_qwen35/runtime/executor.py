"""Carries the scheduler's steps out: the one place where prompts are read and tokens are chosen.

Only on the thread that owns MLX. A row that runs alone keeps its own caches, and is computed as mlx-lm's generate_step
computes it, to the last bit. Rows of a pool are merged as soon as there are two of them.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_qwen35.answers.results import GenerationChunk, GenerationStats, PrefillProgress, TokenLogprob
from mlx_qwen35.answers.text import AnswerText
from mlx_qwen35.errors import OptionError
from mlx_qwen35.prompts.tokenizer import Tokenizer
from mlx_qwen35.runtime.admission import MemoryAdmission
from mlx_qwen35.runtime.batch import Batch, Row
from mlx_qwen35.runtime.choosing import Choice, Chooser
from mlx_qwen35.runtime.decoder import Decoder
from mlx_qwen35.runtime.prompt_scores import score
from mlx_qwen35.runtime.request import Event, Job
from mlx_qwen35.runtime.scheduler import Encode, Read
from mlx_qwen35.runtime.speculation import Speculation
from mlx_qwen35.state.cache import attach_media
from mlx_qwen35.state.joint import reading_together
from mlx_qwen35.state.media import PromptMedia
from mlx_qwen35.state.prefix import Reading
from mlx_qwen35.state.prefix_cache import PrefixCache
from mlx_qwen35.state.sequence import SequenceState
from mlx_qwen35.vision import VisionAddOn

# Decoding steps after which MLX's free memory is given back.
_CLEAR_EVERY = 256


class Executor:
    """Runs one step at a time on one model.

    Args:
        admission: Asked for the memory of snapshots and of images that are encoded.
    """

    def __init__(
        self,
        decoder: Decoder,
        vision: VisionAddOn,
        tokenizer: Tokenizer,
        prefix_cache: PrefixCache,
        admission: MemoryAdmission,
        vocab_size: int,
        speculation: Speculation,
    ) -> None:
        self._decoder, self._vision, self._tokenizer = decoder, vision, tokenizer
        self._speculation = speculation
        self._prefix_cache, self._admission = prefix_cache, admission
        self._vocab_size = vocab_size
        self._rows: dict[Job, Row] = {}
        # The batch that a job's row is in; a row that runs alone has one of its own.
        self._batches: dict[Job, Batch] = {}
        self._steps = 0

    def begin(self, job: Job, on_ready: Callable[[], None]) -> tuple[int, list[int], Sequence[int]] | None:
        """Make a job's caches, with what was read before if it allows that.

        Returns:
            How many tokens that is, the pieces that are still to be encoded, and where snapshots are wanted; None
            if it has to come from disk first, and `on_ready` will be called.
        """
        request = job.request
        reading: Reading | None
        if request.cache_prompt:
            reading = self._prefix_cache.begin(request.prompt, on_ready)
            if reading is None:
                return None
        else:
            reading = Reading(request.prompt, self._decoder.make_state())
        text = AnswerText(
            self._tokenizer,
            in_reasoning=request.prompt.in_reasoning,
            stop=request.stop,
            ends=request.stop_token_ids,
            min_tokens=request.min_tokens.count if request.min_tokens else 0,
        )
        record = self._speculation.record(request.prompt.input_ids.tolist())
        self._rows[job] = Row(job, reading, text, record, time.perf_counter())
        prompt, layout = request.prompt, request.prompt.layout
        pieces = [] if layout is None else [
            number for number, piece in enumerate(prompt.pieces) if layout.spans[piece.stop - 1].stop > reading.start
        ]  # fmt: skip
        if not all(self._vision.has_seen(prompt.pieces[number]) for number in pieces):
            job.frames = sum(self._vision.frames_in(prompt.pieces[number]) for number in pieces)
        if layout is not None and not pieces:
            self._attach(self._rows[job])
        return reading.start, pieces, request.prompt.branch_points if reading.snapshots is not None else ()

    def read(self, steps: Sequence[tuple[Job, Encode | Read]]) -> None:
        """Encode a piece of a prompt's media, or read a chunk of each of these prompts in one forward pass."""
        chunks = []
        for job, step in steps:
            if isinstance(step, Encode):
                self._encode(self._rows[job], step.piece)
            else:
                chunks.append((job, step, self._rows[job].reading))
        if not chunks:
            return
        lengths = [step.stop - step.start for _, step, _ in chunks]
        tokens = np.zeros((2, len(chunks), max(lengths)), np.int32)
        for row, (_, step, reading) in enumerate(chunks):
            ids = reading.prompt.input_ids
            # Behind the prompt's last token nobody knows what follows.
            following = np.append(ids[step.start + 1 : step.stop + 1], ids[-1])
            tokens[:, row, : lengths[row]] = ids[step.start : step.stop], following[: lengths[row]]
        with reading_together([reading.state for _, _, reading in chunks], lengths) as state:
            hidden: mx.array | None = self._decoder.read(mx.array(tokens[0]), mx.array(tokens[1]), state)
        if all(job.request.prompt_logprobs is None for job, _, _ in chunks):
            # Whoever holds it holds what it is computed from.
            hidden = None
        mx.eval([cache.state for _, _, reading in chunks for cache in reading.state.caches])
        for row, ((job, _, _), length) in enumerate(zip(chunks, lengths, strict=True)):
            most = job.request.prompt_logprobs
            if hidden is not None and most is not None:
                # Named chunk by chunk: of a long prompt together, others would wait for it.
                self._rows[job].prompt_scores += [
                    (TokenLogprob(choice.token, self._tokenizer.decode([choice.token]), choice.logprob),
                     self._named(choice.top))
                    for choice in score(self._decoder, hidden[row, :length], tokens[1, row, :length].tolist(), most)
                ]  # fmt: skip
        del hidden
        mx.clear_cache()
        for job, step, reading in chunks:
            if step.snapshot and reading.snapshots is not None:
                mark = reading.state.mark()
                if self._admission.take_snapshot(job, mark.nbytes):
                    reading.snapshots.append(reading.state.snapshot())

    def share(self, job: Job) -> None:
        """Keep what was read of a prompt while its answer is still to come, for others that begin alike."""
        self._prefix_cache.keep(self._rows[job].reading)

    def write(self, jobs: Sequence[Job]) -> dict[Job, list[Event]]:
        """The next tokens of each of these, in one forward pass; an error stands in place of a row's token."""
        rows = [self._rows[job] for job in jobs]
        out: dict[Job, list[Event]] = {row.job: [] for row in rows}
        batch = self._join(rows, out)
        if batch is None:
            return out

        def take(row: Row, choices: Sequence[Choice]) -> int:
            for count, choice in enumerate(choices, 1):
                try:
                    out[row.job] += self._events(row, choice)
                except BaseException as error:
                    out[row.job].append(error)
                    row.finished = True
                if row.finished:
                    return count
            return len(choices)

        try:
            batch.step(take)
        except Exception as error:
            # What its rows have in memory may be of different lengths now.
            for row in batch.rows:
                del self._batches[row.job]
            return out | {row.job: [error] for row in batch.rows}
        self._steps += 1
        if self._steps % _CLEAR_EVERY == 0:
            mx.clear_cache()
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
        del self._decoder

    def _encode(self, row: Row, number: int) -> None:
        prompt, job = row.reading.prompt, row.job
        piece = prompt.pieces[number]
        new = not self._vision.has_seen(piece)
        with self._admission.encoding(piece.patches if new else 0):
            found = self._vision.encode(piece, prompt.media)
        row.features.update(zip(range(piece.start, piece.stop), found, strict=True))
        frames = self._vision.frames_in(piece)
        row.images_encoded += new and not piece.is_video
        row.frames_encoded += frames * new
        job.frames_seen += frames if job.frames else 0
        if number == len(prompt.pieces) - 1:
            self._attach(row)

    def _attach(self, row: Row) -> None:
        """Give the row's caches its media, all of which has been encoded or read."""
        layout = row.reading.prompt.layout
        assert layout is not None
        features = [row.features.pop(number, None) for number in range(len(layout.spans))]
        attach_media(row.reading.state.caches, PromptMedia(layout, features))

    def _join(self, rows: list[Row], out: dict[Job, list[Event]]) -> Batch | None:
        """The batch of these rows; those that are new read their prompts' last tokens first, in a pass of their own."""
        new = []
        for row in rows:
            if row.job in self._batches:
                continue
            try:
                row.chooser = Chooser(row.job.request, self._decoder.operations)
                new.append(row)
            except Exception as error:
                out[row.job] = [error]
        if new:
            try:
                begun = self._begin_batch(new)
            except Exception as error:
                out.update({row.job: [error] for row in new})
            else:
                self._batches.update({row.job: begun for row in new})
        joined: Batch | None = None
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

    def _begin_batch(self, rows: list[Row]) -> Batch:
        states = [row.reading.state for row in rows]
        state = states[0] if len(rows) == 1 else SequenceState.merge(states)
        last = mx.array(np.stack([row.reading.prompt.input_ids[-1:] for row in rows]))
        batch = Batch(self._decoder, self._speculation, self._vocab_size, rows, state, last)
        for row in rows:
            # It is the batch's now, which may copy it.
            row.reading.state = SequenceState([])
        return batch

    def _events(self, row: Row, choice: Choice) -> Iterator[Event]:
        """What one more token of a row gives."""
        token = choice.token
        if row.chooser.fault is not None:
            raise row.chooser.fault
        if not 0 <= token < self._vocab_size:
            raise OptionError(f"sampler: expected a token id below {self._vocab_size}, found {token}")
        request, written = row.job.request, row.reading.written
        written.append(token)
        if row.record.text is not None:
            row.record.text.add(token)
        count, now = len(written), time.perf_counter()
        if count == 1:
            row.first = now
            total = len(request.prompt.input_ids)
            yield PrefillProgress(total, total)
        in_reasoning, piece = row.text.in_reasoning, row.text.add(token)
        if count == request.max_tokens and not piece.stopped:
            piece += row.text.close()
        finish_reason = "stop" if piece.stopped else "length" if count == request.max_tokens else None
        row.finished = finish_reason is not None
        yield GenerationChunk(
            text=piece.text,
            reasoning=piece.reasoning,
            token=token,
            logprob=choice.logprob if request.logprobs or request.top_logprobs else None,
            top_logprobs=self._named(choice.top[: request.top_logprobs]) if request.top_logprobs else None,
            in_reasoning=in_reasoning,
            finish_reason=finish_reason,
            stop_string=piece.stop_string,
            stats=None if finish_reason is None else self._stats(row, now),
            held=row.text.held,
            **(self._of_prompt(row) if count == 1 else {}),
        )

    def _of_prompt(self, row: Row) -> dict[str, Any]:
        """What the first chunk of an answer tells of the prompt's own tokens."""
        most = row.job.request.prompt_logprobs
        if most is None:
            return {}
        found: dict[str, Any] = {"prompt_logprobs": tuple(given for given, _ in row.prompt_scores)}
        if most:
            found["prompt_top_logprobs"] = tuple(top for _, top in row.prompt_scores)
        row.prompt_scores = []
        return found

    def _named(self, top: Sequence[tuple[int, float]]) -> tuple[TokenLogprob, ...]:
        # Which of the tokens that cannot come would be among the likeliest is chance.
        possible = [(token, value) for token, value in top if value > -math.inf]
        return tuple(TokenLogprob(token, self._tokenizer.decode([token]), value) for token, value in possible)

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
            video_tokens=prompt.video_tokens,
            frames_encoded=row.frames_encoded,
            frames_reused=sum(map(self._vision.frames_in, prompt.pieces)) - row.frames_encoded,
            completion_tokens=count,
            prompt_tps=(total - start) / max(row.first - row.began, 1e-9),
            generation_tps=(count - 1) / (now - row.first) if count > 1 else 0.0,
            time_to_first_token=row.first - request.started,
            peak_memory=int(mx.get_peak_memory()),
            prompt_cache_bytes=self._prefix_cache.nbytes,
            steps=row.record.steps,
            drafted=tuple(row.record.drafted),
            accepted=tuple(row.record.accepted),
        )
