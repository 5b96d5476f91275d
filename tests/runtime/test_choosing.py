"""What is chosen for the rows of a batch at once: to the bit what each row's own options choose alone."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen35.answers.sampling import SamplingOptions
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.runtime.choosing import Choices, Chooser, choose_together
from mlx_qwen35.runtime.request import Request

VOCABULARY = 50


def second(scores: mx.array) -> mx.array:
    """A caller's sampler, which draws what is second best."""
    return mx.argsort(-scores, axis=-1)[:, 1]


# Of neighbours in one batch: greedy, drawn with the same filters and with others, penalised, a caller's own.
ROWS: tuple[dict[str, Any], ...] = (
    {"options": SamplingOptions()},
    {"options": SamplingOptions(temperature=1.0, top_p=0.9, seed=1)},
    {"options": SamplingOptions(temperature=1.0, top_p=0.9, seed=2), "top_logprobs": 3},
    {"options": SamplingOptions(temperature=0.7, top_k=5, min_p=0.1, seed=1)},
    {"options": SamplingOptions(temperature=1.0, top_p=0.9, seed=1, presence_penalty=2.0)},
    {"options": SamplingOptions(logit_bias={3: 9.0}, repetition_penalty=1.3), "top_logprobs": 2},
    {"options": SamplingOptions(), "sampler": second},
)


def choosers(*rows: int) -> list[Chooser]:
    prompt = Prompt(np.arange(4, dtype=np.int32))
    return [Chooser(Request(prompt, max_tokens=9, prefill_step_size=9, **ROWS[row])) for row in rows]


def steps(count: int, width: int = 1) -> list[tuple[mx.array, mx.array]]:
    """Tokens (rows, width) that are read, and logits (rows, width, V)."""
    keys = mx.random.split(mx.random.key(7), count)
    return [
        (
            mx.random.randint(0, VOCABULARY, (len(ROWS), width), key=key),
            2 * mx.random.normal((len(ROWS), width, VOCABULARY), key=key),
        )
        for key in keys
    ]


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("rows", [range(len(ROWS)), (0, 5), (1, 2), (2, 3, 6)], ids=str)
def test_rows_of_a_batch_are_chosen_as_each_alone(rows: tuple[int, ...], width: int) -> None:
    together, alone = choosers(*rows), choosers(*rows)
    for tokens, logits in steps(4, width):
        places = mx.array(list(rows))
        found = choose_together(together, tokens[places], logits[places]).numbers()
        for number, (row, chooser) in enumerate(zip(rows, alone, strict=True)):
            (expected,) = choose_together([chooser], tokens[row : row + 1], logits[row : row + 1]).numbers()
            asked = ROWS[row].get("top_logprobs", 0)
            assert [(one.token, one.logprob, one.top[:asked]) for one in found[number]] == [
                (one.token, one.logprob, one.top) for one in expected
            ]


def test_log_probabilities_and_the_likeliest_are_those_chosen_from() -> None:
    """Oracle: numpy, in float64; the bias counts."""
    (tokens, logits), (chooser,) = steps(1)[0], choosers(5)
    ((choice,),) = choose_together([chooser], tokens[:1], logits[:1]).numbers()
    expected = np.array(logits[0, 0], np.float64)
    read = int(tokens[0, 0].item())  # type: ignore[arg-type]
    # The history that the penalty looks at begins behind the prompt's last token.
    assert read != 3
    expected[3] += 9.0
    expected -= np.log(np.exp(expected).sum())
    order = np.argsort(-expected)
    assert (choice.token, [token for token, _ in choice.top]) == (order[0], order[:2].tolist())
    np.testing.assert_allclose(
        [choice.logprob, *(value for _, value in choice.top)], expected[order[[0, 0, 1]]], atol=1e-5
    )


def test_choices_of_rows_that_come_and_go() -> None:
    """Rows that ask for different numbers of the likeliest keep theirs."""
    (tokens, logits), *_ = steps(1)
    parts = [choose_together(choosers(row), tokens[row : row + 1], logits[row : row + 1]) for row in (0, 5, 2)]
    joined: Choices = parts[0].and_then(parts[1]).and_then(parts[2])
    expected = [part.numbers()[0][0] for part in parts]
    for found, one in zip(joined.of_rows([2, 0, 1]).numbers(), [expected[2], expected[0], expected[1]], strict=True):
        assert (found[0].token, found[0].logprob) == (one.token, one.logprob)
        assert found[0].top[: len(one.top)] == one.top
        assert all(isinstance(token, int) for token, _ in found[0].top)


def test_a_token_that_the_model_does_not_have_harms_nobody() -> None:
    (tokens, logits), *_ = steps(1)
    broken, beside = choosers(6, 0)
    broken.sampler = lambda scores: mx.array([10**6])
    found = choose_together([broken, beside], tokens[:2], logits[:2]).numbers()
    assert found[0][0].token == 10**6
    assert found[1] == choose_together(choosers(0), tokens[1:2], logits[1:2]).numbers()[0]


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("row", [0, 1, 2, 5])
def test_log_probabilities_have_digits_that_half_precision_has_not(row: int, dtype: mx.Dtype) -> None:
    """Near 20, where logits are, bfloat16 has steps of 0.125: a token of 97% would have a probability of 1."""
    logits = mx.array([[[21.0, 17.5, 16.0, 20.0, *[2.0] * (VOCABULARY - 4)]]], dtype=dtype)
    ((found,),) = choose_together(choosers(row), mx.array([[1]]), logits).numbers()
    given = np.array(logits.astype(mx.float32), np.float64)[0, 0]
    for token, bias in (ROWS[row]["options"].logit_bias or {}).items():
        given[token] += bias
    expected = given - np.logaddexp.reduce(given)
    assert found.logprob == pytest.approx(expected[found.token], abs=1e-5)
    assert [value for _, value in found.top] == pytest.approx(sorted(expected)[: -1 - len(found.top) : -1], abs=1e-5)


def test_what_is_added_to_half_precision_is_not_rounded_away() -> None:
    request = {"options": SamplingOptions(logit_bias={2: 0.03}, presence_penalty=0.01)}
    chooser = Chooser(Request(Prompt(np.arange(4, dtype=np.int32)), max_tokens=9, prefill_step_size=9, **request))
    logits = mx.full((1, 2, 4), 20.0, dtype=mx.bfloat16)
    (found,) = choose_together([chooser], mx.array([[0, 2]]), logits).numbers()
    assert [choice.token for choice in found] == [2, 2]
    assert found[0].logprob - found[1].logprob == pytest.approx(0.75 * 0.01, abs=1e-3)
