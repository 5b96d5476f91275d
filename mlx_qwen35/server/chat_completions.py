"""OpenAI's chat completions: `POST /v1/chat/completions`."""

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from mlx_qwen35.answers.results import TokenLogprob
from mlx_qwen35.answers.tool_calls import ToolCall
from mlx_qwen35.server.exchange import Ask, Called, Delta, Exchange, Finished, Prepared, Reply, Usage, Waiting
from mlx_qwen35.server.wire import ApiError, Strict, sse


class CallFunction(Strict):
    """A call's function; `arguments` is JSON text."""

    name: str
    arguments: str | dict[str, JsonValue] = "{}"


class MessageToolCall(Strict):
    """A call that an earlier answer made."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CallFunction
    index: int | None = None


class Message(Strict):
    """One message; reasoning under either of its names."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, JsonValue]] | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: list[JsonValue] | None = Field(None, max_length=0)


class Function(Strict):
    """A function's description; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A function that the answer may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(Strict):
    """A function's name."""

    name: str


class NamedTool(Strict):
    """The one function that has to be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Strict):
    """A named JSON schema."""

    name: str
    schema_: dict[str, JsonValue] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextFormat(Strict):
    """Anything."""

    type: Literal["text"]


class ObjectFormat(Strict):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(Strict):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
IMPOSSIBLE = -9999.0
# Qwen3.5 thinks or does not; less effort is a budget of tokens for it.
BUDGETS = {"low": 1024, "medium": 8192}


class StreamOptions(Strict):
    """What a stream tells beside the answer."""

    include_usage: bool = False


class SamplingFields(Strict):
    """What chat and plain completions have in common."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=16)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    # Who asks: accepted, since nothing follows from it.
    user: str | None = None

    def asks(self) -> list[Ask]:
        """One for each prompt, in the form of all protocols."""
        raise NotImplementedError

    def sampling(self) -> dict[str, Any]:
        """For `ModelKit.request`."""
        names = (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
        )
        options = {name: getattr(self, name) for name in (*names, "seed", "stop")}
        if self.logit_bias is not None:
            if not all(token.isascii() and token.isdigit() and len(token) < 12 for token in self.logit_bias):
                raise ApiError(400, "invalid_request_error", "logit_bias: expected token ids as keys", "logit_bias")
            options["logit_bias"] = {int(token): bias for token, bias in self.logit_bias.items()}
        return options


class ChatCompletionRequest(SamplingFields):
    """The body of a request."""

    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    reasoning_effort: Effort | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = Field(None, ge=0)
    chat_template_kwargs: dict[str, JsonValue] | None = None
    # Labels, and what is so here anyway: nothing follows from these.
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: list[Literal["text"]] | None = None

    def asks(self) -> list[Ask]:
        """In the form of all protocols.

        Raises:
            ApiError: Two fields contradict each other.
        """
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise ApiError(
                400, "invalid_request_error", "max_tokens: found another max_completion_tokens", "max_tokens"
            )
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "invalid_request_error", "top_logprobs: expected logprobs to be true", "top_logprobs")
        enable_thinking, template = self.enable_thinking, dict(self.chat_template_kwargs or {})
        if "enable_thinking" in template:
            wanted = template.pop("enable_thinking")
            if enable_thinking not in (None, wanted) or not isinstance(wanted, bool):
                raise ApiError(400, "invalid_request_error", "chat_template_kwargs.enable_thinking: expected one bool")
            enable_thinking = wanted
        enable_thinking, budget = with_effort(self.reasoning_effort, enable_thinking, self.thinking_budget)
        schema = None
        if isinstance(self.response_format, SchemaFormat):
            schema = self.response_format.json_schema.schema_
        elif isinstance(self.response_format, ObjectFormat):
            schema = {}
        choice = self.tool_choice or "auto"
        ask = Ask(
            prompt=[message_of(message, f"messages[{at}]") for at, message in enumerate(self.messages)],
            tools=[tool.model_dump(exclude_none=True, exclude={"function": {"strict"}}) for tool in self.tools or ()],
            tool_choice={"name": choice.function.name} if isinstance(choice, NamedTool) else choice,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            enable_thinking=enable_thinking,
            template=template,
            thinking_budget=budget,
            schema=schema,
            n=self.n or 1,
            options={
                **self.sampling(),
                "max_tokens": self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens,
                "logprobs": bool(self.logprobs),
                "top_logprobs": self.top_logprobs or 0,
            },
        )
        return [ask]


def message_of(message: Message, place: str) -> dict[str, Any]:
    """A message as `ModelKit.process_prompt` takes it.

    Raises:
        ApiError: It names a speaker, of whom the model would not learn.
    """
    if message.name is not None and message.role != "tool":
        raise ApiError(400, "invalid_request_error", f"{place}.name: unknown or unsupported field", f"{place}.name")
    kept = message.model_dump(exclude_none=True, exclude={"name", "tool_call_id", "annotations"})
    return {**kept, "content": kept.get("content", "" if message.role == "assistant" else None)}


