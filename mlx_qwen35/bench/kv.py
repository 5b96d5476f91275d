"""What quantised keys and values cost and save: a token's time behind a context, bytes, and how far answers are off."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_qwen35.bench.conversation import picture
from mlx_qwen35.model_kit import ModelKit
from mlx_qwen35.state.kv_quantization import KV_BITS, KvQuantization, quantized

CONTEXTS = (1024, 4096, 16384)
# What is asked for the error, each once in text and then about a picture.
QUESTIONS = (
    "Count from 1 to 9.", "Count down from 9 to 1.", "What can you do?", "Who are you?", "hello",
    "Describe the picture.", "What is at the top?",
)  # fmt: skip
_ABOUT_A_PICTURE = 5
_ANSWER_TOKENS = 64


@dataclass(frozen=True)
class Step:
    """One more token behind a context.

    Args:
        seconds: Median.
        nbytes: Of keys and values of all layers, spare room included.
    """

    seconds: float
    nbytes: int


@dataclass(frozen=True)
class Error:
    """How far quantised keys and values are off, over all tokens of some prompts and their answers.

    Args:
        largest, mean: Of the logits' differences, as a share of the largest logit.
        same_choice: Share of the places at which the likeliest token is the same.
        tokens, same_tokens: Of greedy answers, and how many of them come before the first that differs in its answer.
    """

    largest: float
    mean: float
    same_choice: float
    tokens: int
    same_tokens: int


def variants(group_size: int) -> dict[str, KvQuantization | None]:
    """What is compared, by name."""
    return {"as they are": None} | {f"{bits} bits": KvQuantization(bits, group_size) for bits in KV_BITS}


def measure_steps(kit: ModelKit, context: int, group_size: int, steps: int) -> dict[str, Step]:
    """A token behind a context whose keys and values are random numbers; the variants take turns.

    Args:
        steps: Tokens of each.
    """

    def measure() -> dict[str, Step]:
        caches = {name: _filled(kit, context, kv) for name, kv in variants(group_size).items()}
        seconds: dict[str, list[float]] = {name: [] for name in caches}
        for number in range(steps + 1):
            for name, own in caches.items():
                began = time.perf_counter()
                mx.eval(kit.model(mx.array([[number % 100]]), cache=own))
                if number:  # the first one compiles
                    seconds[name].append(time.perf_counter() - began)
        return {
            name: Step(statistics.median(seconds[name]), sum(cache.nbytes for cache in own if hasattr(cache, "media")))
            for name, own in caches.items()
        }

    return kit._thread.call(measure)


def _filled(kit: ModelKit, context: int, kv: KvQuantization | None) -> list[Any]:
    """Caches that stand behind a context."""
    plain = kit.model.make_cache()
    mx.eval(kit.model(mx.array([[1]]), cache=plain))
    caches = quantized(plain, kv)
    for cache, own in zip(plain, caches, strict=True):
        if hasattr(cache, "media"):
            shape, dtype = (1, cache.keys.shape[1], context - 1, cache.keys.shape[3]), cache.keys.dtype
            own.update_and_fetch(*(mx.random.normal(shape).astype(dtype) for _ in range(2)))
    mx.eval([cache.state for cache in caches])
    return caches


def measure_errors(model: str | Path, group_size: int) -> dict[str, Error]:
    """The error of each number of bits against keys and values as they are."""
    answers: dict[str, list[tuple[int, ...]]] = {}
    logits: dict[str, list[mx.array]] = {}
    for name, kv in variants(group_size).items():
        options: dict[str, Any] = {} if kv is None else {"kv_bits": kv.bits, "kv_group_size": kv.group_size}
        with ModelKit.load(model, speculate="off", **options) as kit:
            prompts = [kit.process_prompt(_messages(kit, number)) for number in range(len(QUESTIONS))]
            answers[name] = [kit.generate(p, temperature=0.0, max_tokens=_ANSWER_TOKENS).tokens for p in prompts]
            # Of the same tokens for all, so that one other choice is one other choice.
            written = answers["as they are"]
            logits[name] = [
                kit.logits(kit.process_prompt([*_tokens(kit, number), *tokens], images=_images(kit, number)))
                for number, tokens in enumerate(written)
            ]
    (plain, *others), own = logits, logits["as they are"]
    return {name: _error(own, logits[name], answers[plain], answers[name]) for name in others}


def _messages(kit: ModelKit, number: int) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": QUESTIONS[number]}]
    parts = [*({"type": "image_url", "image_url": {"url": url}} for url in _images(kit, number)), *parts]
    return [{"role": "user", "content": parts}]


def _images(kit: ModelKit, number: int) -> list[str]:
    return [picture(number)] if number >= _ABOUT_A_PICTURE and kit.vision.unavailable is None else []


def _tokens(kit: ModelKit, number: int) -> list[int]:
    """A question's prompt, with one placeholder for its image."""
    prompt = kit.process_prompt(_messages(kit, number))
    ids: list[int] = prompt.input_ids.tolist()
    for span in reversed(prompt.layout.spans if prompt.layout is not None else ()):
        del ids[span.start + 1 : span.stop]
    return ids


def _error(
    plain: list[mx.array], found: list[mx.array], written: list[tuple[int, ...]], answers: list[tuple[int, ...]]
) -> Error:
    ours, theirs = (np.concatenate([np.array(one) for one in several]) for several in (plain, found))
    differences = np.abs(ours - theirs) / np.abs(ours).max()
    return Error(
        float(differences.max()),
        float(differences.mean()),
        float((ours.argmax(-1) == theirs.argmax(-1)).mean()),
        sum(map(len, written)),
        sum(_in_common(one, other) for one, other in zip(written, answers, strict=True)),
    )


def _in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens before the first that differs."""
    pairs = zip(one, other, strict=False)
    return next((at for at, pair in enumerate(pairs) if pair[0] != pair[1]), min(len(one), len(other)))
