"""OpenAI's responses, without storing them: `POST /v1/responses`."""

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from mlx_qwen35.answers.tool_calls import ToolCall
from mlx_qwen35.server.generation import (
    DeltaEvent,
    FinishEvent,
    GenerationRequest,
    ProgressEvent,
    StreamEvent,
    ToolCallEvent,
    Usage,
)
from mlx_qwen35.server.protocols.base import AnswerContext, ApiProtocol, GenerationBody
from mlx_qwen35.server.protocols.common import (
    Effort,
    ObjectFormat,
    TextFormat,
    arguments_json,
    function_tool,
    new_id,
    openai_error,
    progress_comment,
    with_effort,
)
from mlx_qwen35.server.wire import ApiError, Strict, sse


class TextPart(Strict):
    """Text of a message."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[JsonValue] | None = None
    logprobs: list[JsonValue] | None = None


class ImagePart(Strict):
    """An image of a message."""

    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high"] | None = None


class MessageItem(Strict):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class CallItem(Strict):
    """A call that an earlier answer made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class CallOutputItem(Strict):
    """What a function returned."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]
    id: str | None = None
    status: str | None = None


class ReasoningText(Strict):
    """A piece of reasoning."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(Strict):
    """Reasoning of an earlier answer."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[ReasoningText] = Field(default_factory=list)
    content: list[ReasoningText] | None = None
    encrypted_content: None = None
    status: str | None = None


Item = MessageItem | CallItem | CallOutputItem | ReasoningItem


class FunctionTool(Strict):
    """A function that the answer may call."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class NamedTool(Strict):
    """The one function that has to be called."""

    type: Literal["function"]
    name: str


class SchemaFormat(Strict):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    name: str
    schema_: dict[str, JsonValue] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextSettings(Strict):
    """The form of the answer's text."""

    format: Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None


class Reasoning(Strict):
    """How much to think."""

    effort: Effort | None = None
    # Accepted: the answer has the whole reasoning, of which nobody needs a summary.
    summary: Literal["auto"] | None = None


class ResponsesRequest(GenerationBody):
    """The body of a request."""

    input: str | list[Item]
    instructions: str | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextSettings | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    # Labels, and settings that are always so here: accepted because they change nothing.
    store: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    include: list[Literal["reasoning.encrypted_content"]] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    background: Literal[False] | None = None

    def generation_requests(self) -> list[GenerationRequest]:
        """See `PromptBody`; always one."""
        items: list[Item] = (
            [MessageItem(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        )
        messages = _translate(items)
        if self.instructions:
            if messages and messages[0]["role"] == "system":
                content = messages[0]["content"]
                before = [{"type": "text", "text": f"{self.instructions}\n\n"}]
                first = f"{self.instructions}\n\n{content}" if isinstance(content, str) else before + content
                messages[0] = {"role": "system", "content": first}
            else:
                messages.insert(0, {"role": "system", "content": self.instructions})
        enable_thinking, budget = with_effort(self.reasoning.effort if self.reasoning else None, None, None)
        wanted = self.text.format if self.text else None
        schema = (
            wanted.schema_ if isinstance(wanted, SchemaFormat) else {} if isinstance(wanted, ObjectFormat) else None
        )
        choice = self.tool_choice or "auto"
        options = {"max_tokens": self.max_output_tokens, "temperature": self.temperature, "top_p": self.top_p}
        return [
            GenerationRequest(
                prompt=messages,
                tools=[function_tool(tool.name, tool.description, tool.parameters) for tool in self.tools or ()],
                tool_choice={"name": choice.name} if isinstance(choice, NamedTool) else choice,
                parallel_tool_calls=self.parallel_tool_calls is not False,
                enable_thinking=enable_thinking,
                thinking_budget=budget,
                schema=schema,
                options=options,
            )
        ]


def _translate(items: list[Item]) -> list[dict[str, Any]]:
    """Items as chat messages: reasoning, text and calls in a row become one message of the assistant."""
    out: list[dict[str, Any]] = []

    def answer() -> dict[str, Any]:
        if not out or out[-1]["role"] != "assistant":
            out.append({"role": "assistant", "content": ""})
        return out[-1]

    for item in items:
        if isinstance(item, ReasoningItem):
            text = "\n".join(part.text for part in item.content or item.summary)
            if text:
                answer()["reasoning_content"] = text
        elif isinstance(item, CallItem):
            call = {"type": "function", "function": {"name": item.name, "arguments": item.arguments}}
            answer().setdefault("tool_calls", []).append(call)
        elif isinstance(item, CallOutputItem):
            out.append({"role": "tool", "content": _content(item.output)})
        elif item.role == "assistant":
            content = _content(item.content)
            answer()["content"] += content if isinstance(content, str) else "".join(part["text"] for part in content)
        else:
            role = "system" if item.role == "developer" else item.role
            out.append({"role": role, "content": _content(item.content)})
    return out


def _content(content: str | list[Any]) -> Any:
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": part.text} if isinstance(part, TextPart)
        else {"type": "image_url", "image_url": {"url": part.image_url}}
        for part in content
    ]  # fmt: skip


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }


