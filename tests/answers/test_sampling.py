"""Choosing tokens: ranges, filters against transformers' definitions, penalties, seeds."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen35.answers.sampling import SamplingOptions, default_max_tokens, options_from
from mlx_qwen35.errors import OptionError

LOGITS = np.array([2.0, 1.5, 1.0, 0.0, -1.0, -3.0], dtype=np.float32)


def frequencies(options: dict[str, Any], draws: int = 4000) -> np.ndarray:
    """How often each token is drawn."""
    sample = SamplingOptions(seed=1, **options).sampler()
    logprobs = mx.array(LOGITS) - mx.logsumexp(mx.array(LOGITS))
    tokens = mx.concatenate([sample(logprobs[None]) for _ in range(draws)])
    return np.bincount(np.array(tokens), minlength=len(LOGITS)) / draws


def expected(temperature: float, keep: list[int]) -> np.ndarray:
    weights = np.exp(LOGITS / temperature)
    weights[[token for token in range(len(LOGITS)) if token not in keep]] = 0
    return weights / weights.sum()


@pytest.mark.parametrize(
    ("options", "temperature", "keep"),
    [
        ({"temperature": 1.0}, 1.0, [0, 1, 2, 3, 4, 5]),
        ({"temperature": 0.5}, 0.5, [0, 1, 2, 3, 4, 5]),
        ({"temperature": 1.0, "top_k": 2}, 1.0, [0, 1]),
        # 0.488, 0.296 and 0.180 of the tempered mass: the third crosses 0.8, which plain logits would not need.
        ({"temperature": 1.0, "top_p": 0.8}, 1.0, [0, 1, 2]),
        ({"temperature": 0.5, "top_p": 0.8}, 0.5, [0, 1]),
        ({"temperature": 1.0, "min_p": 0.3}, 1.0, [0, 1, 2]),
        ({"temperature": 2.0, "min_p": 0.3}, 2.0, [0, 1, 2, 3]),
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.6}, 1.0, [0, 1]),
        ({"temperature": 1.0, "top_k": 99}, 1.0, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_filters_keep_what_they_should(options: dict[str, Any], temperature: float, keep: list[int]) -> None:
    """Temperature first, then top_k, top_p and min_p on the tempered distribution, as transformers does."""
    found = frequencies(options)
    assert set(np.flatnonzero(found)) <= set(keep)
    np.testing.assert_allclose(found, expected(temperature, keep), atol=0.03)


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(20))
def test_filters_keep_what_transformers_keeps(seed: int) -> None:
    """The set of tokens with any probability, against transformers' own warpers."""
    torch = pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    from transformers import LogitsProcessorList
    from transformers.generation.logits_process import (
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    rng = np.random.Generator(np.random.PCG64(seed))
    logits = rng.normal(0, 2, 40).astype(np.float32)
    temperature, top_k, top_p, min_p = (
        rng.uniform(0.4, 2),
        int(rng.integers(2, 40)),
        rng.uniform(0.3, 1),
        rng.uniform(0, 0.2),
    )
    chain = LogitsProcessorList(
        [
            TemperatureLogitsWarper(temperature),
            TopKLogitsWarper(top_k),
            TopPLogitsWarper(top_p),
            MinPLogitsWarper(min_p),
        ]
    )
    kept = set(torch.isfinite(chain(None, torch.from_numpy(logits)[None])[0]).nonzero()[:, 0].tolist())
    options = SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    sample = options.sampler()
    logprobs = (mx.array(logits) - mx.logsumexp(mx.array(logits)))[None]
    drawn = set(np.array(mx.concatenate([sample(logprobs) for _ in range(600)])).tolist())
    assert drawn <= kept
    likely = {
        token
        for token in kept
        if np.exp(logits[token] / temperature) > 0.02 * np.exp(logits / temperature)[list(kept)].sum()
    }
    assert likely <= drawn


def test_filters_hold_at_temperatures_that_make_all_but_one_token_impossible() -> None:
    """Of each row by itself: in float32 nothing is left of probabilities before they are normalised anew."""
    rows = mx.array([[-9.0, -8.0, -9.5], [-3.0, -2.5, -2.0]])
    sample = SamplingOptions(temperature=1e-4, top_p=0.9, top_k=2, min_p=0.1, seed=1).sampler()
    assert sample(rows).tolist() == [1, 2]


def test_greedy_takes_the_first_best() -> None:
    assert SamplingOptions().sampler()(mx.array([[0.0, 3.0, 3.0]])).item() == 1


def test_a_seed_repeats_and_another_does_not() -> None:
    def draw(seed: int | None) -> list[int]:
        sample = SamplingOptions(temperature=5.0, seed=seed).sampler()
        return [int(sample(mx.array(LOGITS)[None]).item()) for _ in range(30)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    assert draw(None) != draw(None)


def processed(options: dict[str, Any], history: list[int], prompt_tokens: int = 1) -> list[float]:
    logits = mx.array(LOGITS)[None]
    for processor in SamplingOptions(**options).logits_processors(prompt_tokens):
        logits = processor(mx.array(history), logits)
    return [round(value, 4) for value in np.array(logits)[0].tolist()]


def test_penalties_look_at_the_whole_output_and_not_at_the_prompt() -> None:
    history = [5, 0, 0, 4, *[1] * 50]
    assert processed({"presence_penalty": 0.5}, history) == [1.5, 1.0, 1.0, 0.0, -1.5, -3.0]
    assert processed({"frequency_penalty": 0.5}, history) == [1.0, -23.5, 1.0, 0.0, -1.5, -3.0]
    assert processed({"repetition_penalty": 2.0}, history) == [1.0, 0.75, 1.0, 0.0, -2.0, -3.0]
    assert processed({"repetition_penalty": 2.0, "presence_penalty": 1.0}, [5]) == LOGITS.tolist()


def test_bias_is_added() -> None:
    assert processed({"logit_bias": {2: 10.0, 5: -1.0}}, [0]) == [2.0, 1.5, 11.0, 0.0, -1.0, -4.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature: expected at least 0, found -1"),
        ({"temperature": float("nan")}, "temperature: expected a number"),
        ({"temperature": float("inf")}, "temperature: expected at least 0, found inf"),
        ({"temperature": "hot"}, "temperature: expected a number, found 'hot'"),
        ({"top_p": 0}, "top_p: expected above 0 and at most 1, found 0"),
        ({"top_p": 1.5}, "top_p: expected above 0 and at most 1, found 1.5"),
        ({"top_k": -1}, "top_k: expected a whole number of at least 0, found -1"),
        ({"top_k": 2.5}, "top_k: expected a whole number"),
        ({"min_p": 2}, "min_p: expected at least 0 and at most 1, found 2"),
        ({"repetition_penalty": 0}, "repetition_penalty: expected above 0, found 0"),
        ({"presence_penalty": float("inf")}, "presence_penalty: expected a finite number, found inf"),
        ({"seed": True}, "seed: expected a whole number"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        SamplingOptions(**options)


def test_a_bias_on_an_unknown_token_is_refused() -> None:
    with pytest.raises(OptionError, match="logit_bias: expected token ids below 6, found 6"):
        SamplingOptions(logit_bias={6: 1.0}).check_vocabulary(6)


def test_any_token_of_the_vocabulary_may_have_a_bias() -> None:
    SamplingOptions(logit_bias={0: 1.0, 5: 1.0}).check_vocabulary(6)
    SamplingOptions().check_vocabulary(6)


def test_the_longest_answer_of_a_checkpoint() -> None:
    assert [default_max_tokens({"max_new_tokens": value}) for value in (None, 1, 32768)] == [None, 1, 32768]
    assert default_max_tokens({}) is None
    for value in (0, "7", True):
        with pytest.raises(OptionError, match="^max_new_tokens: expected a whole number of at least 1, found"):
            default_max_tokens({"max_new_tokens": value})


def test_defaults_come_from_the_checkpoint_and_are_overridden() -> None:
    defaults = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "eos_token_id": 3}
    assert options_from(defaults, {}) == SamplingOptions(temperature=0.7, top_k=20, top_p=0.8)
    assert options_from(defaults, {"temperature": 0.0, "top_k": None}).temperature == 0.0
    assert options_from({"temperature": 0.7}, {}).temperature == 0.0
    assert options_from({"do_sample": True}, {}).temperature == 1.0
    assert options_from({}, {}) == SamplingOptions()


def test_unknown_options_are_refused_by_name() -> None:
    with pytest.raises(OptionError, match=r"unknown option temprature: expected one of .*temperature"):
        options_from({}, {"temprature": 1})


@pytest.mark.parametrize("temperature", [1e-39, 1e-7])
def test_a_temperature_too_small_to_divide_by_is_greedy(temperature: float) -> None:
    assert SamplingOptions(temperature=temperature, seed=1).sampler()(mx.array([[0.0, 3.0, 1.0]])).item() == 1


@pytest.mark.parametrize("bias", [[1], {True: 1.0}, {"5": 1.0}, {1.5: 1.0}, {1: "x"}])
def test_malformed_bias_is_refused(bias: Any) -> None:
    with pytest.raises(OptionError, match="logit_bias"):
        SamplingOptions(logit_bias=bias)


def test_numbers_of_numpy_are_numbers() -> None:
    options = SamplingOptions(temperature=np.float32(0.5), top_k=np.int64(3), logit_bias={np.int64(2): np.float32(1.0)})
    options.check_vocabulary(6)
    assert options.sampler()(mx.array(LOGITS)[None]).shape == (1,)


def test_minus_one_in_a_checkpoint_means_all_tokens() -> None:
    assert options_from({"do_sample": True, "top_k": -1}, {}).top_k == 0
    with pytest.raises(OptionError, match="top_k"):
        options_from({}, {"top_k": -1})
