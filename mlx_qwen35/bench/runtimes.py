"""This package, mlx-lm and mlx-vlm behind one face: read a prompt, write tokens, one or several rows."""

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from mlx_qwen35.answers.results import GenerationChunk
from mlx_qwen35.model_kit import ModelKit
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.runtime.engine import Engine
from mlx_qwen35.runtime.request import Event


@dataclass(frozen=True)
class Run:
    """One measured request.

    Args:
        first_token: Seconds until the first token was known, image encoding included.
        per_token: Median seconds of each later token.
        peak: Most bytes that MLX held, less what it held before and the weights that it held then.
        tokens: That were written.
    """

    first_token: float
    per_token: float
    peak: int
    tokens: tuple[int, ...] = ()


class Runtime(Protocol):
    """One way to run a checkpoint."""

    name: str
    sees: bool

    def run(self, prompt: Prompt, tokens: int) -> Run:
        """Read a prompt from nothing and write tokens, greedily."""

    def rows(self, prompts: Sequence[Prompt], tokens: int) -> float:
        """Decode several text prompts together; seconds per step of all rows."""

    def close(self) -> None:
        """Release the weights."""


def timed(stream: Callable[[], Iterator[Any]], tokens: int) -> Run:
    """Take `tokens` items of a stream, one per token."""
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    began = time.perf_counter()
    times, written = [began], []
    for number, item in enumerate(stream(), start=1):
        times.append(time.perf_counter())
        written.append(item.token if isinstance(item, GenerationChunk) else item[0])
        if number == tokens:
            break
    steps = np.diff(times)
    later = float(np.median(steps[1:])) if len(steps) > 1 else 0.0
    peak = int(mx.get_peak_memory() - held)
    return Run(float(steps[0]), later, peak, tuple(int(token) for token in written))


def steps_of(generator: Any, rows: int, generated: Callable[[Any], Sequence[Any]]) -> float:
    """Median seconds of the steps in which every row wrote a token; not a number where there were not two."""
    seconds = []
    while True:
        began = time.perf_counter()
        answers = generated(generator)
        if len(answers) == rows:
            seconds.append(time.perf_counter() - began)
        elif seconds:
            break
        if any(answer.finish_reason for answer in answers):
            break
    # The first one waits for the prompts.
    return float(np.median(seconds[1:])) if len(seconds) > 1 else math.nan


class OwnRuntime:
    """ModelKit, with nothing kept between requests, and its Engine for several rows."""

    name, sees = "mlx-qwen35", True

    def __init__(self, model: Path) -> None:
        self.kit = ModelKit.load(model, prompt_cache_bytes=0, image_cache_bytes=0, speculate="off")
        # The others write on behind the end of the answer.
        on = dict.fromkeys(self.kit.tokenizer.eos_token_ids, -100.0)
        self._options: dict[str, Any] = {"temperature": 0.0, "logit_bias": on, "cache_prompt": False}

    def run(self, prompt: Prompt, tokens: int) -> Run:
        return timed(lambda: self.kit.stream(prompt, max_tokens=tokens, **self._options), tokens)

    def rows(self, prompts: Sequence[Prompt], tokens: int) -> float:
        engine = Engine(self.kit, max_rows=len(prompts))
        times: list[list[float]] = [[] for _ in prompts]
        errors: list[BaseException] = []

        def note(row: int) -> Callable[[Event], None]:
            def sink(event: Event) -> None:
                if isinstance(event, GenerationChunk):
                    times[row].append(time.perf_counter())
                elif isinstance(event, BaseException):
                    errors.append(event)

            return sink

        requests = [self.kit.request(prompt, max_tokens=tokens, **self._options) for prompt in prompts]
        # On the thread that would begin with the first one before the last one has come.
        jobs = self.kit._thread.call(
            lambda: [engine.submit(request, note(row)) for row, request in enumerate(requests)]
        )
        for job in jobs:
            job.done.wait()
        engine.close()
        for error in errors:
            raise error
        began, ended = max(row[0] for row in times), min(row[-1] for row in times)
        steps = np.diff([at for at in times[0] if began <= at <= ended])
        return float(np.median(steps))

    def close(self) -> None:
        self.kit.close()


class MlxLmRuntime:
    """mlx-lm's generate_step and BatchGenerator."""

    name, sees = "mlx-lm", False

    def __init__(self, model: Path) -> None:
        from mlx_lm.utils import load_model

        self._model, _ = load_model(model, strict=False)

    def run(self, prompt: Prompt, tokens: int) -> Run:
        from mlx_lm.generate import generate_step

        ids = mx.array(prompt.input_ids)
        return timed(lambda: generate_step(ids, self._model, max_tokens=tokens), tokens)

    def rows(self, prompts: Sequence[Prompt], tokens: int) -> float:
        return _batch(self._model, prompts, tokens)

    def close(self) -> None:
        del self._model


class MlxVlmRuntime:
    """mlx-vlm's generate_step and BatchGenerator."""

    name, sees = "mlx-vlm", True

    def __init__(self, model: Path) -> None:
        from mlx_vlm.utils import load

        self._model, self._processor = load(str(model))

    def run(self, prompt: Prompt, tokens: int) -> Run:
        from mlx_vlm.generate import generate_step

        arguments: dict[str, Any] = {}
        pixels = None
        if prompt.media:
            pixels = mx.array(np.concatenate([unit.pixel_values for unit in prompt.media]))
        if prompt.images:
            arguments["image_grid_thw"] = mx.array(np.array([image.grid_thw for image in prompt.images]))
        if prompt.videos:
            grids = [(len(video), *prompt.media[video[0]].grid_thw[1:]) for video in prompt.videos]
            arguments["video_grid_thw"] = mx.array(np.array(grids))
        ids = mx.array(prompt.input_ids)[None]
        return timed(
            lambda: generate_step(ids, self._model, pixels, None, max_tokens=tokens, temperature=0.0, **arguments),
            tokens,
        )

    def rows(self, prompts: Sequence[Prompt], tokens: int) -> float:
        from mlx_vlm.generate import BatchGenerator

        generator = BatchGenerator(
            self._model.language_model,
            self._processor,
            prefill_batch_size=len(prompts),
            completion_batch_size=len(prompts),
            compute_logprobs=False,
        )
        ids = [prompt.input_ids.tolist() for prompt in prompts]
        embedded = [self._model.get_input_embeddings(mx.array([row]), None).to_dict() for row in ids]
        arguments = [{name: value for name, value in row.items() if value is not None} for row in embedded]
        generator.insert(ids, tokens, prompt_kwargs=arguments)
        try:
            return steps_of(generator, len(prompts), lambda generator: generator.next()[1])
        finally:
            generator.close()

    def close(self) -> None:
        del self._model


PARENTS: dict[str, Callable[[Path], Runtime]] = {runtime.name: runtime for runtime in (MlxLmRuntime, MlxVlmRuntime)}


def _batch(model: Any, prompts: Sequence[Prompt], tokens: int) -> float:
    from mlx_lm.generate import BatchGenerator

    generator = BatchGenerator(model, max_tokens=tokens, stream=mx.default_stream(mx.default_device()))
    generator.insert([prompt.input_ids.tolist() for prompt in prompts])
    try:
        return steps_of(generator, len(prompts), lambda generator: generator.next_generated())
    finally:
        generator.close()
