"""OpenAI's chat completions: `POST /v1/chat/completions`."""

from collections.abc import AsyncIterator
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, JsonValue, ValidationError, model_validator

from mlx_qwen35.prompts.efforts import EffortName
from mlx_qwen35.prompts.tokenizer import Tokenizer
from mlx_qwen35.server.generation import (
    DeltaEvent,
    FinishEvent,
    GenerationRequest,
    ProgressEvent,
    StreamEvent,
    ToolCallEvent,
)
from mlx_qwen35.server.protocols.base import AnswerContext, ApiProtocol
from mlx_qwen35.server.protocols.chat_tools import AnyCall, Tool, ToolChoice, choose, functions_of, tool_call
from mlx_qwen35.server.protocols.common import (
    ELSEWHERE,
    LABELS,
    CompletionFields,
    MaxTokens,
    TemplateFields,
    Thinking,
    completion_head,
    completion_usage,
    delta_logprob,
    openai_error,
    progress_comment,
)
from mlx_qwen35.server.protocols.files import SEND_DATA, file_text
from mlx_qwen35.server.protocols.message_blocks import ImageBlock
from mlx_qwen35.server.wire import Items, Whole, WireObject, agreed, invalid_request, sse

T = TypeVar("T")


class Message(WireObject):
    """One message; reasoning under either of its names."""

    without_effect: ClassVar = frozenset({"name", "annotations", "refusal", "reasoning_details", "cache_control"})
    refused: ClassVar = {
        "audio": "only text, images and videos are read",
        "function_call": "send tool_calls, and the results as messages of role tool",
    }

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Items[str | dict[str, JsonValue]] | None = None
    tool_calls: Items[AnyCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class FileOfPart(WireObject):
    """The file of a content part."""

    filename: str | None = None
    file_data: str | None = None
    file_id: str | None = None


class Reasoning(WireObject):
    """How much to think, as OpenRouter's clients say it."""

    # The answer has its reasoning in a field of its own, which a client need not show.
    without_effect: ClassVar = frozenset({"exclude", "summary"})

    effort: EffortName | None = None
    max_tokens: Whole | None = Field(default=None, ge=0)
    enabled: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, value: Any) -> Any:
        """mlx-vlm takes an effort, or yes or no, alone."""
        if isinstance(value, bool):
            return {"enabled": value}
        return {"effort": value} if isinstance(value, str) else value

    @property
    def thinking(self) -> bool | None:
        """Whether to think; None where nothing says it."""
        return True if self.enabled is None and self.max_tokens else self.enabled


