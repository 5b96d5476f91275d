"""Reading a prompt and writing an answer, on mlx-lm's generation.

Everything here runs on the thread that owns MLX, one step at a time: a step is one chunk
of a prompt or one token. So several requests can take turns, and a caller that stops
asking has stopped the work.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.generate import generate_step
from numpy.typing import NDArray

from mlx_qwen35.answers.results import GenerationChunk, GenerationStats, PrefillProgress, TokenLogprob
from mlx_qwen35.answers.sampling import LogitsProcessor, Sampler, SamplingOptions
from mlx_qwen35.answers.text import AnswerText
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.prompts.tokenizer import Tokenizer
from mlx_qwen35.state.cache import PromptMedia, attach_media
from mlx_qwen35.state.prefix_cache import PromptCache, Reading
from mlx_qwen35.vision import VisionAddOn

T = TypeVar("T")


def prefill(
    model: nn.Module, input_ids: NDArray[np.int32], cache: Sequence[Any], edges: Sequence[int]
) -> Iterator[int]:
    """Read tokens into a cache, chunk by chunk; yields the number read after each chunk.

    Args:
        input_ids: The prompt, shape (S,).
        edges: Where chunks begin and end, ascending; the cache holds the tokens before the first one.
    """
    for start, stop in pairwise(edges):
        # The logits are never evaluated, so the vocabulary projection is not computed.
        model(mx.array(input_ids[start:stop])[None], cache=cache)
        mx.eval([layer.state for layer in cache])
        mx.clear_cache()
        yield stop


def chunk_edges(start: int, stop: int, step_size: int, stops: Sequence[int] = ()) -> list[int]:
    """Where chunks of at most `step_size` tokens begin and end that cover [start, stop) and stop at `stops`."""
    edges = [start]
    for end in [*(point for point in stops if start < point < stop), stop]:
        edges += [*range(edges[-1] + step_size, end, step_size), end]
    return edges if stop > start else [start]


@dataclass(frozen=True)
class Request:
    """Everything that a caller asked for, checked.

    Args:
        stop: Strings that end the answer.
        started: `time.perf_counter()` when the caller asked.
        cache_room: Bytes of memory that earlier prompts may keep meanwhile.
        sampler, processors: See `ModelKit.request`.
    """

    prompt: Prompt
    options: SamplingOptions
    max_tokens: int
    prefill_step_size: int
    stop: tuple[str, ...]
    logprobs: bool
    top_logprobs: int
    started: float
    cache_prompt: bool
    cache_room: int
    sampler: Sampler | None = None
    processors: tuple[LogitsProcessor, ...] = ()

    def make_sampler(self) -> Sampler:
        """The caller's, or that of the options."""
        return self.sampler or self.options.sampler()

    def make_processors(self) -> list[LogitsProcessor]:
        """Those of the options, then the caller's; the history that they get begins with the prompt's last token."""
        return [*self.options.logits_processors(prompt_tokens=1), *self.processors]


def decode(model: nn.Module, request: Request, cache: Sequence[Any]) -> Generator[tuple[int, mx.array], None, None]:
    """Write tokens after a prompt whose last token is not in the cache yet.

    Yields:
        Each token and the log probabilities (V,) it was chosen from.
    """
    yield from generate_step(
        mx.array([int(request.prompt.input_ids[-1])]),
        model,
        # The thread's own stream: mlx-lm enters it around every step, and between two steps another
        # request may run.
        mx.default_stream(mx.default_device()),
        max_tokens=request.max_tokens,
        sampler=request.make_sampler(),
        logits_processors=request.make_processors(),
        prompt_cache=cache,
    )


def remembered(prompt_cache: PromptCache, reading: Reading, steps: Iterator[T]) -> Generator[T, None, None]:
    """Run steps, and keep what was read, also when the caller stops early.

    Not after an error, which may have left some layers a step ahead of others.
    """
    try:
        yield from steps
    except GeneratorExit:
        prompt_cache.keep(reading)
        raise
    prompt_cache.keep(reading)


def read(model: nn.Module, vision: VisionAddOn, reading: Reading, step_size: int, stop: int) -> Iterator[int]:
    """Encode the images that are new, and read a prompt up to token `stop`; yields the number of tokens read so far."""
    prompt = reading.prompt
    if prompt.layout is not None:
        features: list[mx.array | None] = []
        for span, image in zip(prompt.layout.spans, prompt.images, strict=True):
            if span.stop <= reading.start:
                features.append(None)
                continue
            reading.images_encoded += not vision.has_seen(image)
            features.append(vision.encode(image))
            yield reading.start
        attach_media(reading.caches, PromptMedia(prompt.layout, features))
    points = prompt.branch_points if reading.snapshots is not None else ()
    for processed in prefill(
        model, prompt.input_ids, reading.caches, chunk_edges(reading.start, stop, step_size, points)
    ):
        if processed in points:
            reading.take_snapshot()
        yield processed


