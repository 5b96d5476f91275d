"""What may be asked of an answer: for type checkers and editors, and for the check at run time."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from mlx_qwen35.answers.sampling import LogitsProcessor, Sampler
from mlx_qwen35.errors import OptionError


class Sampling(TypedDict, total=False):
    """How tokens are chosen; see `SamplingOptions`. What is not given, or None, comes from generation_config.json."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None


class GenerationOptions(Sampling, total=False):
    """Keyword arguments of `ModelKit.request`, `stream`, `generate` and `chat`, beside those of sampling.

    Args:
        max_tokens: At most this many tokens; None for the checkpoint's own limit, or else 4096. It
            never exceeds what the context, or memory, holds.
        min_tokens: At least this many tokens, reasoning included, before the answer may end: end-of-sequence tokens
            are not chosen and stop strings do not count before, unless a grammar leaves nothing else.
        stop: At most 256 strings that end the answer, and are not part of it; None for the checkpoint's own
            `stop_strings`.
        stop_token_ids: Tokens that end the answer as an end-of-sequence token does, their text no part of it; in the
            reasoning as well, and not before `min_tokens`.
        logprobs, top_logprobs: Give each token's log probability, and so many most likely tokens in its place.
        prompt_logprobs: Give the log probability of each of the prompt's own tokens behind the first one, and so many
            of the likeliest tokens in its place, with the first chunk; None for none. The whole prompt is read for
            that, and nothing of it remembered.
        prefill_step_size: Tokens of the prompt that are read at once, fewer where memory asks for it;
            None for 2048, on the CPU 512.
        cache_prompt: Begin where an earlier prompt was the same, and let later ones do so; False reads
            everything, and remembers nothing.
        thinking_budget: At most this many tokens of reasoning; None for what the prompt's effort says.
        continue_final_message: Go on with the last of the messages, the assistant's, where its text ends.
        sampler: Chooses tokens (1,) from log probabilities (1, V), on the kit's thread, in place of
            temperature, top_p, top_k and min_p; as in mlx-lm.
        logits_processors: Change logits (1, V) before a token is chosen, given the tokens (L,) before it: the
            prompt's last one and the answer so far; as in mlx-lm.
    """

    max_tokens: int | None
    min_tokens: int
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int]
    logprobs: bool
    top_logprobs: int
    prompt_logprobs: int | None
    prefill_step_size: int | None
    cache_prompt: bool
    thinking_budget: int | None
    continue_final_message: bool
    sampler: Sampler | None
    logits_processors: Sequence[LogitsProcessor]


def check_names(given: Mapping[str, Any], expected: type, *arguments: str) -> None:
    """Refuse options that a TypedDict does not have.

    Args:
        arguments: Further ones that a function has names of its own for.
    Raises:
        OptionError: There are some; names all that it has, and those that are spelled almost so.
    """
    names = sorted({*expected.__annotations__, *arguments})
    unknown = sorted(given.keys() - set(names))
    if unknown:
        close = [name for option in unknown for name in difflib.get_close_matches(option, names, 1)]
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise OptionError(f"unknown option {', '.join(unknown)}: expected one of {', '.join(names)}{hint}")
