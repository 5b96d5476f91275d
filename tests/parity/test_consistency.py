"""The runtime against itself: however a prompt is cut, batched or interrupted, the numbers are the same."""

import dataclasses
import gc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import ArraysCache

from mlx_qwen35 import ModelKit
from mlx_qwen35.errors import GenerationCancelled
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.state.cache import BatchAttentionCache
from tests.conftest import Bench
from tests.parity.cases import CASES, TOLERANCE
from tests.tiny import DENSE, Shape

GREEDY = {"max_tokens": 12, "temperature": 0.0}


def prompt_of(kit: ModelKit, name: str) -> Prompt:
    return kit.process_prompt(CASES[name].input_ids, images=CASES[name].images)


def close(one: Any, other: Any) -> bool:
    """Within TOLERANCE of the largest logit, and the same argmax."""
    one, other = np.array(one), np.array(other)
    same_choice = bool((one.argmax(-1) == other.argmax(-1)).all())
    return same_choice and float(np.abs(one - other).max()) <= TOLERANCE * float(np.abs(other).max())


@pytest.mark.some(1)
@pytest.mark.parametrize(("name", "steps"), [("two images", (1, 2, 3)), ("image after long text", (255, 256, 257))])
def test_chunk_size_does_not_matter(
    name: str, steps: tuple[int, ...], dense_and_moe: Shape, kits: Callable[[Shape], ModelKit]
) -> None:
    """float32 against the prompt in one piece; 256 is the growth step of mlx-lm's cache."""
    kit = kits(dense_and_moe)
    prompt = prompt_of(kit, name)
    whole = kit.logits(prompt)
    for step in steps:
        assert close(kit.logits(prompt, prefill_step_size=step), whole), step


def test_every_chunk_edge_inside_and_around_an_image(kit: ModelKit) -> None:
    """Cut once, at every token from before an image to after it."""
    prompt = prompt_of(kit, "two images")
    whole = kit.logits(prompt)
    for span in prompt.layout.spans:  # type: ignore[union-attr]
        for cut in range(span.start - 1, span.stop + 2):
            assert close(kit.logits(prompt, prefill_step_size=cut), whole), cut


def test_decoding_after_an_image_equals_one_forward(dense_and_moe: Shape, benches: Callable[[Shape], Bench]) -> None:
    """64 steps, each against the same position of one full forward over prompt and answer."""
    bench = benches(dense_and_moe)
    prompt = bench.prompt(list(CASES["two images"].input_ids), CASES["two images"].images)
    cache = bench.cache(prompt)
    logits = bench.model(mx.array(prompt.input_ids)[None], cache=cache)[:, -1]
    steps, tokens = [], []
    for _ in range(64):
        tokens.append(int(mx.argmax(logits[0]).item()))
        logits = bench.model(mx.array([[tokens[-1]]]), cache=cache)[:, -1]
        steps.append(np.array(logits[0]))
    whole = dataclasses.replace(prompt, input_ids=np.append(prompt.input_ids, tokens).astype(np.int32))
    full = bench.model(mx.array(whole.input_ids)[None], cache=bench.cache(whole))[0]
    assert close(np.stack(steps), np.array(full)[len(prompt.input_ids) :])


def solo(bench: Bench, prompt: Prompt, count: int) -> tuple[list[int], list[Any]]:
    """Greedy tokens and their log probabilities, alone."""
    cache = bench.cache(prompt)
    logits = bench.model(mx.array(prompt.input_ids)[None], cache=cache)[:, -1]
    tokens, scores = [], []
    for _ in range(count):
        scores.append(np.array(logits[0] - mx.logsumexp(logits[0])))
        tokens.append(int(scores[-1].argmax()))
        logits = bench.model(mx.array([[tokens[-1]]]), cache=cache)[:, -1]
    return tokens, scores


def read_all_but_last(bench: Bench, prompt: Prompt) -> list[Any]:
    cache = bench.cache(prompt)
    last = len(prompt.input_ids) - 1
    for start in range(0, last, 16):
        bench.model(mx.array(prompt.input_ids[start : min(start + 16, last)])[None], cache=cache)
        mx.eval([layer.state for layer in cache])
    return cache