def with_effort(effort: str | None, enable_thinking: bool | None, budget: int | None) -> tuple[bool | None, int | None]:
    """Whether to think, and for how many tokens at most."""
    if effort is None:
        return enable_thinking, budget
    if effort in ("none", "minimal"):
        return False, budget
    return True, BUDGETS.get(effort) if budget is None else budget


def usage_of(usages: list[Usage]) -> dict[str, Any]:
    """OpenAI's usage object; the prompt of several answers counts once."""
    completion = sum(usage.completion for usage in usages)
    return {
        "prompt_tokens": usages[0].prompt,
        "completion_tokens": completion,
        "total_tokens": usages[0].prompt + completion,
        "prompt_tokens_details": {"cached_tokens": usages[0].cached},
        "completion_tokens_details": {"reasoning_tokens": sum(usage.reasoning for usage in usages)},
    }


def tool_call(call: ToolCall) -> dict[str, Any]:
    """OpenAI's form of a call."""
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def candidate(found: TokenLogprob) -> dict[str, Any]:
    """OpenAI's form of one token's log probability; JSON has no infinity, so the impossible is -9999."""
    return {"token": found.text, "logprob": max(found.logprob, IMPOSSIBLE), "bytes": list(found.text.encode())}


def logprobs_of(delta: Delta, exchange: Exchange) -> dict[str, Any] | None:
    """Of the token behind a delta; None where none were asked for."""
    chunk = delta.chunk
    if chunk.logprob is None:
        return None
    own = candidate(TokenLogprob(chunk.token, exchange.kit.tokenizer.decode([chunk.token]), chunk.logprob))
    return {"content": [{**own, "top_logprobs": [candidate(found) for found in chunk.top_logprobs or ()]}]}


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex[:24]}", "object": kind, "created": int(time.time()), "model": model}


async def whole(replies: AsyncIterator[Reply], prepared: Prepared, exchange: Exchange, model: str) -> dict[str, Any]:
    """The answer as one object."""
    count = len(prepared.requests)
    texts, reasonings = [""] * count, [""] * count
    calls: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    scores: list[list[Any]] = [[] for _ in range(count)]
    ends: dict[int, Finished] = {}
    async for reply in replies:
        if isinstance(reply, Delta):
            texts[reply.index] += reply.text
            reasonings[reply.index] += reply.reasoning
            scores[reply.index] += (logprobs_of(reply, exchange) or {"content": []})["content"]
        elif isinstance(reply, Called):
            calls[reply.index].append(tool_call(reply.call))
        elif isinstance(reply, Finished):
            ends[reply.index] = reply
    choices = []
    for index in range(count):
        message: dict[str, Any] = {"role": "assistant", "content": texts[index] or (None if calls[index] else "")}
        if reasonings[index]:
            message |= {"reasoning_content": reasonings[index], "reasoning": reasonings[index]}
        if calls[index]:
            message["tool_calls"] = calls[index]
        logprobs = {"content": scores[index]} if prepared.requests[0].logprobs else None
        reason = ends[index].reason
        choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason})
    usage = usage_of([ends[index].usage for index in range(count)])
    return {**_head("chat.completion", model), "choices": choices, "usage": usage}


async def stream(
    replies: AsyncIterator[Reply], prepared: Prepared, exchange: Exchange, model: str, *, include_usage: bool
) -> AsyncIterator[str]:
    """The answer as server-sent events."""
    head = _head("chat.completion.chunk", model)
    count = len(prepared.requests)
    calls, ends = [0] * count, {}

    def part(index: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> str:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return sse({**head, "choices": [choice], **({"usage": None} if include_usage else {})})

    begun = False
    async for reply in replies:
        if not begun:
            begun = True
            for index in range(count):
                yield part(index, {"role": "assistant", "content": ""})
        if isinstance(reply, Waiting):
            yield f": {reply.processed} of {reply.total} prompt tokens\n\n"
        elif isinstance(reply, Delta):
            delta: dict[str, Any] = {}
            if reply.reasoning:
                delta |= {"reasoning_content": reply.reasoning, "reasoning": reply.reasoning}
            if reply.text or not reply.reasoning:
                delta["content"] = reply.text
            yield part(reply.index, delta, logprobs=logprobs_of(reply, exchange))
        elif isinstance(reply, Called):
            call = {"index": calls[reply.index], **tool_call(reply.call)}
            calls[reply.index] += 1
            yield part(reply.index, {"tool_calls": [call]})
        else:
            ends[reply.index] = reply
            yield part(reply.index, {}, reply.reason)
    if include_usage:
        usage = usage_of([ends[index].usage for index in range(count)])
        yield sse({**head, "choices": [], "usage": usage})
    yield sse("[DONE]")