class Writer:
    """Turns the tokens of one answer into chunks, whoever makes them.

    Args:
        reading: The prompt's; the tokens are noted there.
    """

    def __init__(self, request: Request, reading: Reading, tokenizer: Tokenizer, prompt_cache: PromptCache) -> None:
        self._request, self._reading = request, reading
        self._tokenizer, self._prompt_cache = tokenizer, prompt_cache
        self._text = AnswerText(tokenizer, in_reasoning=request.prompt.in_reasoning, stop=request.stop)
        self._began = time.perf_counter()
        self._first = 0.0

    def add(self, token: int, scores: mx.array) -> GenerationChunk:
        """What one more token gives; after a `finish_reason` none may follow.

        Args:
            scores: Log probabilities that it was chosen from, (V,).
        """
        request, reading = self._request, self._reading
        reading.written.append(token)
        count, now = len(reading.written), time.perf_counter()
        if count == 1:
            self._first = now
        in_reasoning, piece = self._text.in_reasoning, self._text.add(token)
        if count == request.max_tokens and not piece.stopped:
            piece += self._text.close()
        finish_reason = "stop" if piece.stopped else "length" if count == request.max_tokens else None
        return GenerationChunk(
            text=piece.text,
            reasoning=piece.reasoning,
            token=token,
            logprob=_value(scores[token]) if request.logprobs or request.top_logprobs else None,
            top_logprobs=_top(scores, request.top_logprobs, self._tokenizer) if request.top_logprobs else None,
            in_reasoning=in_reasoning,
            finish_reason=finish_reason,
            stop_string=piece.stop_string,
            stats=None if finish_reason is None else self._stats(count, now),
        )

    def _stats(self, count: int, now: float) -> GenerationStats:
        prompt, reading = self._request.prompt, self._reading
        total = len(prompt.input_ids)
        return GenerationStats(
            prompt_tokens=total,
            image_tokens=prompt.image_tokens,
            cached_tokens=reading.start,
            images_encoded=reading.images_encoded,
            images_reused=len(prompt.images) - reading.images_encoded,
            completion_tokens=count,
            prompt_tps=(total - reading.start) / max(self._first - self._began, 1e-9),
            generation_tps=(count - 1) / (now - self._first) if count > 1 else 0.0,
            time_to_first_token=self._first - self._request.started,
            peak_memory=int(mx.get_peak_memory()),
            prompt_cache_bytes=self._prompt_cache.nbytes,
        )


def begin(model: Any, prompt_cache: PromptCache, request: Request) -> Reading:
    """Caches for a request, with what was read before if it allows that."""
    if request.cache_prompt:
        reading = prompt_cache.begin(request.prompt)
    else:
        reading = Reading(request.prompt, model.make_cache(), snapshots=None)
    prompt_cache.shrink(request.cache_room)
    return reading


def answer(
    model: Any, vision: VisionAddOn, tokenizer: Tokenizer, prompt_cache: PromptCache, request: Request
) -> Generator[PrefillProgress | GenerationChunk, None, None]:
    """One request from prompt to last token."""
    reading = begin(model, prompt_cache, request)
    writer = Writer(request, reading, tokenizer, prompt_cache)
    yield from remembered(prompt_cache, reading, _answer(model, vision, request, reading, writer))


def _answer(
    model: Any, vision: VisionAddOn, request: Request, reading: Reading, writer: Writer
) -> Generator[PrefillProgress | GenerationChunk, None, None]:
    total = len(request.prompt.input_ids)
    yield PrefillProgress(reading.start, total)
    for processed in read(model, vision, reading, request.prefill_step_size, total - 1):
        yield PrefillProgress(processed, total)
    # Closed here and now on every way out: left to the collector, it would end in another thread.
    with closing(decode(model, request, reading.caches)) as tokens:
        for token, scores in tokens:
            if not reading.written:
                yield PrefillProgress(total, total)
            chunk = writer.add(token, scores)
            yield chunk
            if chunk.finish_reason is not None:
                return


def _top(scores: mx.array, count: int, tokenizer: Tokenizer) -> tuple[TokenLogprob, ...]:
    best = mx.argpartition(-scores, kth=count - 1)[:count]
    best = best[mx.argsort(-scores[best])]
    tokens, values = np.array(best).tolist(), np.array(scores[best].astype(mx.float32)).tolist()
    return tuple(
        TokenLogprob(token, tokenizer.decode([token]), value) for token, value in zip(tokens, values, strict=True)
    )


def _value(scalar: mx.array) -> float:
    return float(scalar.item())  # type: ignore[arg-type]


def teacher_forced(model: nn.Module, input_ids: NDArray[np.int32], cache: Sequence[Any], step_size: int) -> mx.array:
    """Logits of every position of a prompt, shape (S, V), float32, evaluated."""
    rows = []
    for start, stop in pairwise(chunk_edges(0, len(input_ids), step_size)):
        logits = model(mx.array(input_ids[start:stop])[None], cache=cache)
        rows.append(logits[0].astype(mx.float32))
        mx.eval(rows[-1], [layer.state for layer in cache])
    out = mx.concatenate(rows)
    mx.eval(out)
    return out
