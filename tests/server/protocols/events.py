"""Events as `GenerationService.run` gives them, and what a protocol makes of them, read back."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from mlx_qwen35.answers.results import GenerationChunk, TokenLogprob
from mlx_qwen35.answers.sampling import SamplingOptions
from mlx_qwen35.answers.tool_calls import ToolCall
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.runtime.request import Request
from mlx_qwen35.server.generation import DeltaEvent, FinishEvent, ProgressEvent, StreamEvent, ToolCallEvent, Usage
from mlx_qwen35.server.protocols.base import AnswerContext, ApiProtocol
from mlx_qwen35.server.service import PreparedRequest

NOW = 1_700_000_000
CALL = ToolCall("get_weather", {"city": "Zürich", "days": 2})
CALL_JSON = '{"city": "Zürich", "days": 2}'
TOPS = (TokenLogprob(7, "é", -0.25), TokenLogprob(8, "b", -float("inf")))


class Numbers:
    """A tokenizer whose tokens are their own numbers."""

    eos_token_ids = frozenset({0})

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(f"<{token}>" for token in ids)

    def token_bytes(self, token: int) -> bytes:
        return f"<{token}>".encode()


def id_of(prefix: str, number: int) -> str:
    """The id that was made as the so many-th."""
    return f"{prefix}{number:024}"


def delta(text: str = "", reasoning: str = "", *, index: int = 0, token: int = 7, **scores: Any) -> DeltaEvent:
    return DeltaEvent(index, text, reasoning, GenerationChunk(text, reasoning, token, **scores))


def progress(processed: int, total: int = 11) -> ProgressEvent:
    return ProgressEvent(0, processed, total)


def called(index: int = 0, call: ToolCall = CALL) -> ToolCallEvent:
    return ToolCallEvent(index, call)


def finish(
    reason: str = "stop", usage: Usage | None = None, *, index: int = 0, stop_string: str | None = None
) -> FinishEvent:
    return FinishEvent(index, reason, usage or Usage(11, 4, 7, 2), stop_string)


def context(
    protocol: ApiProtocol[Any], body: dict[str, Any], *, prompts: int = 1, lengths: tuple[int, ...] = (11,)
) -> AnswerContext[Any]:
    """For a body as a client sends it; each prompt has as many answers as the body's `n` says."""
    model = protocol.body.model_validate(body)
    wanted = model.generation_requests()[0]
    names = {field.name for field in fields(SamplingOptions)} - {"logit_bias", "seed"}
    options = SamplingOptions(**{key: at for key, at in wanted.options.items() if key in names and at is not None})
    requests = tuple(
        Request(Prompt(np.arange(lengths[prompt], dtype=np.int32)), options, 5, 2)
        for prompt in range(prompts)
        for _ in range(wanted.n)
    )
    return AnswerContext(model, PreparedRequest(wanted, requests), "small", Numbers())  # type: ignore[arg-type]


async def _given(events: Sequence[StreamEvent]) -> AsyncIterator[StreamEvent]:
    for event in events:
        yield event


def whole(protocol: ApiProtocol[Any], events: Sequence[StreamEvent], asked: AnswerContext[Any]) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        return await protocol.whole(_given(events), asked)

    return asyncio.run(run())


def streamed(protocol: ApiProtocol[Any], events: Sequence[StreamEvent], asked: AnswerContext[Any]) -> list[str]:
    """The parts of a stream, as they are sent."""

    async def run() -> list[str]:
        return [part async for part in protocol.stream(_given(events), asked)]

    return asyncio.run(run())


def read(part: str) -> Any:
    """A part as JSON with the name of its event, if it has one; a comment or OpenAI's last part as it is."""
    assert part.endswith("\n\n")
    name, data = "", part.removesuffix("\n\n")
    if data.startswith("event: "):
        name, _, data = data.removeprefix("event: ").partition("\n")
    assert "\n" not in data
    if not data.startswith("data: {"):
        return data
    found = json.loads(data.removeprefix("data: "))
    return (name, found) if name else found
