"""OpenAI's responses: `POST /v1/responses`."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, PrivateAttr

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
from mlx_qwen35.server.protocols.base import AnswerContext, ApiProtocol
from mlx_qwen35.server.protocols.common import (
    ELSEWHERE,
    SamplingFields,
    TemplateFields,
    new_id,
    openai_error,
    progress_comment,
)
from mlx_qwen35.server.protocols.response_format import ObjectFormat, TextFormat
from mlx_qwen35.server.protocols.response_items import Item, MessageItem, as_json, messages_of, resolved, sealed
from mlx_qwen35.server.protocols.response_logprobs import MessageLogprobs
from mlx_qwen35.server.protocols.response_tools import NamedTool, Tool, call_item, choose, functions_of, shown
from mlx_qwen35.server.stored import StoredResponse, StoredResponses
from mlx_qwen35.server.wire import ApiError, Items, Whole, WireObject, invalid_request, sse

_LOGPROBS = "message.output_text.logprobs"


class SchemaFormat(WireObject):
    """JSON that follows a schema."""

    without_effect: ClassVar = frozenset({"strict", "description", "name"})

    type: Literal["json_schema"]
    schema_: dict[str, JsonValue] = Field(alias="schema")


class TextSettings(WireObject):
    """The form of the answer's text."""

    without_effect: ClassVar = frozenset({"verbosity"})

    format: Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None


class Reasoning(WireObject):
    """How much to think, and whether the reasoning comes as its summary, which is all that most clients show of it.

    It is the whole reasoning all the same: there is nobody who would summarise it.
    """

    without_effect: ClassVar = frozenset({"context"})

    effort: EffortName | None = None
    summary: str | None = None
    generate_summary: str | None = None

    @property
    def as_summary(self) -> bool:
        """Whether a summary is asked for."""
        return (self.summary or self.generate_summary or "none") != "none"

    @property
    def shown(self) -> dict[str, Any]:
        """As answers repeat it."""
        return {"effort": self.effort, "summary": (self.summary or self.generate_summary) if self.as_summary else None}


class ResponsesRequest(TemplateFields, SamplingFields):
    """The body of a request."""

    without_effect: ClassVar = frozenset({
        "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier",
        "client_metadata", "stream_options", "max_tool_calls", "truncation", "prompt_cache_options",
    })  # fmt: skip
    refused: ClassVar = {
        **{name: hint.replace("response_format", "text.format") for name, hint in ELSEWHERE.items()},
        "background": "send the request without it and wait for the answer",
        "conversation": "send the conversation itself, or previous_response_id",
        "prompt": "prompts are not stored here; send input and instructions",
    }

    input: str | Items[Item] = Field(default_factory=list)
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    tools: Items[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextSettings | None = None
    reasoning: Reasoning | None = None
    include: Items[str] | None = None
    metadata: dict[str, JsonValue] | None = None
    max_output_tokens: Whole | None = None
    top_logprobs: Whole | None = Field(None, ge=0, le=20)

    _resolved: list[Any] | None = PrivateAttr(None)
    # How many of those come from an earlier response.
    _stored: int = PrivateAttr(0)

    def resolve(self, stored: StoredResponses) -> None:
        """See `PromptBody`."""
        sent = self.items
        self._resolved = resolved(sent, self.previous_response_id, stored)
        self._stored = len(self._resolved) - len(sent)

    @property
    def items(self) -> list[Any]:
        """The whole conversation after `resolve`, before it what came."""
        if self._resolved is not None:
            return self._resolved
        return [MessageItem(role="user", content=self.input)] if isinstance(self.input, str) else self.input

    def generation_requests(self) -> list[GenerationRequest]:
        """See `PromptBody`; always one."""
        messages = messages_of(self.items, self._stored)
        if self.instructions:
            messages.insert(0, {"role": "system", "content": self.instructions})
        if not messages:
            raise invalid_request("input: expected at least one message, found none", "input")
        wanted = self.text.format if self.text else None
        schema = wanted.schema_ or {} if isinstance(wanted, SchemaFormat | ObjectFormat) else None
        functions = functions_of(self.tools or ())
        choice = choose(functions, self.tool_choice)
        template, enable_thinking = self.template()
        return [
            GenerationRequest(
                prompt=messages,
                tools=functions.described,
                strict_tools=functions.strict,
                tool_choice=choice,
                parallel_tool_calls=self.parallel_tool_calls is not False,
                enable_thinking=enable_thinking,
                template=template,
                effort=self.reasoning.effort if self.reasoning else None,
                thinking_budget=self.thinking_budget,
                schema=schema,
                options={
                    **self.sampling(),
                    "max_tokens": self.max_output_tokens,
                    "logprobs": bool(self.top_logprobs) or _LOGPROBS in (self.include or ()),
                    "top_logprobs": self.top_logprobs or 0,
                },
            )
        ]


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        # What is written costs nothing here, but OpenAI's types have the number in every usage.
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }


