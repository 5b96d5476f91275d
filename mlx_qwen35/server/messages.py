"""Anthropic's messages: `POST /v1/messages` and `/v1/messages/count_tokens`."""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from mlx_qwen35.answers.tool_calls import ToolCall
from mlx_qwen35.server.chat_completions import Effort, with_effort
from mlx_qwen35.server.exchange import Ask, Called, Delta, Finished, Prepared, Reply, Usage, Waiting
from mlx_qwen35.server.wire import ApiError, Strict, sse


class CacheControl(Strict):
    """A hint that needs no doing: everything is cached."""

    type: Literal["ephemeral"]
    ttl: str | None = None


class Block(Strict):
    """A part of a message."""

    cache_control: CacheControl | None = None


class TextBlock(Block):
    """Text."""

    type: Literal["text"]
    text: str
    citations: None = None


class Base64Source(Strict):
    """An image's bytes."""

    type: Literal["base64"]
    media_type: str
    data: str


class UrlSource(Strict):
    """An image's address."""

    type: Literal["url"]
    url: str


class ImageBlock(Block):
    """An image."""

    type: Literal["image"]
    source: Annotated[Base64Source | UrlSource, Field(discriminator="type")]


class ThinkingBlock(Block):
    """Reasoning of an earlier answer."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class ToolUseBlock(Block):
    """A call that an earlier answer made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, JsonValue]


class ToolResultBlock(Block):
    """What a function returned."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[Annotated[TextBlock | ImageBlock, Field(discriminator="type")]] | None = None
    is_error: bool | None = None


AnyBlock = Annotated[
    TextBlock | ImageBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")
]


class Message(Strict):
    """One message."""

    role: Literal["user", "assistant"]
    content: str | list[AnyBlock]


class Tool(Block):
    """A function that the answer may call."""

    name: str
    input_schema: dict[str, JsonValue]
    description: str | None = None
    type: Literal["custom"] | None = None


class ToolChoice(Strict):
    """Whether a function may, must or must not be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Strict):
    """Whether the answer begins with reasoning, and its budget in tokens; "adaptive" leaves the length to the model."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: int | None = Field(default=None, ge=0)


class JsonFormat(Strict):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    schema_: dict[str, JsonValue] = Field(alias="schema")


class OutputConfig(Strict):
    """How much to think, and the form of the answer."""

    effort: Effort | None = None
    format: JsonFormat | None = None


class Metadata(Strict):
    """Who asks: accepted, since nothing follows from it."""

    user_id: str | None = None


class CountRequest(Strict):
    """What a prompt is made of."""

    model: str
    messages: list[Message] = Field(min_length=1)
    system: str | list[TextBlock] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None

    def ask(self) -> Ask:
        """In the form of all protocols."""
        messages: list[dict[str, Any]] = []
        if self.system:
            parts = self.system if isinstance(self.system, str) else "\n\n".join(block.text for block in self.system)
            messages.append({"role": "system", "content": parts})
        for message in self.messages:
            messages += _translate(message)
        choice: str | dict[str, str] = "auto"
        if self.tool_choice is not None:
            if (self.tool_choice.type == "tool") != (self.tool_choice.name is not None):
                raise ApiError(
                    400, "invalid_request_error", "tool_choice: expected a name with type tool, and only then"
                )
            names = {"auto": "auto", "none": "none", "any": "required"}
            choice = names.get(self.tool_choice.type) or {"name": self.tool_choice.name or ""}
        # Anthropic's default: reasoning only when it is asked for.
        thinking, output = self.thinking or Thinking(type="disabled"), self.output_config or OutputConfig()
        enable_thinking: bool | None = False
        budget = thinking.budget_tokens
        if thinking.type != "disabled":
            enable_thinking, budget = with_effort(output.effort, True, budget)
        return Ask(
            prompt=messages,
            tools=[
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        **({"description": tool.description} if tool.description else {}),
                        "parameters": tool.input_schema,
                    },
                }
                for tool in self.tools or ()
            ],
            tool_choice=choice,
            parallel_tool_calls=not (self.tool_choice and self.tool_choice.disable_parallel_tool_use),
            enable_thinking=enable_thinking,
            thinking_budget=budget,
            schema=output.format.schema_ if output.format else None,
        )


class MessagesRequest(CountRequest):
    """The body of a request."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    def ask(self) -> Ask:
        """In the form of all protocols."""
        options = {
            "max_tokens": self.max_tokens,
            "stop": self.stop_sequences,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
        }
        asked = super().ask()
        return Ask(**{**asked.__dict__, "options": options})


