"""OpenAI's plain completions, without a chat template: `POST /v1/completions`."""

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from mlx_qwen35.server.chat_completions import IMPOSSIBLE, SamplingFields
from mlx_qwen35.server.exchange import Ask, Delta, Exchange, Finished, Prepared, Reply, Waiting
from mlx_qwen35.server.wire import ApiError, sse

MOST_PROMPTS = 16


class CompletionRequest(SamplingFields):
    """The body of a request; control tokens in a prompt's text count."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = 16
    logprobs: int | None = Field(None, ge=0, le=20)

    def asks(self) -> list[Ask]:
        """One for each prompt."""
        several = isinstance(self.prompt, list) and not (self.prompt and isinstance(self.prompt[0], int))
        options = {
            **self.sampling(),
            "max_tokens": self.max_tokens,
            "logprobs": self.logprobs is not None,
            "top_logprobs": self.logprobs or 0,
        }
        prompts = self.prompt if several else [self.prompt]
        if not 0 < len(prompts) <= MOST_PROMPTS or not self.prompt:
            raise ApiError(400, "invalid_request_error", f"prompt: expected 1 to {MOST_PROMPTS} prompts", "prompt")
        return [Ask(prompt=prompt, n=self.n or 1, options=options) for prompt in prompts]


@dataclass
class _Scores:
    """OpenAI's older form of log probabilities."""

    exchange: Exchange
    offset: int = 0
    found: dict[str, list[Any]] = field(default_factory=dict)

    def take(self, delta: Delta) -> dict[str, list[Any] | None] | None:
        chunk = delta.chunk
        if chunk.logprob is None:
            return None
        tops = {found.text: max(found.logprob, IMPOSSIBLE) for found in chunk.top_logprobs or ()}
        found: dict[str, list[Any] | None] = {
            "tokens": [self.exchange.kit.tokenizer.decode([chunk.token])],
            "token_logprobs": [chunk.logprob],
            "top_logprobs": [tops] if tops else None,
            "text_offset": [self.offset],
        }
        self.offset += len(delta.text)
        for name, values in found.items():
            if values is not None:
                self.found.setdefault(name, []).extend(values)
        return found


def _head(model: str) -> dict[str, Any]:
    return {
        "id": f"cmpl-{uuid.uuid4().hex[:24]}", "object": "text_completion", "created": int(time.time()), "model": model
    }  # fmt: skip


def _usage(ends: dict[int, Finished], prepared: Prepared) -> dict[str, Any]:
    firsts = [ends[index].usage for index in range(0, len(prepared.requests), prepared.ask.n)]
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


async def whole(replies: AsyncIterator[Reply], prepared: Prepared, exchange: Exchange, model: str) -> dict[str, Any]:
    """The answers as one object."""
    count = len(prepared.requests)
    texts, reasonings, scores = [""] * count, [""] * count, [_Scores(exchange) for _ in range(count)]
    ends: dict[int, Finished] = {}
    async for reply in replies:
        if isinstance(reply, Delta):
            scores[reply.index].take(reply)
            texts[reply.index] += reply.text
            reasonings[reply.index] += reply.reasoning
        elif isinstance(reply, Finished):
            ends[reply.index] = reply
    choices = [
        _choice(index, texts[index], reasonings[index], scores[index].found or None, ends[index].reason)
        for index in range(count)
    ]
    return {**_head(model), "choices": choices, "usage": _usage(ends, prepared)}


async def stream(
    replies: AsyncIterator[Reply], prepared: Prepared, exchange: Exchange, model: str, *, include_usage: bool
) -> AsyncIterator[str]:
    """The answers as server-sent events."""
    head = _head(model)
    scores = [_Scores(exchange) for _ in prepared.requests]
    ends: dict[int, Finished] = {}
    async for reply in replies:
        if isinstance(reply, Waiting):
            yield f": {reply.processed} of {reply.total} prompt tokens\n\n"
        elif isinstance(reply, Delta):
            logprobs = scores[reply.index].take(reply)
            yield sse({**head, "choices": [_choice(reply.index, reply.text, reply.reasoning, logprobs, None)]})
        elif isinstance(reply, Finished):
            ends[reply.index] = reply
            yield sse({**head, "choices": [_choice(reply.index, "", "", None, reply.reason)]})
    if include_usage:
        yield sse({**head, "choices": [], "usage": _usage(ends, prepared)})
    yield sse("[DONE]")