class ChatCompletionRequest(TemplateFields, CompletionFields):
    """The body of a request."""

    without_effect: ClassVar = LABELS | {"prediction", "verbosity", "web_search_options", "modalities"}
    refused: ClassVar = {
        **ELSEWHERE,
        "audio": "only text is written",
        "functions": "send tools",
        "function_call": "send tool_choice",
    }

    messages: Items[Message] = Field(min_length=1)
    tools: Items[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: MaxTokens = None
    max_completion_tokens: MaxTokens = None
    logprobs: bool | None = None
    top_logprobs: Whole | None = Field(None, ge=0, le=20)
    reasoning_effort: EffortName | None = None
    reasoning: Reasoning | None = None
    thinking: Thinking | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    def generation_requests(self) -> list[GenerationRequest]:
        """See `PromptBody`; always one."""
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise invalid_request("max_tokens: found another max_completion_tokens", "max_tokens")
        if self.top_logprobs and not self.logprobs:
            raise invalid_request("top_logprobs: expected logprobs to be true", "top_logprobs")
        if self.add_generation_prompt not in (None, not self.continue_final_message):
            raise invalid_request("add_generation_prompt: expected the opposite of continue_final_message")
        template, enable_thinking = self.template()
        reasoning, thinking = self.reasoning or Reasoning(), self.thinking or Thinking(type="auto")
        enable_thinking = agreed("enable_thinking", enable_thinking, "reasoning.enabled", reasoning.thinking)
        effort = agreed("reasoning_effort", self.reasoning_effort, "reasoning.effort", reasoning.effort)
        budget = agreed("thinking_budget", self.thinking_budget, "reasoning.max_tokens", reasoning.max_tokens)
        # A switch that is off stands above the effort that is set beside it.
        if False in (reasoning.enabled, thinking.switch):
            effort = "none"
        functions = functions_of(self.tools or ())
        choice = choose(functions, self.tool_choice)
        return [
            GenerationRequest(
                prompt=[message_of(message, f"messages[{at}]") for at, message in enumerate(self.messages)],
                tools=functions.described,
                strict_tools=functions.strict,
                tool_choice=choice,
                parallel_tool_calls=self.parallel_tool_calls is not False,
                enable_thinking=agreed("enable_thinking", enable_thinking, "thinking.type", thinking.switch),
                template=template,
                continue_final_message=bool(self.continue_final_message),
                effort=effort,
                thinking_budget=agreed("thinking_budget", budget, "thinking.budget_tokens", thinking.budget_tokens),
                schema=self.answer_schema,
                n=self.n or 1,
                options={
                    **self.sampling(),
                    "max_tokens": self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens,
                    "logprobs": bool(self.logprobs),
                    "top_logprobs": self.top_logprobs or 0,
                },
            )
        ]


def message_of(message: Message, place: str) -> dict[str, Any]:
    """A message as `ModelKit.process_prompt` takes it.

    Args:
        place: Where it stands in the request, for error messages.
    Raises:
        ApiError: It holds a file that is no text.
    """
    content, thoughts = message.content, None
    if isinstance(content, list):
        if message.role == "assistant":
            content, thoughts = _without_thoughts(content)
        content = [_part(part, f"{place}.content[{at}]") for at, part in enumerate(content)]
    kept: dict[str, Any] = {"role": message.role}
    # Where it is missing, perhaps misspelled, and the message needs one, that is told.
    if "content" in message.model_fields_set:
        kept["content"] = content
    if message.role == "tool":
        kept["tool_call_id"] = message.tool_call_id
    if message.role == "assistant":
        kept["content"] = "" if content is None else content
        if message.tool_calls:
            kept["tool_calls"] = [{"id": call.id, "function": call.called} for call in message.tool_calls]
        kept |= {
            name: value for name in ("reasoning_content", "reasoning") if (value := getattr(message, name)) is not None
        }
        if thoughts and not kept.keys() & {"reasoning_content", "reasoning"}:
            kept["reasoning_content"] = thoughts
    return kept


def _without_thoughts(content: list[Any]) -> tuple[list[Any], str]:
    """The parts of an earlier answer, and the reasoning that stands among them, as vLLM and Mistral have it."""
    parts, thoughts = [], ""
    for part in content:
        thought = part.get("thinking") if isinstance(part, dict) and part.get("type") == "thinking" else None
        if isinstance(thought, list):
            # Mistral's are parts in turn.
            thought = "".join(str(piece.get("text") or "") for piece in thought if isinstance(piece, dict))
        if isinstance(thought, str):
            thoughts += thought
        else:
            parts.append(part)
    return parts, thoughts


def _part(part: str | dict[str, JsonValue], place: str) -> dict[str, JsonValue]:
    """A content part; text in place of a file of text, of an earlier answer's refusal, or of a text alone.

    An image may come as Anthropic's protocol or MCP has it: programs that speak several mix them up, or hand on what
    a tool gave them.
    """
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.get("type") == "refusal":
        return {"type": "text", "text": part.get("refusal")}
    if part.get("type") == "image" and isinstance(part.get("data"), str):
        media_type = part.get("mimeType") or "image/*"
        part = {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": part["data"]}}
    if part.get("type") == "image" and isinstance(part.get("source"), dict):
        try:
            return ImageBlock.model_validate(part).part
        except ValidationError:
            expected = "an object with type base64, media_type and data, or with type url and url"
            raise invalid_request(f"{place}.source: expected {expected}", place) from None
    if part.get("type") != "file":
        return part
    try:
        found = FileOfPart.model_validate(part.get("file"))
    except ValidationError:
        raise invalid_request(f"{place}.file: expected an object with file_data and filename", place) from None
    if found.file_id and not found.file_data:
        raise invalid_request(f"{place}.file.file_id: expected none: files are not stored here; {SEND_DATA}", place)
    return {"type": "text", "text": file_text(found.file_data, found.filename, f"{place}.file")}


def logprobs_of(delta: DeltaEvent, tokenizer: Tokenizer) -> dict[str, Any] | None:
    """Of the token that a delta came with; None where none were asked for."""
    found = delta_logprob(delta, tokenizer)
    return None if found is None else {"content": [found], "refusal": None}


async def whole(events: AsyncIterator[StreamEvent], context: AnswerContext[ChatCompletionRequest]) -> dict[str, Any]:
    """The answers as one object."""
    count = len(context.prepared.requests)
    texts, reasonings = [""] * count, [""] * count
    calls: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    scores: list[list[Any]] = [[] for _ in range(count)]
    ends: dict[int, FinishEvent] = {}
    functions = functions_of(context.body.tools or ())
    async for event in events:
        if isinstance(event, DeltaEvent):
            texts[event.index] += event.text
            reasonings[event.index] += event.reasoning
            scores[event.index] += (logprobs_of(event, context.tokenizer) or {"content": []})["content"]
        elif isinstance(event, ToolCallEvent):
            calls[event.index].append(tool_call(event.call, functions))
        elif isinstance(event, FinishEvent):
            ends[event.index] = event
    choices = []
    for index in range(count):
        content = texts[index] or (None if calls[index] else "")
        # OpenAI's types have a refusal in every message.
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if reasonings[index]:
            message |= {"reasoning_content": reasonings[index], "reasoning": reasonings[index]}
        if calls[index]:
            message["tool_calls"] = calls[index]
        logprobs = {"content": scores[index], "refusal": None} if context.body.logprobs else None
        reason = ends[index].reason
        choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason})
    usage = completion_usage([ends[index].usage for index in range(count)])
    return {**completion_head("chatcmpl-", "chat.completion", context.model), "choices": choices, "usage": usage}


