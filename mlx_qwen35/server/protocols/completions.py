"""OpenAI's plain completions, without a chat template: `POST /v1/completions`."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from mlx_qwen35.answers.results import GenerationChunk, TokenLogprob
from mlx_qwen35.prompts.tokenizer import Tokenizer
from mlx_qwen35.server.generation import DeltaEvent, FinishEvent, GenerationRequest, ProgressEvent, StreamEvent
from mlx_qwen35.server.protocols.base import AnswerContext, ApiProtocol
from mlx_qwen35.server.protocols.common import (
    ELSEWHERE,
    IMPOSSIBLE,
    LABELS,
    CompletionFields,
    MaxTokens,
    completion_head,
    openai_error,
    progress_comment,
)
from mlx_qwen35.server.wire import Items, Whole, invalid_request, sse

MAX_PROMPTS = 128


class CompletionRequest(CompletionFields):
    """The body of a request; control tokens in a prompt's text are control tokens."""

    without_effect: ClassVar = LABELS
    refused: ClassVar = {name: hint for name, hint in ELSEWHERE.items() if name not in ("best_of", "echo")}

    best_of: Whole | None = None
    # The prompt in front of its answer; with no tokens to write, nothing else.
    echo: bool | None = None
    prompt: str | Items[str] | Items[int] | Items[Items[int]]
    max_tokens: MaxTokens = 16
    # mlx-lm's server has a bool here.
    logprobs: Annotated[Whole, Field(ge=0, le=20)] | Literal[False] | None = None

    @property
    def has_logprobs(self) -> bool:
        """Whether log probabilities are asked for."""
        return self.logprobs is not None and self.logprobs is not False

    @property
    def only_echo(self) -> bool:
        """Whether the prompt is all that is asked for."""
        return bool(self.echo) and self.max_tokens == 0

    def generation_requests(self) -> list[GenerationRequest]:
        """See `PromptBody`."""
        # The best n of n are all of them.
        if self.best_of not in (None, self.n or 1):
            message = f"best_of: expected n, which is {self.n or 1}, found {self.best_of}; answers are not ranked here"
            raise invalid_request(message, "best_of")
        several = isinstance(self.prompt, list) and not (self.prompt and isinstance(self.prompt[0], int))
        options = {
            **self.sampling(),
            # What reads a prompt writes a token.
            "max_tokens": 1 if self.only_echo else self.max_tokens,
            "logprobs": self.has_logprobs,
            "top_logprobs": self.logprobs or 0,
        }
        if self.echo and self.has_logprobs:
            options["prompt_logprobs"] = self.logprobs or 0
        prompts = self.prompt if several else [self.prompt]
        if self.prompt == "":
            raise invalid_request("prompt: expected some text, found none: there is no token to begin with", "prompt")
        if not 0 < len(prompts) <= MAX_PROMPTS:
            raise invalid_request(f"prompt: expected 1 to {MAX_PROMPTS} prompts", "prompt")
        schema = self.answer_schema
        return [GenerationRequest(prompt=prompt, n=self.n or 1, schema=schema, options=options) for prompt in prompts]


# Log probabilities in the form of plain completions: a list for each kind of value.
_Lists = dict[str, list[Any] | None]


def _likeliest(chosen: TokenLogprob, top: Sequence[TokenLogprob] | None) -> dict[str, float]:
    """The likeliest tokens in a place by their texts, and the one that stands there, as OpenAI has it."""
    found: dict[str, float] = {}
    for one in top or ():
        # Of tokens with one text, such as the halves of characters, the likeliest, which comes first.
        found.setdefault(one.text, max(one.logprob, IMPOSSIBLE))
    if found:
        found.setdefault(chosen.text, max(chosen.logprob, IMPOSSIBLE))
    return found


