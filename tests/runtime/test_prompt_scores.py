"""Log probabilities of a prompt's own tokens are those of its teacher-forced logits, whichever way it is read."""

import weakref
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen35 import ModelKit
from mlx_qwen35.answers.results import GenerationResult
from mlx_qwen35.errors import OptionError
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.runtime import prompt_scores
from mlx_qwen35.runtime.engine import Engine
from tests.parity.cases import CASES, TOLERANCE
from tests.runtime.test_engine import Caller, at_once
from tests.tiny import MOE

OPTIONS: dict[str, Any] = {"temperature": 0.0, "max_tokens": 2}


def logprobs(kit: ModelKit, prompt: Prompt) -> NDArray[np.float64]:
    """Of every token at every place but the last, (S - 1, V)."""
    logits = np.array(kit.logits(prompt), np.float64)[:-1]
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def check(result: GenerationResult, prompt: Prompt, expected: NDArray[np.float64], most: int) -> None:
    """Float32, within the parity tests' tolerance of the largest."""
    ids = prompt.input_ids[1:]
    assert result.prompt_logprobs is not None
    assert [one.token for one in result.prompt_logprobs] == ids.tolist()
    tolerance = TOLERANCE * np.abs(expected).max()
    found = [one.logprob for one in result.prompt_logprobs]
    np.testing.assert_allclose(found, expected[np.arange(len(ids)), ids], atol=tolerance)
    assert (result.prompt_top_logprobs is None) == (most == 0)
    for place, tops in enumerate(result.prompt_top_logprobs or ()):
        likeliest = np.sort(expected[place])[::-1][:most]
        np.testing.assert_allclose([top.logprob for top in tops], likeliest, atol=tolerance)
        np.testing.assert_allclose([expected[place, top.token] for top in tops], likeliest, atol=tolerance)


@pytest.mark.parametrize("name", ["text", "two images", "three images"])
def test_they_are_those_of_the_logits(kit: ModelKit, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tokens are read and scored at once; nothing of it is remembered, or comes from what was."""
    prompt = kit.process_prompt(CASES[name].input_ids, images=CASES[name].images)
    expected = logprobs(kit, prompt)
    kit.generate(prompt, **OPTIONS)
    for most, read, scored in ((0, 512, 64), (3, 17, 64), (1, 64, 5)):
        monkeypatch.setattr(prompt_scores, "AT_ONCE", scored)
        kept = len(kit.prompt_cache)
        result = kit.generate(prompt, prompt_logprobs=most, prefill_step_size=read, **OPTIONS)
        check(result, prompt, expected, most)
        assert (result.stats.cached_tokens, len(kit.prompt_cache)) == (0, kept)


@pytest.mark.parametrize("speculate", ["mtp", "lookup"])
def test_they_come_once_with_the_first_chunk_and_drafts_change_nothing(
    fresh: Callable[..., ModelKit], speculate: str
) -> None:
    kit = fresh(speculate=speculate)
    prompt = kit.process_prompt([*range(40, 70), *range(40, 60)])
    chunks = list(kit.stream(prompt, prompt_logprobs=2, **(OPTIONS | {"max_tokens": 6})))
    assert all(chunk.prompt_logprobs is None and chunk.prompt_top_logprobs is None for chunk in chunks[1:])
    check(GenerationResult.from_chunks(chunks), prompt, logprobs(kit, prompt), 2)


def test_they_are_what_they_are_alone_where_prompts_are_read_together(fresh: Callable[..., ModelKit]) -> None:
    """One of them asks for none, and one is a single token, of which there is nothing to tell."""
    kit = fresh(MOE)
    ids = [int(token) for token in np.random.default_rng(1).integers(0, 300, 90)]
    prompts = [kit.process_prompt(ids[at : at + length]) for at, length in enumerate((23, 40, 31, 1))]
    asked = [2, None, 1, 3]
    requests = [
        kit.request(prompt, prompt_logprobs=most, **OPTIONS) for prompt, most in zip(prompts, asked, strict=True)
    ]
    engine = Engine(kit)
    found = [caller.result() for caller in at_once(kit, engine, requests)]
    engine.close()
    assert found[1].prompt_logprobs is None
    assert (found[3].prompt_logprobs, found[3].prompt_top_logprobs) == ((), ())
    for number, most in ((0, 2), (2, 1)):
        check(found[number], prompts[number], logprobs(kit, prompts[number]), most)


def test_what_is_scored_twice_is_scored_alike(fresh: Callable[..., ModelKit]) -> None:
    """A request may be run any number of times."""
    kit = fresh()
    request = kit.request(kit.process_prompt(list(range(30))), prompt_logprobs=1, **OPTIONS)
    engine = Engine(kit)
    one, other = (Caller(engine, request).result() for _ in range(2))
    engine.close()
    assert one.prompt_logprobs == other.prompt_logprobs
    assert len(one.prompt_logprobs or ()) == 29


def test_the_memory_that_scoring_takes_is_counted(fresh: Callable[..., ModelKit]) -> None:
    """Of a part of the prompt's logits: where there is no room for it, the prompt is read in smaller steps."""
    kit = fresh()
    prompt = kit.process_prompt([5] * 300)
    assert kit.guard.scoring == prompt_scores.AT_ONCE * 3 * 4 * kit.config.text.vocab_size
    room = kit.guard.needs(len(prompt.input_ids) + 1, 256, kept=kit.guard.scoring // 2)
    object.__setattr__(kit.guard, "limit", room)
    plain = kit.request(prompt, max_tokens=1, prefill_step_size=256)
    scored = kit.request(prompt, max_tokens=1, prefill_step_size=256, prompt_logprobs=0)
    assert (plain.prefill_step_size, plain.cache_prompt) == (256, True)
    assert (scored.prefill_step_size < 256, scored.cache_prompt) == (True, False)


@pytest.mark.parametrize("given", [-1, True, 1.5, "2", 10**9])
def test_what_is_no_number_of_tokens_is_refused(kit: ModelKit, given: Any) -> None:
    with pytest.raises(OptionError, match="prompt_logprobs: expected"):
        kit.request([1, 2, 3], prompt_logprobs=given)


@pytest.mark.parametrize("most", [None, 1])
def test_what_scores_are_made_of_is_held_no_longer_than_they_need(
    fresh: Callable[..., ModelKit], monkeypatch: pytest.MonkeyPatch, most: int | None
) -> None:
    """Not while the caches are computed where nobody asks, nor when the device's free memory is given back."""
    kit = fresh()
    read, held = kit._loop._executor._decoder.read, []

    class Hidden:
        def __init__(self, array: mx.array) -> None:
            self.array = array

        def __getitem__(self, place: Any) -> mx.array:
            return self.array[place]

    def reading(*arguments: Any) -> Any:
        found = Hidden(read(*arguments))
        held.append(weakref.ref(found))
        return found

    seen: dict[str, list[bool]] = {"eval": [], "clear_cache": []}
    for name, times in seen.items():
        own = getattr(mx, name)

        def watching(*arguments: Any, own: Any = own, times: list[bool] = times) -> None:
            times.extend(ref() is not None for ref in held)
            own(*arguments)

        monkeypatch.setattr(mx, name, watching)
    monkeypatch.setattr(kit._loop._executor._decoder, "read", reading)
    kit.generate(list(range(30)), prompt_logprobs=most, **OPTIONS)
    assert held
    assert any(seen["eval"]) == (most is not None)
    assert seen["clear_cache"]
    assert not any(seen["clear_cache"])
