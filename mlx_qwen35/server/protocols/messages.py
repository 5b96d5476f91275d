"""Anthropic's messages: `POST /v1/messages` and `/v1/messages/count_tokens`."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from mlx_qwen35.answers.tool_calls import ToolCall
from mlx_qwen35.prompts.efforts import EffortName
from mlx_qwen35.server.generation import (
    DeltaEvent,
    FinishEvent,
    GenerationRequest,
    ProgressEvent,
    StreamEvent,
    ToolCallEvent,
    Usage,
)
from mlx_qwen35.server.protocols.base import AnswerContext, ApiProtocol, GenerationBody, PromptBody
from mlx_qwen35.server.protocols.client_tools import CLIENT_TOOLS
from mlx_qwen35.server.protocols.common import Thinking, arguments_json, function_tool, new_id
from mlx_qwen35.server.protocols.message_blocks import Message, TextBlock, ends_in_an_answer, is_changing, messages_of
from mlx_qwen35.server.wire import ApiError, HostedTool, Items, Whole, WireObject, invalid_request, sse


class OwnTool(WireObject):
    """A function that the answer may call, by its schema if it is strict."""

    without_effect: ClassVar = frozenset({
        "cache_control", "eager_input_streaming", "defer_loading", "input_examples", "allowed_callers",
    })  # fmt: skip

    name: str
    input_schema: dict[str, JsonValue]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None

    @property
    def function(self) -> dict[str, Any]:
        """In OpenAI's form."""
        return function_tool(self.name, self.description or None, self.input_schema)


class ClientTool(WireObject):
    """A tool of Anthropic's that the client runs; see `CLIENT_TOOLS`."""

    # The client holds what it shows to the number of characters itself.
    without_effect: ClassVar = OwnTool.without_effect | {"max_characters", "strict"}

    name: str
    type: str

    @property
    def function(self) -> dict[str, Any]:
        """In OpenAI's form."""
        return function_tool(self.name, *CLIENT_TOOLS[self.type])


def _tool_kind(value: Any) -> str:
    found = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    if found in (None, "custom"):
        return "own"
    return "client" if isinstance(found, str) and found in CLIENT_TOOLS else "server"


Tool = Annotated[
    Annotated[OwnTool, Tag("own")] | Annotated[ClientTool, Tag("client")] | Annotated[HostedTool, Tag("server")],
    Discriminator(_tool_kind),
]


