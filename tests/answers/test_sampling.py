"""Choosing tokens: ranges, filters against transformers' definitions, penalties, seeds."""

import math
from dataclasses import asdict
from fractions import Fraction
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import sample_utils

from mlx_qwen35 import ModelKit
from mlx_qwen35.answers import sampling
from mlx_qwen35.answers.sampling import SamplingOptions, default_max_tokens, options_from
from mlx_qwen35.errors import OptionError
from tests.tiny import VOCAB_SIZE

LOGITS = np.array([2.0, 1.5, 1.0, 0.0, -1.0, -3.0], dtype=np.float32)


def frequencies(options: dict[str, Any], draws: int = 4000) -> np.ndarray:
    """How often each token is drawn, a hundred at a time."""
    sample = SamplingOptions(seed=1, **options).sampler()
    logprobs = mx.array(LOGITS) - mx.logsumexp(mx.array(LOGITS))
    rows = mx.repeat(logprobs[None], 100, axis=0)
    tokens = mx.concatenate([sample(rows) for _ in range(draws // 100)])
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
        ({"temperature": 1.0, "top_k": 1}, 1.0, [0]),
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
    logprobs = mx.array(logits) - mx.logsumexp(mx.array(logits))
    drawn = set(np.array(sample(mx.repeat(logprobs[None], 600, axis=0))).tolist())
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


def test_top_p_works_at_low_temperatures() -> None:
    """Where no tempered probability is left of any token before they are normalised."""
    logits = mx.arange(100) * -0.001
    logprobs = logits - mx.logsumexp(logits)
    sample = SamplingOptions(temperature=0.01, top_p=0.5, seed=1).sampler()
    drawn = np.array(sample(mx.repeat(logprobs[None], 500, axis=0)))
    weights = np.exp(-0.1 * np.arange(100))
    kept = int(np.searchsorted(np.cumsum(weights / weights.sum()), 0.5)) + 1
    assert set(drawn.tolist()) == set(range(kept))


def test_greedy_takes_the_first_best() -> None:
    assert SamplingOptions().sampler()(mx.array([[0.0, 3.0, 3.0]])).item() == 1


def test_a_seed_repeats_and_another_does_not() -> None:
    def draw(seed: int | None) -> list[int]:
        sample = SamplingOptions(temperature=5.0, seed=seed).sampler()
        return [int(sample(mx.array(LOGITS)[None]).item()) for _ in range(30)]

    assert draw(3) == draw(3)
    assert draw(0) == draw(0)
    assert draw(3) != draw(4)
    assert draw(None) != draw(None)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"temperature": 1.5, "top_k": 20},
        {"temperature": 1.5, "top_p": 0.9, "top_k": 20},
        {"temperature": 1.5, "top_p": 0.9, "min_p": 0.01},
    ],
)
def test_rows_and_places_are_drawn_as_mlx_draws_each(options: dict[str, Any]) -> None:
    """Oracle: mlx-lm's filters over the whole vocabulary, and mx.random.categorical with each one's key."""
    logits = 2 * mx.random.normal((3, 5, 400), key=mx.random.key(1))
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    together, alone = ([SamplingOptions(seed=seed, **options).sampler() for seed in range(3)] for _ in range(2))
    found = sampling.draw_together(together, logprobs)  # type: ignore[arg-type]
    for row, sampler in enumerate(alone):
        assert isinstance(sampler, sampling.SeededSampler)
        for place in range(5):
            filtered = logprobs[row, place][None] / options["temperature"]
            if "top_k" in options:
                filtered = sample_utils.apply_top_k(filtered, options["top_k"])
            if "top_p" in options:
                filtered -= mx.logsumexp(filtered, axis=-1, keepdims=True)
                filtered = sample_utils.apply_top_p(filtered, options["top_p"])
            if "min_p" in options:
                filtered = sample_utils.apply_min_p(filtered, options["min_p"])
            expected = mx.random.categorical(filtered, key=sampler.next_key()[0])
            assert found[row, place].item() == expected.item()


@pytest.mark.parametrize("drawn", [0.0, 0.3, 1 - 2.0**-24])
def test_no_number_draws_what_is_impossible(drawn: float) -> None:
    """Not even the largest float32 below 1, whatever the sum of all shares; and 0 not the first token."""
    logits = mx.full((500, 300), -mx.inf)
    logits[:, 7:200] = 3 * mx.random.normal((500, 193), key=mx.random.key(2))
    tokens = sampling._drawn(logits, None, mx.full((500,), drawn))
    assert (tokens >= 7).all().item()
    assert (tokens < 200).all().item()


