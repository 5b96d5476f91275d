"""The blocks that Anthropic's messages consist of, and the messages that they stand for."""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, JsonValue, Tag

from mlx_qwen35.server.protocols.files import document_text, read_text
from mlx_qwen35.server.wire import OTHER, Dropped, Items, WireObject, invalid_request, kind_of

# Of Claude Code: a line that is another one in every request, and a counter of what is left of the context. The model
# learns nothing from them, and everything behind them would have to be read anew.
_CHANGING = re.compile(r"x-anthropic-billing-header[^\n]*|<total_tokens>[^<]*</total_tokens>")


class Block(WireObject):
    """A part of a message."""

    without_effect: ClassVar = frozenset({"cache_control", "citations"})


class TextBlock(Block):
    """Text."""

    type: Literal["text"]
    text: str


class Base64Source(WireObject):
    """An image's bytes."""

    type: Literal["base64"]
    media_type: str
    data: str


class UrlSource(WireObject):
    """An image's address."""

    type: Literal["url"]
    url: str


class ImageBlock(Block):
    """An image."""

    type: Literal["image"]
    source: Annotated[Base64Source | UrlSource, Field(discriminator="type")]

    @property
    def part(self) -> dict[str, Any]:
        """The same in OpenAI's form."""
        source = self.source
        url = source.url if isinstance(source, UrlSource) else f"data:{source.media_type};base64,{source.data}"
        return {"type": "image_url", "image_url": {"url": url}}


class VideoBlock(Block):
    """A video, which Anthropic's messages have not; it is refused by name."""

    type: Literal["video"]
    source: JsonValue = None


class ThinkingBlock(Block):
    """Reasoning of an earlier answer."""

    without_effect: ClassVar = frozenset({"cache_control", "signature"})

    type: Literal["thinking"]
    thinking: str


class ToolUseBlock(Block):
    """A call that an earlier answer made."""

    without_effect: ClassVar = frozenset({"cache_control", "caller"})

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, JsonValue]


class DocumentSource(WireObject):
    """A document's text, with images in it perhaps."""

    type: str
    media_type: str | None = None
    data: str | None = None
    content: str | Items[Annotated[TextBlock | ImageBlock, Field(discriminator="type")]] | None = None


class DocumentBlock(Block):
    """A document of text."""

    type: Literal["document"]
    source: DocumentSource
    title: str | None = None
    context: str | None = None


class SearchResultBlock(Block):
    """What a search of the client's found."""

    type: Literal["search_result"]
    source: str
    title: str
    content: Items[TextBlock]


_Other = Literal[
    "redacted_thinking", "server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "tool_reference",
    "code_execution_tool_result", "bash_code_execution_tool_result", "text_editor_code_execution_tool_result",
    "tool_search_tool_result", "mcp_tool_use", "mcp_tool_result", "container_upload", "compaction", "fallback",
    "advisor_tool_result", "mid_conv_system",
]  # fmt: skip


class OtherBlock(Dropped):
    """What a service that is not here left, or wants: `redacted_thinking`, `server_tool_use` and its results."""

    type: _Other


_SHOWN = ("text", "image", "video", "document", "search_result")
_Shown = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ImageBlock, Tag("image")]
    | Annotated[VideoBlock, Tag("video")]
    | Annotated[DocumentBlock, Tag("document")]
    | Annotated[SearchResultBlock, Tag("search_result")]
    | Annotated[OtherBlock, Tag(OTHER)],
    kind_of(_SHOWN, "text", OTHER, get_args(_Other)),
]


class ToolResultBlock(Block):
    """What a function returned."""

    without_effect: ClassVar = frozenset({"cache_control", "is_error"})

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | Items[_Shown] | None = None


AnyBlock = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ImageBlock, Tag("image")]
    | Annotated[VideoBlock, Tag("video")]
    | Annotated[DocumentBlock, Tag("document")]
    | Annotated[SearchResultBlock, Tag("search_result")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[ToolResultBlock, Tag("tool_result")]
    | Annotated[OtherBlock, Tag(OTHER)],
    kind_of((*_SHOWN, "thinking", "tool_use", "tool_result"), "text", OTHER, get_args(_Other)),
]


class Message(WireObject):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: str | Items[AnyBlock]