class _Response:
    """A response that is being written: its items so far, and the server-sent events about them."""

    def __init__(self, body: ResponsesRequest, model: str) -> None:
        self._body, self._model = body, model
        self._id, self._created = new_id("resp_"), int(time.time())
        self._output: list[dict[str, Any]] = []
        self._number = -1
        self._open: str | None = None

    def head(self, status: str, end: FinishEvent | None = None) -> dict[str, Any]:
        """The response object as it stands."""
        body = self._body
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self._id, "object": "response", "created_at": self._created, "model": self._model,
            "status": status, "error": None, "incomplete_details": incomplete, "output": self._output,
            "instructions": body.instructions, "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False, "temperature": body.temperature,
            "top_p": body.top_p, "max_output_tokens": body.max_output_tokens, "store": False,
            "tool_choice": "auto" if body.tool_choice is None else body.model_dump()["tool_choice"],
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "text": body.text.model_dump(by_alias=True, exclude_none=True) if body.text
            else {"format": {"type": "text"}},
            "usage": None if end is None else _usage(end.usage),
        }  # fmt: skip

    def event(self, kind: str, **data: Any) -> str:
        """One server-sent event, with the next number."""
        self._number += 1
        return sse({"type": kind, "sequence_number": self._number, **data}, kind)

    def add(self, event: StreamEvent) -> list[str]:
        """What an event of the answer adds."""
        if isinstance(event, DeltaEvent):
            return [*self._text("reasoning", event.reasoning), *self._text("message", event.text)]
        return self._call(event.call) if isinstance(event, ToolCallEvent) else []

    def _call(self, call: ToolCall) -> list[str]:
        arguments = arguments_json(call)
        item = {
            "type": "function_call",
            "id": new_id("fc_"),
            "call_id": new_id("call_"),
            "name": call.name,
            "arguments": "",
            "status": "in_progress",
        }
        events = [*self.close("completed"), self._added(item)]
        where = {"item_id": item["id"], "output_index": len(self._output) - 1}
        events.append(self.event("response.function_call_arguments.delta", **where, delta=arguments))
        item |= {"arguments": arguments, "status": "completed"}
        done = {**where, "name": call.name, "arguments": arguments}
        events.append(self.event("response.function_call_arguments.done", **done))
        events.append(self.event("response.output_item.done", output_index=where["output_index"], item=item))
        return events

    def _added(self, item: dict[str, Any]) -> str:
        self._output.append(item)
        shown = {**item, **({"content": []} if "content" in item else {})}
        return self.event("response.output_item.added", output_index=len(self._output) - 1, item=shown)

    def _text(self, kind: str, text: str) -> list[str]:
        if not text:
            return []
        events = []
        if self._open != kind:
            events += self.close("completed")
            self._open = kind
            if kind == "message":
                part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
                item = {"type": kind, "id": new_id("msg_"), "role": "assistant",
                        "status": "in_progress", "content": [part]}  # fmt: skip
            else:
                part = {"type": "reasoning_text", "text": ""}
                item = {"type": kind, "id": new_id("rs_"), "summary": [], "content": [part],
                        "status": "in_progress"}  # fmt: skip
            events.append(self._added(item))
            events.append(self.event("response.content_part.added", **self._where(), part=dict(part)))
        self._output[-1]["content"][0]["text"] += text
        extra: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        events.append(self.event(f"{self._prefix()}.delta", **self._where(), delta=text, **extra))
        return events

    def _prefix(self) -> str:
        return "response.output_text" if self._open == "message" else "response.reasoning_text"

    def _where(self) -> dict[str, Any]:
        return {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1, "content_index": 0}

    def close(self, status: str) -> list[str]:
        """End the item that is being written."""
        if self._open is None:
            return []
        item = self._output[-1]
        part, where = item["content"][0], self._where()
        extra: dict[str, Any] = {"logprobs": []} if self._open == "message" else {}
        item["status"] = status
        events = [
            self.event(f"{self._prefix()}.done", **where, text=part["text"], **extra),
            self.event("response.content_part.done", **where, part=part),
            self.event("response.output_item.done", output_index=where["output_index"], item=item),
        ]
        self._open = None
        return events


async def whole(events: AsyncIterator[StreamEvent], context: AnswerContext[ResponsesRequest]) -> dict[str, Any]:
    """The answer as one object."""
    response, end = _Response(context.body, context.model), None
    async for event in events:
        response.add(event)
        if isinstance(event, FinishEvent):
            end = event
    assert end is not None
    status = "incomplete" if end.reason == "length" else "completed"
    response.close(status)
    return response.head(status, end)


async def stream(events: AsyncIterator[StreamEvent], context: AnswerContext[ResponsesRequest]) -> AsyncIterator[str]:
    """The answer as server-sent events."""
    response, begun = _Response(context.body, context.model), False
    async for event in events:
        if not begun:
            begun = True
            yield response.event("response.created", response=response.head("in_progress"))
            yield response.event("response.in_progress", response=response.head("in_progress"))
        if isinstance(event, ProgressEvent):
            yield progress_comment(event)
        for part in response.add(event):
            yield part
        if isinstance(event, FinishEvent):
            status = "incomplete" if event.reason == "length" else "completed"
            for part in response.close(status):
                yield part
            yield response.event(f"response.{status}", response=response.head(status, event))


def _error_event(error: ApiError) -> str:
    return sse({**openai_error(error)["error"], "type": "error"}, "error")


RESPONSES = ApiProtocol("/v1/responses", ResponsesRequest, whole, stream, openai_error, _error_event)
