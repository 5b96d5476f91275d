"""The items that a conversation consists of in OpenAI's responses, and the messages that they stand for."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from mlx_qwen35.server.wire import Items, Strict, invalid_request


class TextPart(Strict):
    """Text of a message."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[JsonValue] | None = None
    logprobs: Items[JsonValue] | None = None


class ImagePart(Strict):
    """An image of a message."""

    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high"] | None = None


class MessageItem(Strict):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Items[Annotated[TextPart | ImagePart, Field(discriminator="type")]]
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
    output: str | Items[Annotated[TextPart | ImagePart, Field(discriminator="type")]]
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
    summary: Items[ReasoningText] = Field(default_factory=list)
    content: Items[ReasoningText] | None = None
    encrypted_content: None = None
    status: str | None = None


Item = MessageItem | CallItem | CallOutputItem | ReasoningItem


def messages_of(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Items as chat messages: reasoning, text and calls in a row become one message of the assistant."""
    out: list[dict[str, Any]] = []

    def answer() -> dict[str, Any]:
        if not out or out[-1]["role"] != "assistant":
            out.append({"role": "assistant", "content": ""})
        return out[-1]

    for at, item in enumerate(items):
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
            answer()["content"] += item.content if isinstance(item.content, str) else _text(item.content, at)
        else:
            role = "system" if item.role == "developer" else item.role
            out.append({"role": role, "content": _content(item.content)})
    return out


def _text(parts: Sequence[TextPart | ImagePart], at: int) -> str:
    """The text of an answer's parts.

    Raises:
        ApiError: One is an image.
    """
    for number, part in enumerate(parts):
        if isinstance(part, ImagePart):
            place = f"input[{at}].content[{number}]"
            raise invalid_request(f"{place}: expected text, found an image; an answer cannot hold one", place)
    return "".join(part.text for part in parts if isinstance(part, TextPart))


def _content(content: str | list[Any]) -> Any:
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": part.text} if isinstance(part, TextPart)
        else {"type": "image_url", "image_url": {"url": part.image_url}}
        for part in content
    ]  # fmt: skip
