"""How fast prompts are read and tokens are written, runtime by runtime in one process, in turns."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mlx_qwen35.bench.runtimes import PARENTS, OwnRuntime, Run, Runtime
from mlx_qwen35.model_kit import ModelKit
from mlx_qwen35.prompts.prompt import Prompt

LENGTHS = (128, 1024, 4096, 16384)
IMAGES = (1, 4)
BATCHES = (1, 2, 4, 8)
# Width and height of an image in pixels, and what is written.
SIDE, TOKENS = 512, 32
# What takes longer than this, with all runtimes together, is measured once: warming up is lost in it.
LONG_SECONDS = 60.0


@dataclass(frozen=True)
class Case:
    """One kind of request.

    Args:
        prompts: One, or the rows of a batch.
        tokens: How many to write.
    """

    name: str
    prompts: tuple[Prompt, ...]
    tokens: int

    @property
    def is_batch(self) -> bool:
        """Whether rows are decoded together."""
        return len(self.prompts) > 1


@dataclass(frozen=True)
class Figures:
    """Medians of one case with one runtime; None where it does not apply.

    Args:
        prompt_tps: Tokens of the prompt per second until the first token.
        first_token: Seconds.
        per_token: Seconds per decoded token, of all rows of a batch at once.
        peak: Bytes on top of the weights.
        tokens: That were written in the last run, of a single prompt.
    """

    prompt_tps: float | None
    first_token: float | None
    per_token: float
    peak: int | None
    tokens: tuple[int, ...] = ()


def cases(
    kit: ModelKit, *, lengths: Sequence[int], images: Sequence[int], batches: Sequence[int], side: int, tokens: int
) -> Iterator[Case]:
    """What is measured, made from the checkpoint's own vocabulary."""
    rng = np.random.Generator(np.random.PCG64(1))

    def text(length: int) -> list[int]:
        # The lowest ids are letters and pieces of words in every checkpoint.
        return [int(token) for token in rng.integers(0, 256, length)]

    for length in lengths:
        yield Case(f"text, {length} tokens", (kit.process_prompt(text(length)),), tokens)
    media = kit.config.media_tokens
    if kit.vision.unavailable is None and media is not None:
        one = [media.vision_start_token_id, media.image_token_id, media.vision_end_token_id]
        for count in images:
            pictures = [
                Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)) for _ in range(count)
            ]  # fmt: skip
            name = f"{count} image{'s' if count > 1 else ''}, {side} x {side}"
            yield Case(name, (kit.process_prompt([*one * count, *text(32)], images=pictures),), tokens)
    for rows in batches:
        if rows > 1:
            yield Case(f"{rows} rows, 64 tokens each", tuple(kit.process_prompt(text(64)) for _ in range(rows)), tokens)


def summarise(runs: Sequence[Run], prompt: Prompt) -> Figures:
    """Medians of the times, the largest of the peaks."""
    first = statistics.median(run.first_token for run in runs)
    return Figures(
        prompt_tps=len(prompt.input_ids) / first,
        first_token=first,
        per_token=statistics.median(run.per_token for run in runs),
        peak=max(run.peak for run in runs),
        tokens=runs[-1].tokens,
    )


def measure(
    model: Path,
    against: Sequence[str],
    make_cases: Callable[[ModelKit], Iterator[Case]],
    repeats: int,
    on_case: Callable[[str, dict[str, Figures]], None] = lambda name, figures: None,
) -> dict[str, dict[str, Figures]]:
    """Every case with every runtime.

    Args:
        against: Names of `PARENTS`.
        on_case: Called with each finished case.
    Returns:
        By case, by runtime; a runtime that cannot do a case is missing there.
    """
    results: dict[str, dict[str, Figures]] = {}
    with ExitStack() as stack:
        own = stack.enter_context(closing(OwnRuntime(model)))
        runtimes = [own, *(stack.enter_context(closing(PARENTS[name](model))) for name in against)]
        for case in make_cases(own.kit):
            able = [runtime for runtime in runtimes if runtime.sees or not case.prompts[0].media]
            found = take_turns(able, case, repeats)
            results[case.name] = {
                name: Figures(None, None, statistics.median(run.per_token for run in runs), None)
                if case.is_batch
                else summarise(runs, case.prompts[0])
                for name, runs in found.items()
            }
            on_case(case.name, results[case.name])
    return results


def take_turns(runtimes: Sequence[Runtime], case: Case, repeats: int) -> dict[str, list[Run]]:
    """Runs of a case, A B C, A B C, by runtime.

    The first turn warms up, and is not counted, unless it took over `LONG_SECONDS`; then it is the only one.
    """

    def turn() -> dict[str, Run]:
        return {runtime.name: _run(runtime, case) for runtime in runtimes}

    began = time.perf_counter()
    first = turn()
    turns = [first] if time.perf_counter() - began > LONG_SECONDS else [turn() for _ in range(repeats)]
    return {runtime.name: [runs[runtime.name] for runs in turns] for runtime in runtimes}


def _run(runtime: Runtime, case: Case) -> Run:
    if case.is_batch:
        return Run(0.0, runtime.rows(case.prompts, case.tokens), 0)
    return runtime.run(case.prompts[0], case.tokens)


def ratios(figures: dict[str, Figures], name: str) -> dict[str, float]:
    """How this package compares: reading speed (larger is better), decode time and peak (smaller is better).

    Args:
        name: Of the other runtime.
    Returns:
        Nothing for this package itself.
    """
    if name == OwnRuntime.name:
        return {}
    own, other = figures[OwnRuntime.name], figures[name]
    found = {"per_token": own.per_token / other.per_token}
    if own.first_token is not None and other.first_token is not None:
        found["prompt"] = other.first_token / own.first_token
    if own.peak is not None and other.peak is not None:
        found["peak"] = own.peak / other.peak
    return found
