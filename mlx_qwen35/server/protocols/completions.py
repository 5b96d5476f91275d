"""OpenAI's plain completions, without a chat template: `POST /v1/completions`."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

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
from mlx_qwen35.server.service import PreparedRequest
from mlx_qwen35.server.wire import Items, Whole, invalid_request, sse

MAX_PROMPTS = 16


class CompletionRequest(CompletionFields):
    """The body of a request; control tokens in a prompt's text are control tokens."""

    without_effect: ClassVar = LABELS
    refused: ClassVar = {name: hint for name, hint in ELSEWHERE.items() if name != "best_of"}

    best_of: Whole | None = None
    prompt: str | Items[str] | Items[int] | Items[Items[int]]
    max_tokens: MaxTokens = 16
    # mlx-lm's server has a bool here.
    logprobs: Annotated[Whole, Field(ge=0, le=20)] | Literal[False] | None = None

    def generation_requests(self) -> list[GenerationRequest]:
        """See `PromptBody`."""
        # The best n of n are all of them.
        if self.best_of not in (None, self.n or 1):
            message = f"best_of: expected n, which is {self.n or 1}, found {self.best_of}; answers are not ranked here"
            raise invalid_request(message, "best_of")
        several = isinstance(self.prompt, list) and not (self.prompt and isinstance(self.prompt[0], int))
        options = {
            **self.sampling(),
            "max_tokens": self.max_tokens,
            "logprobs": self.logprobs is not None and self.logprobs is not False,
            "top_logprobs": self.logprobs or 0,
        }
        prompts = self.prompt if several else [self.prompt]
        if self.prompt == "":
            raise invalid_request("prompt: expected some text, found none: there is no token to begin with", "prompt")
        if not 0 < len(prompts) <= MAX_PROMPTS:
            raise invalid_request(f"prompt: expected 1 to {MAX_PROMPTS} prompts", "prompt")
        return [GenerationRequest(prompt=prompt, n=self.n or 1, options=options) for prompt in prompts]


@dataclass
class _Logprobs:
    """One answer's log probabilities in the form of plain completions: a list for each kind of value.

    Args:
        sent: Characters of the answer that were sent so far.
        held: And of those that follow as soon as they cannot be the beginning of a stop string.
        found: All values so far, by kind.
    """

    tokenizer: Tokenizer
    sent: int = 0
    held: int = 0
    found: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, delta: DeltaEvent) -> dict[str, list[Any] | None] | None:
        """The values of one more token; None where none were asked for."""
        chunk = delta.chunk
        if chunk.logprob is None:
            return None
        text = self.tokenizer.decode([chunk.token])
        tops: dict[str, float] = {}
        for top in chunk.top_logprobs or ():
            # Of tokens with one text, such as the halves of characters, the likeliest, which comes first.
            tops.setdefault(top.text, max(top.logprob, IMPOSSIBLE))
        if tops:
            # The chosen one as well, as OpenAI has it.
            tops.setdefault(text, chunk.logprob)
        found: dict[str, list[Any] | None] = {
            "tokens": [text],
            "token_logprobs": [chunk.logprob],
            "top_logprobs": [tops] if tops else None,
            "text_offset": [self.sent + self.held],
        }
        self.sent += len(delta.text)
        self.held = chunk.held
        for name, values in found.items():
            if values is not None:
                self.found.setdefault(name, []).extend(values)
        return found


def _usage(ends: dict[int, FinishEvent], prepared: PreparedRequest) -> dict[str, Any]:
    # The answers to one prompt follow each other.
    firsts = [ends[index].usage for index in range(0, len(prepared.requests), prepared.generation.n)]
    prompt, completion = sum(u.prompt for u in firsts), sum(end.usage.completion for end in ends.values())
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
    count = len(context.prepared.requests)
    texts, reasonings = [""] * count, [""] * count
    logprobs = [_Logprobs(context.tokenizer) for _ in range(count)]
    ends: dict[int, FinishEvent] = {}
    async for event in events:
        if isinstance(event, DeltaEvent):
            logprobs[event.index].add(event)
            texts[event.index] += event.text
            reasonings[event.index] += event.reasoning
        elif isinstance(event, FinishEvent):
            ends[event.index] = event
    choices = [
        _choice(index, texts[index], reasonings[index], logprobs[index].found or None, ends[index].reason)
        for index in range(count)
    ]
    head = completion_head("cmpl-", "text_completion", context.model)
    return {**head, "choices": choices, "usage": _usage(ends, context.prepared)}


async def stream(events: AsyncIterator[StreamEvent], context: AnswerContext[CompletionRequest]) -> AsyncIterator[str]:
    """The answers as server-sent events."""
    head = completion_head("cmpl-", "text_completion", context.model)
    head |= {"usage": None} if context.body.include_usage else {}
    logprobs = [_Logprobs(context.tokenizer) for _ in context.prepared.requests]
    ends: dict[int, FinishEvent] = {}
    async for event in events:
        if isinstance(event, ProgressEvent):
            yield progress_comment(event)
        elif isinstance(event, DeltaEvent):
            added = logprobs[event.index].add(event)
            yield sse({**head, "choices": [_choice(event.index, event.text, event.reasoning, added, None)]})
        elif isinstance(event, FinishEvent):
            ends[event.index] = event
            yield sse({**head, "choices": [_choice(event.index, "", "", None, event.reason)]})
    if context.body.include_usage:
        yield sse({**head, "choices": [], "usage": _usage(ends, context.prepared)})
    yield sse("[DONE]")


COMPLETIONS = ApiProtocol(
    "/v1/completions", CompletionRequest, whole, stream, openai_error, lambda error, _: sse(openai_error(error))
)