@dataclass
class _Written:
    """What one answer was written as so far, the prompt in front of it where that is asked for.

    Args:
        prompt: Its text; empty where it is not asked for.
        prompt_ids: Its tokens.
        only_echo: The answer itself is not asked for.
        sent: Characters that were sent so far.
        held: And of those that follow as soon as they cannot be the beginning of a stop string.
        logprobs: All values so far, by kind.
    """

    tokenizer: Tokenizer
    prompt: str = ""
    prompt_ids: Sequence[int] = ()
    only_echo: bool = False
    sent: int = 0
    held: int = 0
    text: str = ""
    reasoning: str = ""
    logprobs: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, delta: DeltaEvent) -> tuple[str, str, _Lists | None]:
        """New text, new reasoning, and the values of new tokens; None where none were asked for."""
        chunk = delta.chunk
        text, reasoning = self.begin(), ""
        found = None if chunk.prompt_logprobs is None else self._of_prompt(chunk)
        if not self.only_echo:
            if chunk.logprob is not None:
                own = self._of_token(chunk, chunk.logprob)
                found = own if found is None else {name: _joined(found[name], own[name]) for name in own}
            text, reasoning = text + delta.text, delta.reasoning
            self.sent += len(delta.text)
            self.held = chunk.held
        self.text, self.reasoning = self.text + text, self.reasoning + reasoning
        for name, values in (found or {}).items():
            if values is not None:
                self.logprobs.setdefault(name, []).extend(values)
        return text, reasoning, found

    def begin(self) -> str:
        """The prompt's text, once."""
        text, self.prompt = self.prompt, ""
        self.sent += len(text)
        return text

    def _of_token(self, chunk: GenerationChunk, logprob: float) -> _Lists:
        chosen = TokenLogprob(chunk.token, self.tokenizer.decode([chunk.token]), logprob)
        tops = _likeliest(chosen, chunk.top_logprobs)
        return {
            "tokens": [chosen.text],
            "token_logprobs": [logprob],
            "top_logprobs": [tops] if tops else None,
            "text_offset": [self.sent + self.held],
        }

    def _of_prompt(self, chunk: GenerationChunk) -> _Lists:
        """Nothing stands before the first token that would make it likely or not."""
        given, tops = chunk.prompt_logprobs or (), chunk.prompt_top_logprobs
        likeliest = [None, *map(_likeliest, given, tops)] if tops is not None else None
        offsets, at = [], 0
        for token in self.prompt_ids:
            offsets.append(at)
            # Where a character goes on in the next token, it is this one's.
            at += sum(byte & 0xC0 != 0x80 for byte in self.tokenizer.token_bytes(token))
        return {
            "tokens": [self.tokenizer.decode([token]) for token in self.prompt_ids],
            "token_logprobs": [None, *(max(found.logprob, IMPOSSIBLE) for found in given)],
            "top_logprobs": likeliest,
            "text_offset": offsets,
        }


def _joined(one: list[Any] | None, other: list[Any] | None) -> list[Any] | None:
    return None if one is None or other is None else one + other


def _begin(context: AnswerContext[CompletionRequest]) -> list[_Written]:
    """Nothing of any answer."""
    body, prepared, found = context.body, context.prepared, []
    for number, request in enumerate(prepared.requests):
        written = _Written(context.tokenizer, only_echo=body.only_echo)
        if body.echo:
            written.prompt_ids = request.prompt.input_ids.tolist()
            given = body.prompt if isinstance(body.prompt, str) else body.prompt[number // prepared.generation.n]
            # Of token ids the text that they stand for.
            written.prompt = given if isinstance(given, str) else context.tokenizer.decode(written.prompt_ids)
        found.append(written)
    return found


def _usage(ends: dict[int, FinishEvent], context: AnswerContext[CompletionRequest]) -> dict[str, Any]:
    prepared = context.prepared
    # The answers to one prompt follow each other.
    firsts = [ends[index].usage for index in range(0, len(prepared.requests), prepared.generation.n)]
    prompt, completion = sum(u.prompt for u in firsts), sum(end.usage.completion for end in ends.values())
    completion *= not context.body.only_echo
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached for usage in firsts)},
    }


def _choice(index: int, text: str, reasoning: str, logprobs: Any, reason: str | None) -> dict[str, Any]:
    choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
    return choice | ({"reasoning_content": reasoning} if reasoning else {})


async def whole(events: AsyncIterator[StreamEvent], context: AnswerContext[CompletionRequest]) -> dict[str, Any]:
    """The answers as one object."""
    answers = _begin(context)
    ends: dict[int, FinishEvent] = {}
    async for event in events:
        if isinstance(event, DeltaEvent):
            answers[event.index].add(event)
        elif isinstance(event, FinishEvent):
            # Of a token that nobody asked for, it does not matter what it is.
            ends[event.index] = replace(event, reason="length") if context.body.only_echo else event
    choices = [
        _choice(index, answer.text + answer.begin(), answer.reasoning, answer.logprobs or None, ends[index].reason)
        for index, answer in enumerate(answers)
    ]
    head = completion_head("cmpl-", "text_completion", context.model)
    return {**head, "choices": choices, "usage": _usage(ends, context)}


async def stream(events: AsyncIterator[StreamEvent], context: AnswerContext[CompletionRequest]) -> AsyncIterator[str]:
    """The answers as server-sent events."""
    head = completion_head("cmpl-", "text_completion", context.model)
    head |= {"usage": None} if context.body.include_usage else {}
    answers = _begin(context)
    ends: dict[int, FinishEvent] = {}
    async for event in events:
        if isinstance(event, ProgressEvent):
            yield progress_comment(event)
        elif isinstance(event, DeltaEvent):
            yield sse({**head, "choices": [_choice(event.index, *answers[event.index].add(event), None)]})
        elif isinstance(event, FinishEvent):
            # Of a token that nobody asked for, it does not matter what it is.
            ends[event.index] = replace(event, reason="length") if context.body.only_echo else event
            left = answers[event.index].begin()
            yield sse({**head, "choices": [_choice(event.index, left, "", None, ends[event.index].reason)]})
    if context.body.include_usage:
        yield sse({**head, "choices": [], "usage": _usage(ends, context)})
    yield sse("[DONE]")


COMPLETIONS = ApiProtocol(
    "/v1/completions", CompletionRequest, whole, stream, openai_error, lambda error, _: sse(openai_error(error))
)