def _translate(message: Message) -> list[dict[str, Any]]:
    """One message as the messages that OpenAI makes of it: results of functions are messages of their own."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    out: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    reasoning: list[str] = []
    for block in message.content:
        place = f"{message.role} message"
        if isinstance(block, ThinkingBlock | ToolUseBlock) != (message.role == "assistant") and not isinstance(
            block, TextBlock
        ):
            raise ApiError(400, "invalid_request_error", f"messages: a {block.type} block cannot stand in a {place}")
        if isinstance(block, ThinkingBlock):
            reasoning.append(block.thinking)
        elif isinstance(block, ToolUseBlock):
            calls.append({"type": "function", "function": {"name": block.name, "arguments": block.input}})
        elif isinstance(block, ToolResultBlock):
            content = block.content if isinstance(block.content, str) else [_part(b) for b in block.content or ()]
            out.append({"role": "tool", "content": content or ""})
        else:
            parts.append(_part(block))
    if message.role == "user":
        return [*out, *([{"role": "user", "content": parts}] if parts else [])]
    answer: dict[str, Any] = {"role": "assistant", "content": "".join(part["text"] for part in parts)}
    if reasoning:
        answer["reasoning_content"] = "\n".join(reasoning)
    return [{**answer, **({"tool_calls": calls} if calls else {})}]


def _part(block: TextBlock | ImageBlock) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    source = block.source
    url = source.url if isinstance(source, UrlSource) else f"data:{source.media_type};base64,{source.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion,
    }


def _stop(end: Finished) -> dict[str, Any]:
    if end.stop_string is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": end.stop_string}
    reason = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}[end.reason]
    return {"stop_reason": reason, "stop_sequence": None}


def _tool_use(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:24]}", "name": call.name, "input": call.arguments}


def _head(model: str) -> dict[str, Any]:
    return {"id": f"msg_{uuid.uuid4().hex[:24]}", "type": "message", "role": "assistant", "model": model}


async def whole(replies: AsyncIterator[Reply], prepared: Prepared, model: str) -> dict[str, Any]:
    """The answer as one object."""
    text = reasoning = ""
    calls: list[dict[str, Any]] = []
    end = None
    async for reply in replies:
        if isinstance(reply, Delta):
            text, reasoning = text + reply.text, reasoning + reply.reasoning
        elif isinstance(reply, Called):
            calls.append(_tool_use(reply.call))
        elif isinstance(reply, Finished):
            end = reply
    assert end is not None
    content: list[dict[str, Any]] = []
    if reasoning:
        content.append({"type": "thinking", "thinking": reasoning, "signature": ""})
    if text:
        content.append({"type": "text", "text": text})
    return {**_head(model), "content": [*content, *calls], **_stop(end), "usage": _usage(end.usage)}


_BEGINNINGS: dict[str, dict[str, Any]] = {
    "thinking": {"type": "thinking", "thinking": "", "signature": ""}, "text": {"type": "text", "text": ""}
}  # fmt: skip


async def stream(replies: AsyncIterator[Reply], prepared: Prepared, model: str) -> AsyncIterator[str]:
    """The answer as server-sent events."""

    def event(kind: str, **data: Any) -> str:
        return sse({"type": kind, **data}, kind)

    index, open_kind = -1, None
    begun = False
    async for reply in replies:
        if not begun:
            begun = True
            cached = reply.processed if isinstance(reply, Waiting) else 0
            usage = _usage(Usage(len(prepared.prompt.input_ids), cached))
            message = {**_head(model), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
            yield event("message_start", message=message)
        if isinstance(reply, Waiting):
            yield event("ping")
        elif isinstance(reply, Delta):
            for kind, text in (("thinking", reply.reasoning), ("text", reply.text)):
                if not text:
                    continue
                if open_kind != kind:
                    if open_kind is not None:
                        yield event("content_block_stop", index=index)
                    index, open_kind = index + 1, kind
                    yield event("content_block_start", index=index, content_block=_BEGINNINGS[kind])
                yield event("content_block_delta", index=index, delta={"type": f"{kind}_delta", kind: text})
        elif isinstance(reply, Called):
            if open_kind is not None:
                yield event("content_block_stop", index=index)
            index, open_kind = index + 1, None
            call = _tool_use(reply.call)
            yield event("content_block_start", index=index, content_block={**call, "input": {}})
            text = json.dumps(call["input"], ensure_ascii=False)
            yield event("content_block_delta", index=index, delta={"type": "input_json_delta", "partial_json": text})
            yield event("content_block_stop", index=index)
        else:
            if open_kind is not None:
                yield event("content_block_stop", index=index)
            yield event("message_delta", delta=_stop(reply), usage=_usage(reply.usage))
            yield event("message_stop")
