"""What every turn of a conversation costs, with and without the prompt cache."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlx_qwen35.bench.conversation import TOOLS, Step
from mlx_qwen35.model_kit import ModelKit


@dataclass(frozen=True)
class Cost:
    """What one request cost.

    Args:
        prompt_tokens: Length of the prompt.
        prefilled: Tokens of it that were read.
        images_encoded: Images that were encoded; None if the runtime does not tell.
        seconds: From the request to its first token.
    """

    prompt_tokens: int
    prefilled: int
    images_encoded: int | None
    seconds: float


def medians(runs: Sequence[Sequence[Cost]]) -> list[Cost]:
    """Step by step, the counts of the last run and the median of the times."""
    return [
        Cost(last.prompt_tokens, last.prefilled, last.images_encoded, statistics.median(c.seconds for c in costs))
        for *costs, last in ((*step, step[-1]) for step in zip(*runs, strict=True))
    ]


def run(kit: ModelKit, step: Step) -> Cost:
    """One request, timed from its messages to its first token.

    The model is made to write the scripted reply, so its caches hold what the history will say, as
    after a real answer, whatever the weights are.
    """
    reply = iter(_reply(kit, step))
    began = time.perf_counter()
    prompt = kit.process_prompt(step.messages, tools=TOOLS)
    chunks = kit.stream(prompt, sampler=lambda _: mx.array([next(reply, 0)]))
    next(chunks)
    first = time.perf_counter()
    stats = list(chunks)[-1].stats
    assert stats is not None
    return Cost(stats.prompt_tokens, stats.prompt_tokens - stats.cached_tokens, stats.images_encoded, first - began)


def _reply(kit: ModelKit, step: Step) -> list[int]:
    """The tokens that the template shows for a step's reply, up to the end of its message."""
    prompt = kit.process_prompt(step.messages, tools=TOOLS)
    whole = kit.process_prompt([*step.messages, step.reply], tools=TOOLS, add_generation_prompt=False)
    start, ids = len(prompt.input_ids), [int(token) for token in whole.input_ids]
    assert ids[:start] == prompt.input_ids.tolist(), "the template shows the reply as it is written"
    return ids[start : ids.index(kit.tokenizer.encode("<|im_end|>")[0], start) + 1]


def measure(model: str | Path, steps: Sequence[Step], repeats: int) -> dict[str, list[Cost]]:
    """The conversation three ways, request by request in turns.

    Returns:
        Medians "cold", without anything kept; "warm", as ModelKit does by itself; and "ahead", where
        an answer is read as the template shows it later before the next question comes, as in a chat.
    """
    runs: dict[str, list[list[Cost]]] = {"cold": [], "warm": [], "ahead": []}
    with ModelKit.load(model, prompt_cache_bytes=0, image_cache_bytes=0, speculate="off") as cold:
        for _ in range(repeats):
            with ModelKit.load(model, speculate="off") as warm, ModelKit.load(model, speculate="off") as ahead:
                costs: dict[str, list[Cost]] = {name: [] for name in runs}
                for step in steps:
                    for name, kit in (("cold", cold), ("warm", warm), ("ahead", ahead)):
                        costs[name].append(run(kit, step))
                    ahead.prefill_ahead([*step.messages, step.reply], tools=TOOLS)
            for name, found in costs.items():
                runs[name].append(found)
    return {name: medians(found) for name, found in runs.items()}