@pytest.mark.some(1)
def test_mixed_batch_equals_solo_runs(dense_and_moe: Shape, benches: Callable[[Shape], Bench]) -> None:
    """mlx-lm's unchanged BatchGenerator; rows with different rope deltas join, leave, and shrink to one."""
    bench = benches(dense_and_moe)
    # Name, tokens to write, step at which the row joins.
    plan = [("three images", 6, 0), ("text", 14, 0), ("wide image", 9, 3)]
    plan += [("tall image", 20, 5), ("square image", 4, 5)]
    prompts = {name: bench.prompt(list(CASES[name].input_ids), CASES[name].images) for name, _, _ in plan}
    deltas = {prompt.rope_delta for prompt in prompts.values()}
    assert len(deltas) == len(plan), "rows with equal deltas would hide a leak"
    generator = BatchGenerator(bench.model, max_tokens=1)
    names: dict[int, str] = {}
    tokens: dict[str, list[int]] = {name: [] for name in prompts}
    scores: dict[str, list[Any]] = {name: [] for name in prompts}
    sizes = []
    for step in range(200):
        for name, count, joins in plan:
            if joins == step:
                prompt = prompts[name]
                cache = None if prompt.layout is None else read_all_but_last(bench, prompt)
                ids = prompt.input_ids.tolist() if cache is None else [int(prompt.input_ids[-1])]
                (uid,) = generator.insert([ids], max_tokens=[count], caches=[cache] if cache else None)
                names[uid] = name
        _, responses = generator.next()
        sizes.append(len(responses))
        for response in responses:
            tokens[names[response.uid]].append(response.token)
            scores[names[response.uid]].append(np.array(response.logprobs))
        if all(len(tokens[name]) == count for name, count, _ in plan):
            break
    generator.close()
    assert max(sizes) >= 4
    assert sizes[-1] == 1
    for name, count, _ in plan:
        expected, expected_scores = solo(bench, prompts[name], count)
        assert tokens[name] == expected, name
        assert close(np.stack(scores[name]), np.stack(expected_scores)), name


def test_a_row_that_leaves_a_batch_goes_on_alone(benches: Callable[[Shape], Bench]) -> None:
    """Its rope delta goes with it: extracted caches continue as if they had never been merged."""
    bench = benches(DENSE)
    names = ["two images", "text", "wide image"]
    prompts = [bench.prompt(list(CASES[name].input_ids), CASES[name].images) for name in names]
    caches = [read_all_but_last(bench, prompt) for prompt in prompts]
    batch = [layers[0].merge(list(layers)) for layers in zip(*caches, strict=True)]
    last = mx.array([[int(prompt.input_ids[-1])] for prompt in prompts])
    logits = bench.model(last, cache=batch)[:, -1]
    for row, prompt in enumerate(prompts):
        _, expected = solo(bench, prompt, 4)
        cache = [layer.extract(row) for layer in batch]
        scores = [logits[row]]
        for _ in range(3):
            token = mx.argmax(scores[-1])[None, None]
            scores.append(bench.model(token, cache=cache)[0, -1])
        found = [np.array(score - mx.logsumexp(score)) for score in scores]
        assert close(np.stack(found), np.stack(expected))


@pytest.mark.some(3)
@pytest.mark.parametrize("edges", [(0, 30), (0, 3, 8, 30), (0, 1, 2, 3, 4, 5, 30)], ids=str)
def test_left_padding_changes_nothing(
    edges: tuple[int, ...], dense_and_moe: Shape, benches: Callable[[Shape], Bench]
) -> None:
    """Rows of 26, 30 and 25 tokens behind others that mean nothing: each as alone, read and written."""
    bench, padding = benches(dense_and_moe), [4, 0, 5]
    tokens = np.random.Generator(np.random.PCG64(8)).integers(0, 320, (3, 31))
    cache = [
        ArraysCache(size=2, left_padding=padding) if layer.is_linear else BatchAttentionCache(padding)
        for layer in bench.model.layers
    ]
    parts = [bench.model(mx.array(tokens[:, a:b]), cache=cache) for a, b in pairwise((*edges, 31))]
    found = np.concatenate([np.array(part) for part in parts], axis=1)
    for row, count in enumerate(padding):
        assert close(found[row, count:], bench.model(mx.array(tokens[row : row + 1, count:]))[0])


@pytest.mark.some(1)
def test_an_image_leaves_nothing_behind(checkpoint_dir: Callable[[Shape], Any], dense_and_moe: Shape) -> None:
    """Text, image, text: the same tokens and log probabilities as on fresh kits."""
    directory = checkpoint_dir(dense_and_moe)
    sequence = ["text", "two images", "text", "wide image", "text"]
    with ModelKit.load(directory) as used:
        results = [used.generate(prompt_of(used, name), logprobs=True, **GREEDY) for name in sequence]
    for name, result in zip(sequence, results, strict=True):
        with ModelKit.load(directory) as fresh:
            expected = fresh.generate(prompt_of(fresh, name), logprobs=True, **GREEDY)
        assert (result.tokens, result.logprobs) == (expected.tokens, expected.logprobs)


def test_a_cancelled_image_prompt_leaves_nothing_behind(kit: ModelKit) -> None:
    text = prompt_of(kit, "text")
    expected = kit.generate(text, logprobs=True, **GREEDY)

    def cancel(processed: int, total: int) -> bool:
        return processed < 20

    with pytest.raises(GenerationCancelled, match="cancelled after 21 of 47 prompt tokens"):
        kit.generate(
            prompt_of(kit, "two images"), on_progress=cancel, prefill_step_size=7, cache_prompt=False, **GREEDY
        )
    found = kit.generate(text, logprobs=True, **GREEDY)
    assert (found.tokens, found.logprobs) == (expected.tokens, expected.logprobs)