@dataclass(frozen=True)
class _Kind:
    """A kind of text that is written: the item and the field that it stands in, and the events about it.

    Args:
        index: What events call its place in the field.
        part, text: Names of the events about the part, and about its text.
    """

    item: str
    field: str
    index: str
    part: str
    text: str


_MESSAGE = _Kind("message", "content", "content_index", "content_part", "output_text")
_REASONING = _Kind("reasoning", "content", "content_index", "content_part", "reasoning_text")
_SUMMARY = _Kind("reasoning", "summary", "summary_index", "reasoning_summary_part", "reasoning_summary_text")


class _Response:
    """A response that is being written: its items so far, and the server-sent events about them."""

    def __init__(self, context: AnswerContext[ResponsesRequest]) -> None:
        self._body, self._model, self._stored = context.body, context.model, context.stored
        self._options = context.prepared.requests[0].options
        self._functions = functions_of(context.body.tools or ())
        self._seals = "reasoning.encrypted_content" in (context.body.include or ())
        self._id, self._created = new_id("resp_"), int(time.time())
        self._output: list[dict[str, Any]] = []
        self._logprobs = MessageLogprobs(context.tokenizer)
        self._number = -1
        asked = context.body.reasoning
        self._reasoning = _SUMMARY if asked is not None and asked.as_summary else _REASONING
        self._open: _Kind | None = None

    def head(self, status: str, end: FinishEvent | None = None) -> dict[str, Any]:
        """The response object as it stands, with all that OpenAI's and Open Responses' types have of one."""
        body, options = self._body, self._options
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        labels = {name: (body.model_extra or {}).get(name) for name in ("safety_identifier", "prompt_cache_key")}
        return {
            "id": self._id, "object": "response", "created_at": self._created, "model": self._model,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status, "error": None, "incomplete_details": incomplete, "output": self._output,
            "instructions": body.instructions, "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False, "temperature": options.temperature,
            "top_p": options.top_p, "presence_penalty": options.presence_penalty,
            "frequency_penalty": options.frequency_penalty, "top_logprobs": body.top_logprobs or 0,
            "max_output_tokens": body.max_output_tokens, "max_tool_calls": None, "store": self._stores,
            "background": False, "truncation": "disabled", "service_tier": "default", **labels,
            "previous_response_id": body.previous_response_id, "reasoning": (body.reasoning or Reasoning()).shown,
            "tool_choice": "auto" if body.tool_choice is None else body.model_dump(exclude_none=True)["tool_choice"],
            "tools": [shown(tool) for tool in body.tools or ()],
            "text": body.text.model_dump(by_alias=True, exclude_none=True) if body.text and body.text.format
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
            logprobs = self._logprobs.add(event, begun=self._open is _MESSAGE)
            return [*self._text(self._reasoning, event.reasoning), *self._text(_MESSAGE, event.text, logprobs)]
        return self._call(event.call) if isinstance(event, ToolCallEvent) else []

    @property
    def _stores(self) -> bool:
        return self._body.store is not False and self._stored.enabled

    def _call(self, call: ToolCall) -> list[str]:
        self._logprobs.drop()
        item, key, value = call_item(self._functions, call)
        events = [*self.close("completed"), self._added({**item, key: ""})]
        where = {"item_id": item["id"], "output_index": len(self._output) - 1}
        kind = "response.function_call_arguments" if key == "arguments" else "response.custom_tool_call_input"
        events.append(self.event(f"{kind}.delta", **where, delta=value))
        done = {**item, key: value, "status": "completed"}
        self._output[-1] = done
        name = {"name": item["name"]} if key == "arguments" else {}
        events.append(self.event(f"{kind}.done", **where, **name, **{key: value}))
        events.append(self.event("response.output_item.done", output_index=where["output_index"], item=done))
        return events

    def _added(self, item: dict[str, Any]) -> str:
        self._output.append(item)
        empty: dict[str, Any] = {field: [] for field in ("content", "summary") if field in item}
        at = len(self._output) - 1
        return self.event("response.output_item.added", output_index=at, item={**item, **empty})

    def _text(self, kind: _Kind, text: str, logprobs: Sequence[dict[str, Any]] = ()) -> list[str]:
        if not text:
            return []
        events = []
        if self._open != kind:
            events += self.close("completed")
            self._open = kind
            if kind is _MESSAGE:
                part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
                item = {"type": kind.item, "id": new_id("msg_"), "role": "assistant",
                        "status": "in_progress", "content": [part]}  # fmt: skip
            else:
                part = {"type": "summary_text" if kind is _SUMMARY else "reasoning_text", "text": ""}
                item = {"type": kind.item, "id": new_id("rs_"), "summary": [], kind.field: [part],
                        "status": "in_progress"}  # fmt: skip
            events.append(self._added(item))
            events.append(self.event(f"response.{kind.part}.added", **self._where(kind), part=dict(part)))
        part = self._output[-1][kind.field][0]
        part["text"] += text
        extra: dict[str, Any] = {}
        if kind is _MESSAGE:
            part["logprobs"] += logprobs
            extra = {"logprobs": [*logprobs]}
        events.append(self.event(f"response.{kind.text}.delta", **self._where(kind), delta=text, **extra))
        return events

    def _where(self, kind: _Kind) -> dict[str, Any]:
        return {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1, kind.index: 0}

    def close(self, status: str) -> list[str]:
        """End the item that is being written."""
        kind = self._open
        if kind is None:
            return []
        item = self._output[-1]
        part, where = item[kind.field][0], self._where(kind)
        extra: dict[str, Any] = {"logprobs": part["logprobs"]} if kind is _MESSAGE else {}
        item["status"] = status
        if self._seals and kind is not _MESSAGE:
            item["encrypted_content"] = sealed(part["text"])
        events = [
            self.event(f"response.{kind.text}.done", **where, text=part["text"], **extra),
            self.event(f"response.{kind.part}.done", **where, part=part),
            self.event("response.output_item.done", output_index=where["output_index"], item=item),
        ]
        self._open = None
        return events

    def finish(self, end: FinishEvent) -> tuple[list[str], dict[str, Any]]:
        """The last events but one, and the whole response, which is stored unless the client does not want that."""
        status = "incomplete" if end.reason == "length" else "completed"
        events = self.close(status)
        response = self.head(status, end)
        if self._stores:
            self._stored.add(StoredResponse(response, as_json(self._body.items)))
        return events, response


async def whole(events: AsyncIterator[StreamEvent], context: AnswerContext[ResponsesRequest]) -> dict[str, Any]:
    """The answer as one object."""
    response, end = _Response(context), None
    async for event in events:
        response.add(event)
        if isinstance(event, FinishEvent):
            end = event
    assert end is not None
    return response.finish(end)[1]


async def stream(events: AsyncIterator[StreamEvent], context: AnswerContext[ResponsesRequest]) -> AsyncIterator[str]:
    """The answer as server-sent events."""
    response, begun = _Response(context), False
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
            parts, whole_response = response.finish(event)
            for part in parts:
                yield part
            yield response.event(f"response.{whole_response['status']}", response=whole_response)


def _error_event(error: ApiError, number: int) -> str:
    return sse({**openai_error(error)["error"], "type": "error", "sequence_number": number}, "error")


RESPONSES = ApiProtocol("/v1/responses", ResponsesRequest, whole, stream, openai_error, _error_event)