def test_seeds_have_64_bits() -> None:
    """Each of them tells: the largest is neither refused nor shortened."""

    def draw(seed: int) -> list[int]:
        sample = SamplingOptions(temperature=5.0, seed=seed).sampler()
        return [int(sample(mx.array(LOGITS)[None]).item()) for _ in range(30)]

    assert draw(2**64 - 1) == draw(2**64 - 1)
    assert len({tuple(draw(seed)) for seed in (0, 2**32 - 1, 2**32, 2**64 - 1)}) == 4


def test_a_seed_out_of_range_is_refused_before_any_work(kit: ModelKit) -> None:
    with pytest.raises(
        OptionError, match="seed: expected a whole number from -9223372036854775808 to 18446744073709551615"
    ):
        kit.stream([5, 6, 7], temperature=1.0, seed=2**64)


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
    assert processed({"repetition_penalty": 0.5}, history) == [4.0, 3.0, 1.0, 0.0, -0.5, -3.0]
    assert processed({"repetition_penalty": 2.0, "presence_penalty": 1.0}, [5]) == LOGITS.tolist()


@pytest.mark.parametrize(
    "penalty", [{"presence_penalty": 5.0}, {"frequency_penalty": 5.0}, {"repetition_penalty": 4.0}]
)
def test_penalties_begin_with_the_first_token_of_the_answer(kit: ModelKit, penalty: dict[str, float]) -> None:
    """Nothing of the prompt counts, its last token included: the first token's scores are as without a penalty."""
    prompt = list(range(5, 25))

    def scores(**options: float) -> list[dict[int, float]]:
        whole: dict[str, Any] = {"max_tokens": 2, "temperature": 0.0, "top_logprobs": VOCAB_SIZE - 1}
        result = kit.generate(prompt, cache_prompt=False, logit_bias={20: 50.0}, **whole, **options)
        assert result.tokens[0] == 20
        assert result.top_logprobs is not None
        return [{top.token: top.logprob for top in tops} for tops in result.top_logprobs]

    without, with_penalty = scores(), scores(**penalty)
    assert with_penalty[0] == without[0]
    # The second one's differ in the first token alone, apart from what all of them are normalised by.
    tokens = sorted(set(without[1]) & set(with_penalty[1]))
    difference = np.array([with_penalty[1][token] - without[1][token] for token in tokens])
    rest = np.array(tokens) != 20
    assert np.ptp(difference[rest]) < 1e-3
    assert difference[~rest] < difference[rest].min() - 1


def test_other_programs_ways_to_say_none_are_understood() -> None:
    """vLLM's `top_k` of -1, llama.cpp's seed of -1, transformers' `top_p` of 0, signed seeds of OpenAI's API."""
    assert SamplingOptions(top_k=-1).top_k == 0
    assert SamplingOptions(seed=-1).seed is None
    assert SamplingOptions(seed=-2).seed == 2**64 - 2
    sampler = SamplingOptions(temperature=9.0, top_p=0).sampler()
    logprobs = mx.log(mx.array([[0.3, 0.4, 0.3]]))
    assert {sampler(logprobs).item() for _ in range(40)} == {1}


def test_bias_is_added() -> None:
    assert processed({"logit_bias": {2: 10.0, 5: -1.0}}, [0]) == [2.0, 1.5, 11.0, 0.0, -1.0, -4.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature: expected at least 0, found -1"),
        ({"temperature": float("nan")}, "temperature: expected a number"),
        ({"temperature": float("inf")}, "temperature: expected at least 0, found inf"),
        ({"temperature": "hot"}, "temperature: expected a number, found 'hot'"),
        ({"top_p": -0.1}, "top_p: expected at least 0 and at most 1, found -0.1"),
        ({"top_p": 1.5}, "top_p: expected at least 0 and at most 1, found 1.5"),
        ({"top_k": -2}, "top_k: expected a whole number of at least -1, found -2"),
        ({"top_k": 2.5}, "top_k: expected a whole number"),
        ({"min_p": 2}, "min_p: expected at least 0 and at most 1, found 2"),
        ({"repetition_penalty": 0}, "repetition_penalty: expected above 0, found 0"),
        ({"presence_penalty": float("inf")}, "presence_penalty: expected a finite number, found inf"),
        ({"frequency_penalty": float("inf")}, "^frequency_penalty: expected a finite number, found inf"),
        ({"temperature": 10**400}, "temperature: expected at least 0, found 1000"),
        ({"presence_penalty": -(10**400)}, "presence_penalty: expected a finite number, found -1000"),
        ({"seed": True}, "seed: expected a whole number"),
        ({"seed": -(2**63) - 1}, "seed: expected a whole number from -9223372036854775808 to 18446744073709551615"),
        ({"seed": 2**64}, "seed: expected a whole number from -.* to .*, found 18446744073709551616"),
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
    defaults = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.1, "eos_token_id": 3}
    assert options_from(defaults, {}) == SamplingOptions(temperature=0.7, top_k=20, top_p=0.8, min_p=0.1)
    assert options_from({"do_sample": True, "temperature": 0.0}, {}).temperature == 0.0
    assert options_from(defaults, {"temperature": 0.0, "top_k": None}).temperature == 0.0
    assert options_from({"temperature": 0.7}, {}).temperature == 0.0
    # As transformers does: a penalty counts for greedy answers too.
    assert options_from({"repetition_penalty": 1.1, "top_k": 20}, {}) == SamplingOptions(repetition_penalty=1.1)
    assert options_from({"repetition_penalty": 1.1}, {"repetition_penalty": 1.0}) == SamplingOptions()
    assert options_from({"do_sample": True, "repetition_penalty": 1.1}, {}).repetition_penalty == 1.1
    assert options_from({"do_sample": True}, {}).temperature == 1.0
    assert options_from({}, {}) == SamplingOptions()