def test_an_exception_leaves_nothing_behind(kit: ModelKit) -> None:
    text = prompt_of(kit, "text")
    expected = kit.generate(text, logprobs=True, **GREEDY)

    def fail(processed: int, total: int) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        kit.generate(prompt_of(kit, "two images"), on_progress=fail, prefill_step_size=7, cache_prompt=False, **GREEDY)
    stream = kit.stream(prompt_of(kit, "wide image"), **GREEDY)
    next(stream)
    stream.close()
    found = kit.generate(text, logprobs=True, **GREEDY)
    assert (found.tokens, found.logprobs) == (expected.tokens, expected.logprobs)


@pytest.mark.parametrize("name", ["text", "two images"])
def test_an_exception_on_the_mlx_thread_leaves_nothing_behind(
    kit: ModelKit, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In the middle of decoding: the loop of mlx-lm must end there, and not in the caller's thread."""
    prompt = prompt_of(kit, name)
    expected = kit.generate(prompt, logprobs=True, **GREEDY)
    stream_before = kit._thread.call(lambda: str(mx.default_stream(mx.default_device())))
    with monkeypatch.context() as patch:
        patch.setattr("mlx_qwen35.runtime.executor.GenerationChunk", lambda **fields: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            kit.generate(prompt, logprobs=True, **GREEDY)
    gc.collect()
    assert kit._thread.call(lambda: str(mx.default_stream(mx.default_device()))) == stream_before
    found = kit.generate(prompt, logprobs=True, **GREEDY)
    assert (found.tokens, found.logprobs) == (expected.tokens, expected.logprobs)


def test_cancelling_while_images_are_encoded(kit: ModelKit) -> None:
    """Each image is a step of its own, with progress before and after."""
    kit.vision.features._features.clear()
    seen = []

    def cancel(processed: int, total: int) -> bool:
        seen.append(processed)
        return len(seen) < 2

    prompt = prompt_of(kit, "three images")
    with pytest.raises(GenerationCancelled, match="cancelled after 0 of 53 prompt tokens"):
        kit.generate(prompt, on_progress=cancel, **GREEDY)
    assert len(kit.vision.features._features) == 1
    fresh = kit.generate(prompt, **GREEDY)
    assert fresh.tokens == kit.generate(prompt, **GREEDY).tokens


def test_interleaved_streams_leave_the_thread_as_it_was(kit: ModelKit) -> None:
    """The first to begin is the first to end, so entered streams are not left in order."""
    before = kit._thread.call(lambda: str(mx.default_stream(mx.default_device())))
    one = kit.stream(prompt_of(kit, "text"), **GREEDY)
    next(one)
    other = kit.stream(prompt_of(kit, "wide image"), **GREEDY)
    next(other)
    one.close()  # type: ignore[attr-defined]
    other.close()  # type: ignore[attr-defined]
    assert kit._thread.call(lambda: str(mx.default_stream(mx.default_device()))) == before


def test_two_streams_at_once_do_not_disturb_each_other(kit: ModelKit) -> None:
    """Two conversations with different rope deltas, token by token in turn."""
    prompts = [prompt_of(kit, "two images"), prompt_of(kit, "tall image")]
    assert prompts[0].rope_delta != prompts[1].rope_delta
    expected = [kit.generate(prompt, **GREEDY).tokens for prompt in prompts]
    streams = [kit.stream(prompt, prefill_step_size=5, **GREEDY) for prompt in prompts]
    found: list[list[int]] = [[], []]
    for _ in range(12):
        for stream, tokens in zip(streams, found, strict=True):
            tokens += [chunk.token for chunk in [next(stream, None)] if chunk is not None]
    assert [tuple(tokens) for tokens in found] == expected


def test_the_model_keeps_nothing_of_a_request(benches: Callable[[Shape], Bench]) -> None:
    """No attribute of the model changes while it reads an image prompt and decodes."""
    bench = benches(DENSE)

    def snapshot() -> dict[str, Any]:
        return {
            f"{path}.{name}": value
            for path, module in bench.model.named_modules()
            for name, value in vars(module).items()
            if not name.startswith("_no_grad")
        }

    before = snapshot()
    prompt = bench.prompt(list(CASES["two images"].input_ids), CASES["two images"].images)
    solo(bench, prompt, 3)
    bench.vision.clear_prediction_state()
    after = snapshot()
    assert before.keys() == after.keys()
    assert all(after[name] is value or after[name] == value for name, value in before.items())


def test_sampling_options_are_part_of_no_shared_state(kit: ModelKit) -> None:
    """A seeded stream gives the same tokens whatever runs between its steps."""
    prompt = prompt_of(kit, "text")
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 1.0, "seed": 7}
    expected = kit.generate(prompt, **options).tokens
    stream = kit.stream(prompt, **options)
    found = []
    for chunk in stream:
        found.append(chunk.token)
        kit.generate(prompt_of(kit, "image first"), max_tokens=2, temperature=1.3)
    assert tuple(found) == expected
