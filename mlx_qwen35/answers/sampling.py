"""How the next token is chosen."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import mlx.core as mx
from mlx_lm.sample_utils import apply_min_p, apply_top_p, make_logits_processors

from mlx_qwen35.errors import OptionError

Sampler = Callable[[mx.array], mx.array]
LogitsProcessor = Callable[[mx.array, mx.array], mx.array]

# Dividing by less than this leaves float32; the most likely token is all that could come out.
_COLDEST = 1e-5
# Above it all tokens are as likely as each other in any float; its inverse stays above 0 in float16, so that what is
# forbidden, -inf, stays so.
_HOTTEST = 1e7
# Draws that can be taken back.
_MOST_REWOUND = 16
# MLX takes 64 bits.
_LARGEST_SEED, _LEAST_SEED = 2**64 - 1, -(2**63)
# mlx-lm's penalties look back this many tokens; further than any answer is long.
_WHOLE_OUTPUT = 1 << 30


def unsigned(seed: int | None) -> int | None:
    """A seed in [0, 2**64); None if one is to be drawn.

    Raises:
        OptionError: It has more than 64 bits.
    """
    whole = -1 if seed is None else whole_number("seed", seed, _LEAST_SEED, _LARGEST_SEED)
    return None if whole == -1 else whole % (_LARGEST_SEED + 1)


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Options of one request; the defaults choose the most likely token.

    Args:
        temperature: Divides the logits; 0 is greedy.
        top_k: Keep only this many tokens; 0 keeps all, and so does -1, as in vLLM.
        top_p: Keep the most likely tokens that together reach this probability; 1 keeps all, 0 the likeliest alone,
            as in transformers.
        min_p: Keep tokens at least this likely relative to the most likely one; 0 keeps all.
        repetition_penalty: Divides positive and multiplies negative logits of tokens in the output; 1 is off.
        presence_penalty: Subtracted once from the logits of tokens in the output.
        frequency_penalty: Subtracted once per occurrence in the output.
        logit_bias: Added to the logits of these token ids.
        seed: Makes the choices of this request repeatable, whatever runs beside it; 64 bits, with a sign, as in
            OpenAI's API, or without. None draws one, and so does -1, as in llama.cpp.
    Raises:
        OptionError: A value is out of range.
    Source:
        transformers 5.24, generation/logits_process.py: TopPLogitsWarper keeps the likeliest token for a `top_p` of 0;
        generation/utils.py: a `top_k` of 0 is none.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "temperature": number("temperature", self.temperature, 0.0),
            "top_k": max(whole_number("top_k", self.top_k, -1), 0),
            "top_p": number("top_p", self.top_p, 0.0, 1.0),
            "min_p": number("min_p", self.min_p, 0.0, 1.0),
            "repetition_penalty": number("repetition_penalty", self.repetition_penalty, 0.0, open_low=True),
            "presence_penalty": number("presence_penalty", self.presence_penalty),
            "frequency_penalty": number("frequency_penalty", self.frequency_penalty),
            "logit_bias": _bias(self.logit_bias),
            "seed": unsigned(self.seed),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Refuse a bias on a token that does not exist.

        Raises:
            OptionError: An id is not in [0, vocab_size).
        """
        for token in self.logit_bias or {}:
            if not 0 <= token < vocab_size:
                raise OptionError(f"logit_bias: expected token ids below {vocab_size}, found {token}")

    def sampler(self) -> Sampler:
        """From log probabilities (1, V) to token ids (1,).

        Filters apply in transformers' order: temperature, top_k, top_p, min_p.
        """
        if self.temperature < _COLDEST or self.top_p == 0.0:
            return greedy
        return SeededSampler(self, self.seed if self.seed is not None else int.from_bytes(os.urandom(4), "little"))

    def logits_processors(self, prompt_tokens: int) -> list[LogitsProcessor]:
        """Bias and penalties for mlx-lm's generation loop.

        Args:
            prompt_tokens: Leading tokens of the history that the loop passes which are not output.
        """
        processors = make_logits_processors(
            logit_bias=dict(self.logit_bias) if self.logit_bias else None,
            repetition_penalty=self.repetition_penalty if self.repetition_penalty != 1.0 else None,
            repetition_context_size=_WHOLE_OUTPUT,
            presence_penalty=self.presence_penalty,
            presence_context_size=_WHOLE_OUTPUT,
            frequency_penalty=self.frequency_penalty,
            frequency_context_size=_WHOLE_OUTPUT,
        )
        raises = self.repetition_penalty < 1.0 or min(self.presence_penalty, self.frequency_penalty) < 0.0
        raises = raises or max((self.logit_bias or {0: 0.0}).values(), default=0.0) > 0.0
        return [_on_output(_finite(processor) if raises else processor, prompt_tokens) for processor in processors]