def is_changing(text: str) -> bool:
    """Whether a text is one of those that are other ones in every request, and say nothing."""
    # Spaces that a pattern looked for itself, it would look for from each of them again.
    return _CHANGING.fullmatch(text.strip()) is not None


def messages_of(message: Message) -> list[dict[str, Any]]:
    """One message in OpenAI's form, in which every result of a function is a message of its own.

    Raises:
        ApiError: A block cannot stand in it.
    """
    content = [TextBlock(type="text", text=message.content)] if isinstance(message.content, str) else message.content
    if message.role == "system":
        texts = [block.text for block in content if isinstance(block, TextBlock) and not is_changing(block.text)]
        return [{"role": "system", "content": "\n\n".join(texts)}] if texts else []
    out: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    reasoning: list[str] = []
    for block in content:
        if isinstance(block, OtherBlock):
            continue
        of_answer = isinstance(block, ThinkingBlock | ToolUseBlock)
        if of_answer != (message.role == "assistant") and not isinstance(block, TextBlock):
            raise invalid_request(f"messages: a {block.type} block cannot stand in a {message.role} message")
        if isinstance(block, ThinkingBlock):
            reasoning.append(block.thinking)
        elif isinstance(block, ToolUseBlock):
            function = {"name": block.name, "arguments": block.input}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif isinstance(block, ToolResultBlock):
            found = block.content if isinstance(block.content, str) else _parts(block.content or ())
            out.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": found or ""})
        else:
            parts += _parts([block])
    if message.role == "user":
        plain = isinstance(message.content, str)
        return [*out, *([{"role": "user", "content": message.content if plain else parts}] if parts else [])]
    answer: dict[str, Any] = {"role": "assistant", "content": "".join(part["text"] for part in parts)}
    if reasoning:
        answer["reasoning_content"] = "\n".join(reasoning)
    return [{**answer, **({"tool_calls": calls} if calls else {})}]


def ends_in_an_answer(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last message, in OpenAI's form, is the beginning of the answer that is wanted."""
    last = messages[-1] if messages else {"role": "user"}
    return last["role"] == "assistant" and bool(last["content"].strip()) and not last.get("tool_calls")


def _parts(blocks: Sequence[Any]) -> list[dict[str, Any]]:
    """Blocks that a user may send, as parts in OpenAI's form."""
    out: list[dict[str, Any]] = []
    for block in blocks:
        if isinstance(block, TextBlock):
            if not is_changing(block.text):
                out.append({"type": "text", "text": block.text})
        elif isinstance(block, ImageBlock):
            out.append(block.part)
        elif isinstance(block, VideoBlock):
            raise invalid_request(
                "messages: expected text, images and documents, found a video; Anthropic's messages have none: send it "
                "to /v1/chat/completions or /v1/responses"
            )
        elif isinstance(block, DocumentBlock):
            out += _document(block)
        elif isinstance(block, SearchResultBlock):
            text = "\n".join(part.text for part in block.content)
            out.append({"type": "text", "text": f"# {block.title}\n{block.source}\n\n{text}\n"})
    return out


def _document(block: DocumentBlock) -> list[dict[str, Any]]:
    """A document below its title; texts in a row are one."""
    source = block.source
    if source.type == "content" and isinstance(source.content, list):
        found = _parts(source.content or [TextBlock(type="text", text="")])
    else:
        found = [{"type": "text", "text": _document_text(block)}]
    out: list[dict[str, Any]] = []
    head = block.title, block.context
    for is_text, run in groupby(found, lambda part: part["type"] == "text"):
        parts = list(run)
        if is_text or any(head):
            text = "\n".join(part["text"] for part in parts) if is_text else ""
            out.append({"type": "text", "text": document_text(text, *head)})
        out += [] if is_text else parts
        head = None, None
    return out


def _document_text(block: DocumentBlock) -> str:
    source = block.source
    if source.type == "text" and source.data is not None:
        return source.data
    if source.type == "content" and isinstance(source.content, str):
        return source.content
    if source.type == "base64" and source.data is not None:
        return read_text(f"data:{source.media_type or ''};base64,{source.data}", block.title, "messages: document")
    kind = source.media_type or f"a source of type {source.type}"
    raise invalid_request(
        f"messages: document: expected text, found {kind[:80]}; PDFs and files are not read here: send their text"
    )