async def stream(
    events: AsyncIterator[StreamEvent], context: AnswerContext[ChatCompletionRequest]
) -> AsyncIterator[str]:
    """The answers as server-sent events."""
    head = completion_head("chatcmpl-", "chat.completion.chunk", context.model)
    count, include_usage = len(context.prepared.requests), context.body.include_usage
    calls, ends, functions = [0] * count, {}, functions_of(context.body.tools or ())

    def part(index: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> str:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return sse({**head, "choices": [choice], **({"usage": None} if include_usage else {})})

    begun = False
    async for event in events:
        if not begun:
            begun = True
            for index in range(count):
                yield part(index, {"role": "assistant", "content": ""})
        if isinstance(event, ProgressEvent):
            yield progress_comment(event)
        elif isinstance(event, DeltaEvent):
            delta: dict[str, Any] = {}
            if event.reasoning:
                delta |= {"reasoning_content": event.reasoning, "reasoning": event.reasoning}
            if event.text or not event.reasoning:
                delta["content"] = event.text
            yield part(event.index, delta, logprobs=logprobs_of(event, context.tokenizer))
        elif isinstance(event, ToolCallEvent):
            call = {"index": calls[event.index], **tool_call(event.call, functions)}
            calls[event.index] += 1
            yield part(event.index, {"tool_calls": [call]})
        else:
            ends[event.index] = event
            yield part(event.index, {}, event.reason)
    if include_usage:
        usage = completion_usage([ends[index].usage for index in range(count)])
        yield sse({**head, "choices": [], "usage": usage})
    yield sse("[DONE]")


CHAT_COMPLETIONS = ApiProtocol(
    "/v1/chat/completions",
    ChatCompletionRequest,
    whole,
    stream,
    openai_error,
    lambda error, _: sse(openai_error(error)),
)