def options_from(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> SamplingOptions:
    """A request's options on top of a checkpoint's.

    Args:
        defaults: generation_config.json of the checkpoint.
        given: Fields of `SamplingOptions` that the caller set; None means not given.
    Raises:
        OptionError: An option is out of range.
    """
    sampled = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    chosen = {
        name: defaults[name]
        # transformers ignores these unless do_sample is set.
        for name in (sampled if defaults.get("do_sample") else ("repetition_penalty",))
        if defaults.get(name) is not None
    }
    if defaults.get("do_sample"):
        chosen.setdefault("temperature", 1.0)
    chosen.update({name: value for name, value in given.items() if value is not None})
    return SamplingOptions(**chosen)


def default_max_tokens(defaults: Mapping[str, Any]) -> int | None:
    """`max_new_tokens` of a generation_config.json.

    Raises:
        OptionError: It is not a positive whole number.
    """
    value = defaults.get("max_new_tokens")
    if value is not None:
        whole_number("max_new_tokens", value, 1)
    return value


class SeededSampler:
    """Draws tokens with noise that depends on a seed and on how many tokens were drawn before, and on nothing else.

    Args:
        options: Temperature above 0, top_k, top_p and min_p.
    """

    def __init__(self, options: SamplingOptions, seed: int) -> None:
        # What is done before a draw.
        self.filters = (min(options.temperature, _HOTTEST), options.top_k, options.top_p, options.min_p)
        # Keys of its own: mlx's global state is shared by whatever runs at the same time.
        self._chain = mx.random.key(seed)
        self._ahead: list[mx.array] = []
        self._drawn: list[mx.array] = []

    def __call__(self, logprobs: mx.array) -> mx.array:
        """Log probabilities (1, V) to token ids (1,); any further rows are drawn with the same key, not alike."""
        drawn = mx.random.uniform(shape=(len(logprobs),), key=self.next_key()[0])
        return _drawn(*_filtered(logprobs, *self.filters), drawn)

    def next_key(self) -> mx.array:
        """That of the next draw, (1, 2)."""
        if not self._ahead:
            self._chain, key = mx.random.split(self._chain)
            self._ahead.append(key[None])
        key = self._ahead.pop()
        self._drawn = [*self._drawn[1 - _MOST_REWOUND :], key]
        return key

    def rewind(self, count: int) -> None:
        """The last `count` draws, at most 16, were not made."""
        for _ in range(count):
            self._ahead.append(self._drawn.pop())


def draw_together(samplers: Sequence[SeededSampler], logprobs: mx.array) -> mx.array:
    """Tokens (B, L) of each row, as its own sampler would draw them one after the other.

    Args:
        samplers: With the same filters, one per row.
        logprobs: (B, L, V).
    """
    places, size = logprobs.shape[1:]
    keys = mx.concatenate([sampler.next_key() for sampler in samplers for _ in range(places)])
    drawn = mx.vmap(lambda key: mx.random.uniform(key=key))(keys)
    return _drawn(*_filtered(logprobs.reshape(-1, size), *samplers[0].filters), drawn).reshape(-1, places)


def _drawn(logits: mx.array, tokens: mx.array | None, drawn: mx.array) -> mx.array:
    """Of each row of logits (N, K) the token whose share of the whole a number (N,) of [0, 1) falls into.

    As `mx.random.categorical`, which takes one key for all rows, or a graph for each.

    Args:
        tokens: Whose logits they are, (N, K); None for those of the whole vocabulary.
    """
    wide = logits.astype(mx.float32)
    passed = mx.cumsum(mx.exp(wide - wide.max(axis=-1, keepdims=True)), axis=-1)
    # The whole times the largest float32 below 1 is less than the whole, so there is such a token.
    found = mx.argmax(passed > drawn[:, None] * passed[:, -1:], axis=-1)
    return found if tokens is None else mx.take_along_axis(tokens, found[:, None], axis=-1)[:, 0]


def greedy(logprobs: mx.array) -> mx.array:
    """The likeliest token at each place; one function for all, so that rows of a batch are chosen together."""
    return mx.argmax(logprobs, axis=-1)


def _filtered(
    logprobs: mx.array, temperature: float, top_k: int, top_p: float, min_p: float
) -> tuple[mx.array, mx.array | None]:
    """What rows (N, V) of log probabilities are drawn from, as `_drawn` takes it.

    The likeliest alone, where only so many are kept: whatever is sorted and added up then takes no time.
    """
    logits, tokens = logprobs * (1.0 / temperature), None
    if 0 < top_k < logits.shape[-1]:
        # In the vocabulary's order, so that a number draws what it would draw from all of it.
        tokens = mx.sort(mx.argpartition(-logits, kth=top_k - 1, axis=-1)[..., :top_k], axis=-1)
        logits = mx.take_along_axis(logits, tokens, axis=-1)
    if top_p < 1.0:
        logits = apply_top_p(_normalised(logits), top_p)
    if min_p > 0.0:
        logits = apply_min_p(logits, min_p)
    return logits, tokens


def _normalised(logits: mx.array) -> mx.array:
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _finite(processor: LogitsProcessor) -> LogitsProcessor:
    """The largest number in place of infinity, beside which no token has a probability that is a number."""
    return lambda tokens, logits: mx.minimum(processor(tokens, logits), mx.finfo(logits.dtype).max)


def _on_output(processor: LogitsProcessor, prompt_tokens: int) -> LogitsProcessor:
    return lambda tokens, logits: processor(tokens[prompt_tokens:], logits)


def _bias(bias: Any) -> dict[int, float] | None:
    if bias is None:
        return None
    if not isinstance(bias, Mapping):
        raise OptionError(f"logit_bias: expected a mapping from token id to number, found {bias!r}")
    return {whole_number("logit_bias", token, 0): number(f"logit_bias[{token}]", bias[token]) for token in bias}


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, open_low: bool = False) -> float:
    """An option that measures something.

    Raises:
        OptionError: It is no finite number, or not between `low` and `high`.
    """
    try:
        found = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # a whole number of hundreds of digits
        found = math.inf
    if math.isnan(found):
        raise OptionError(f"{name}: expected a number, found {value!r}")
    if not low <= found <= high or (open_low and found == low) or math.isinf(found):
        bounds = f"{'above' if open_low else 'at least'} {low:g}" if low > -math.inf else "a finite number"
        bounds += f" and at most {high:g}" if high < math.inf else ""
        raise OptionError(f"{name}: expected {bounds}, found {value!r}")
    return found


def whole_number(name: str, value: Any, low: int, high: int | None = None) -> int:
    """An option that counts something.

    Raises:
        OptionError: It is no whole number, or not between `low` and `high`.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise OptionError(f"{name}: expected a whole number {bounds}, found {value!r}")
    return int(value)


def check_flag(name: str, value: Any) -> bool:
    """An option that is either so or not.

    Raises:
        OptionError: It is neither True nor False.
    """
    if not isinstance(value, bool):
        raise OptionError(f"{name}: expected True or False, found {value!r}")
    return value


def check_function(name: str, value: Any) -> Any:
    """An option that is called.

    Raises:
        OptionError: It cannot be.
    """
    if not callable(value):
        raise OptionError(f"{name}: expected a function, found {type(value).__name__}")
    return value


def check_functions(name: str, values: Any) -> tuple[Any, ...]:
    """An option that holds several functions.

    Raises:
        OptionError: It is no list of them.
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise OptionError(f"{name}: expected a list of functions, found {type(values).__name__}")
    return tuple(check_function(f"{name}[{number}]", value) for number, value in enumerate(values))