@pytest.mark.parametrize("temperature", [1e-39, 1e-7])
def test_a_temperature_too_small_to_divide_by_is_greedy(temperature: float) -> None:
    assert SamplingOptions(temperature=temperature, seed=1).sampler()(mx.array([[0.0, 3.0, 1.0]])).item() == 1


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
@pytest.mark.parametrize("further", [{}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_no_temperature_makes_a_forbidden_token_possible(dtype: mx.Dtype, further: dict[str, Any]) -> None:
    rows = mx.repeat(mx.array([[-math.inf, -0.5, -1.0, -math.inf]]).astype(dtype), 50, axis=0)
    for temperature in (1e6, 1e20, 1e39, 1e308):
        sampler = SamplingOptions(temperature=temperature, seed=1, **further).sampler()
        assert set(np.array(sampler(rows)).tolist()) == {1, 2}, temperature


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize(
    ("options", "winner"),
    [
        ({"logit_bias": {2: 1e5}}, 2),
        ({"logit_bias": {2: 1e308}}, 2),
        ({"logit_bias": {2: 1e308, 0: -1e308}}, 2),
        ({"presence_penalty": -1e308}, 1),
        ({"frequency_penalty": -1e6}, 1),
        ({"repetition_penalty": 1e-320}, 1),
        ({"logit_bias": {2: 1e308}, "repetition_penalty": 0.1}, 2),
    ],
)
def test_what_raises_a_token_beyond_all_numbers_makes_it_certain(
    dtype: mx.Dtype, options: dict[str, Any], winner: int
) -> None:
    logits = mx.array([[3.0, 1.0, 2.0]]).astype(dtype)
    for processor in SamplingOptions(**options).logits_processors(1):
        logits = processor(mx.array([0, 1]), logits)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    assert mx.exp(logprobs).tolist() == [[float(token == winner) for token in range(3)]]


@pytest.mark.parametrize("bias", [[1], {True: 1.0}, {-1: 1.0}, {"5": 1.0}, {1.5: 1.0}, {1: "x"}])
def test_malformed_bias_is_refused(bias: Any) -> None:
    with pytest.raises(OptionError, match="logit_bias"):
        SamplingOptions(logit_bias=bias)


def test_numbers_of_numpy_are_numbers() -> None:
    options = SamplingOptions(temperature=np.float32(0.5), top_k=np.int64(3), logit_bias={np.int64(2): np.float32(1.0)})
    options.check_vocabulary(6)
    assert options.sampler()(mx.array(LOGITS)[None]).shape == (1,)


def test_options_are_kept_as_pythons_own_numbers() -> None:
    """Whatever kind of number they came as, they can be compared, logged and handed to MLX."""
    given: dict[str, Any] = {
        "temperature": 1, "top_k": np.int64(3), "top_p": np.float64(0.5), "min_p": Fraction(1, 4),
        "repetition_penalty": np.float32(1.5), "presence_penalty": 2, "frequency_penalty": np.int8(-1),
        "logit_bias": {np.int64(2): np.float32(1.0)}, "seed": np.uint64(7),
    }  # fmt: skip
    found = asdict(SamplingOptions(**given))
    assert found == {
        "temperature": 1.0, "top_k": 3, "top_p": 0.5, "min_p": 0.25, "repetition_penalty": 1.5, "presence_penalty": 2.0,
        "frequency_penalty": -1.0, "logit_bias": {2: 1.0}, "seed": 7,
    }  # fmt: skip
    ((token, bias),) = found.pop("logit_bias").items()
    assert {name for name, value in found.items() if type(value) is not float} == {"top_k", "seed"}
    assert (type(found["top_k"]), type(found["seed"]), type(token), type(bias)) == (int, int, int, float)


def test_minus_one_in_a_checkpoint_means_all_tokens() -> None:
    assert options_from({"do_sample": True, "top_k": -1}, {}).top_k == 0
    assert options_from({"do_sample": True, "top_k": 5}, {"top_k": -1}).top_k == 0