class ToolChoice(WireObject):
    """Whether a function may, must or must not be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class JsonFormat(WireObject):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    schema_: dict[str, JsonValue] = Field(alias="schema")


class OutputConfig(WireObject):
    """How much to think, and the form of the answer."""

    effort: EffortName | None = None
    format: JsonFormat | None = None


class CountRequest(PromptBody):
    """The body of a request to count tokens: all that a prompt is made of."""

    without_effect: ClassVar = frozenset({
        "cache_control", "context_management", "metadata", "service_tier", "container", "mcp_servers", "betas",
        "inference_geo", "speed", "diagnostics", "fallbacks", "user_profile_id",
    })  # fmt: skip
    refused: ClassVar = {"thread": "conversations are not kept here; send all messages, without it"}

    model: str
    messages: Items[Message] = Field(min_length=1)
    system: str | Items[TextBlock] | None = None
    tools: Items[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    # Where the format stood at first; SDKs of that time send it here.
    output_format: JsonFormat | None = None

    def generation_requests(self) -> list[GenerationRequest]:
        """See `PromptBody`; always one."""
        messages: list[dict[str, Any]] = []
        if self.system:
            texts = [self.system] if isinstance(self.system, str) else [block.text for block in self.system]
            kept = "\n\n".join(text for text in texts if not is_changing(text))
            messages.append({"role": "system", "content": kept})
        for message in self.messages:
            messages += messages_of(message)
        choice: str | dict[str, str] = "auto"
        if self.tool_choice is not None:
            if (self.tool_choice.type == "tool") != (self.tool_choice.name is not None):
                raise invalid_request("tool_choice: expected a name with type tool, and only then")
            names = {"auto": "auto", "none": "none", "any": "required"}
            choice = names.get(self.tool_choice.type) or {"name": self.tool_choice.name or ""}
        # Anthropic's default: reasoning only when it is asked for.
        thinking, output = self.thinking or Thinking(type="disabled"), self.output_config or OutputConfig()
        thinks = thinking.type != "disabled"
        format_ = output.format or self.output_format
        if None not in (output.format, self.output_format) and output.format != self.output_format:
            raise invalid_request("output_format: found another output_config.format", "output_format")
        return [
            GenerationRequest(
                prompt=messages,
                tools=[tool.function for tool in self.tools or () if not isinstance(tool, HostedTool)],
                strict_tools={tool.name for tool in self.tools or () if isinstance(tool, OwnTool) and tool.strict},
                tool_choice=choice,
                parallel_tool_calls=not (self.tool_choice and self.tool_choice.disable_parallel_tool_use),
                enable_thinking=thinks,
                effort=output.effort if thinks else None,
                thinking_budget=thinking.budget_tokens if thinks else None,
                schema=format_.schema_ if format_ else None,
                # As Anthropic has it: what the assistant said last is how the answer begins.
                continue_final_message=ends_in_an_answer(messages),
            )
        ]


class MessagesRequest(CountRequest, GenerationBody):
    """The body of a request."""

    # An answer would be read as the summary that is to stand for the conversation.
    refused: ClassVar = CountRequest.refused | {"compaction": "nothing is summarized here; ask for a summary"}

    # 0 asks for the prompt to be read alone, for later requests.
    max_tokens: Whole
    stop_sequences: Items[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Whole | None = None

    def generation_requests(self) -> list[GenerationRequest]:
        """See `PromptBody`; always one."""
        options = {
            "max_tokens": self.max_tokens or 1,
            "stop": self.stop_sequences,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
        }
        return [replace(wanted, options=options) for wanted in super().generation_requests()]


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
    }


def _stop(end: FinishEvent) -> dict[str, Any]:
    if end.stop_string is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": end.stop_string}
    reason = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}[end.reason]
    return {"stop_reason": reason, "stop_sequence": None}


def _tool_use(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": new_id("toolu_"), "name": call.name, "input": call.arguments}


# Of every thinking block. Nothing is signed here, but clients send back as reasoning only what has one: pi makes text
# of the others, and AI SDK leaves them out.
_SIGNATURE = "mlx-qwen35"


async def _unwritten(events: AsyncIterator[StreamEvent]) -> AsyncIterator[StreamEvent]:
    """The events of an answer that is not wanted, without the one token that it took to have the prompt read."""
    async for event in events:
        if isinstance(event, ProgressEvent):
            yield event
        elif isinstance(event, FinishEvent):
            yield FinishEvent(event.index, "length", replace(event.usage, completion=0, reasoning=0))


def _head(model: str) -> dict[str, Any]:
    return {"id": new_id("msg_"), "type": "message", "role": "assistant", "model": model}


async def whole(events: AsyncIterator[StreamEvent], context: AnswerContext[MessagesRequest]) -> dict[str, Any]:
    """The answer as one object."""
    text = reasoning = ""
    calls: list[dict[str, Any]] = []
    end = None
    async for event in events if context.body.max_tokens else _unwritten(events):
        if isinstance(event, DeltaEvent):
            text, reasoning = text + event.text, reasoning + event.reasoning
        elif isinstance(event, ToolCallEvent):
            calls.append(_tool_use(event.call))
        elif isinstance(event, FinishEvent):
            end = event
    assert end is not None
    content: list[dict[str, Any]] = []
    if reasoning:
        content.append({"type": "thinking", "thinking": reasoning, "signature": _SIGNATURE})
    if text:
        content.append({"type": "text", "text": text})
    return {**_head(context.model), "content": [*content, *calls], **_stop(end), "usage": _usage(end.usage)}


_EMPTY_BLOCKS: dict[str, dict[str, Any]] = {
    "thinking": {"type": "thinking", "thinking": "", "signature": ""}, "text": {"type": "text", "text": ""}
}  # fmt: skip


def _sse(kind: str, **data: Any) -> str:
    return sse({"type": kind, **data}, kind)


class _Blocks:
    """The content blocks of an answer that is being streamed; at most one of them, the last, is open."""

    def __init__(self) -> None:
        self._index, self._open = -1, ""

    def add(self, kind: str, text: str) -> list[str]:
        """More of a text or thinking block; a new one if the open one is another."""
        if not text:
            return []
        events = []
        if self._open != kind:
            events += [*self.close(), self._start(_EMPTY_BLOCKS[kind])]
            self._open = kind
        return [*events, self._delta(type=f"{kind}_delta", **{kind: text})]

    def add_call(self, call: ToolCall) -> list[str]:
        """A whole block."""
        events = [*self.close(), self._start({**_tool_use(call), "input": {}})]
        events.append(self._delta(type="input_json_delta", partial_json=arguments_json(call)))
        return [*events, _sse("content_block_stop", index=self._index)]

    def close(self) -> list[str]:
        """End the open block, if there is one."""
        if not self._open:
            return []
        last = [self._delta(type="signature_delta", signature=_SIGNATURE)] if self._open == "thinking" else []
        self._open = ""
        return [*last, _sse("content_block_stop", index=self._index)]

    def _start(self, block: dict[str, Any]) -> str:
        self._index += 1
        return _sse("content_block_start", index=self._index, content_block=block)

    def _delta(self, **delta: str) -> str:
        return _sse("content_block_delta", index=self._index, delta=delta)


async def stream(events: AsyncIterator[StreamEvent], context: AnswerContext[MessagesRequest]) -> AsyncIterator[str]:
    """The answer as server-sent events."""
    blocks, begun = _Blocks(), False
    async for event in events if context.body.max_tokens else _unwritten(events):
        if not begun:
            begun = True
            cached = event.processed if isinstance(event, ProgressEvent) else 0
            usage = _usage(Usage(len(context.prepared.prompt.input_ids), cached))
            head = {**_head(context.model), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
            yield _sse("message_start", message=head)
        parts: list[str] = []
        if isinstance(event, ProgressEvent):
            parts = [_sse("ping")]
        elif isinstance(event, DeltaEvent):
            parts = [*blocks.add("thinking", event.reasoning), *blocks.add("text", event.text)]
        elif isinstance(event, ToolCallEvent):
            parts = blocks.add_call(event.call)
        else:
            parts = blocks.close()
            parts += [_sse("message_delta", delta=_stop(event), usage=_usage(event.usage)), _sse("message_stop")]
        for part in parts:
            yield part


def anthropic_error(error: ApiError) -> dict[str, Any]:
    """Anthropic's error object."""
    told: dict[str, Any] = {"type": error.kind, "message": str(error)}
    if error.param == "thread":
        # By this Anthropic's SDKs know that they are to send the whole conversation instead.
        told["details"] = {"error_code": "thread_unsupported_request"}
    return {"type": "error", "error": told}


MESSAGES = ApiProtocol(
    "/v1/messages",
    MessagesRequest,
    whole,
    stream,
    anthropic_error,
    lambda error, _: sse(anthropic_error(error), "error"),
)
