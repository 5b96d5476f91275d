"""The items that a conversation consists of in OpenAI's responses, and the messages that they stand for."""

import base64
import binascii
import zlib
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, JsonValue, Tag, TypeAdapter

from mlx_qwen35.prompts.media_parts import IMAGE_OPTIONS, VIDEO_OPTIONS
from mlx_qwen35.server.protocols.common import new_id
from mlx_qwen35.server.protocols.files import SEND_DATA, file_text
from mlx_qwen35.server.protocols.functions import TEXT, flat_name
from mlx_qwen35.server.stored import StoredResponses
from mlx_qwen35.server.wire import OTHER, Dropped, Items, WireObject, invalid_request, kind_of

# What parts have in every answer, whether it came with them or not.
_ALWAYS: dict[str, dict[str, Any]] = {
    "output_text": {"annotations": [], "logprobs": []}, "input_image": {"detail": "auto"}
}  # fmt: skip
# In front of a reasoning that a client keeps for the server.
_SEALED = "mlx-qwen35:"
# Of all of them in one conversation, unpacked: a few kilobytes that a client made up would fill the memory otherwise.
MAX_UNSEALED = 2**24


class TextPart(WireObject):
    """Text of a message."""

    without_effect: ClassVar = frozenset({"annotations", "logprobs"})

    type: Literal["input_text", "output_text", "text", "refusal"]
    text: str = ""
    refusal: str = ""


class ImagePart(WireObject):
    """An image of a message."""

    without_effect: ClassVar = frozenset({"detail"})
    refused: ClassVar = {"file_id": "files are not stored here; send the image as image_url"}

    type: Literal["input_image"]
    image_url: str | None = None
    max_pixels: int | None = None
    min_pixels: int | None = None
    resized_height: int | None = None
    resized_width: int | None = None


class VideoPart(WireObject):
    """A video of a message, which OpenAI's own API has not: as other servers and qwen-vl-utils have it."""

    refused: ClassVar = {"file_id": "files are not stored here; send the video as video_url"}

    type: Literal["input_video"]
    video_url: str | Items[str] | None = None
    fps: float | None = None
    min_frames: int | None = None
    max_frames: int | None = None
    max_pixels: int | None = None


class FilePart(WireObject):
    """A file of text."""

    without_effect: ClassVar = frozenset({"detail"})
    refused: ClassVar = {
        "file_id": f"files are not stored here; {SEND_DATA}",
        "file_url": f"files are not fetched here; {SEND_DATA}",
    }

    type: Literal["input_file"]
    filename: str | None = None
    file_data: str | None = None


Part = TextPart | ImagePart | VideoPart | FilePart
Parts = str | Items[Annotated[Part, Field(discriminator="type")]]


class MessageItem(WireObject):
    """A message."""

    without_effect: ClassVar = frozenset({"phase"})

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Parts
    id: str | None = None
    status: str | None = None


class CallItem(WireObject):
    """A call that an earlier answer made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    namespace: str | None = None
    id: str | None = None
    status: str | None = None


class CustomCallItem(WireObject):
    """A call with free text that an earlier answer made."""

    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    input: str
    namespace: str | None = None
    id: str | None = None
    status: str | None = None


class CallOutputItem(WireObject):
    """What a function, or a tool with free text, returned."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: str
    output: Parts
    id: str | None = None
    status: str | None = None


class ReasoningText(WireObject):
    """A piece of reasoning."""

    type: Literal["reasoning_text", "summary_text", "text"]
    text: str


class ReasoningItem(WireObject):
    """Reasoning of an earlier answer."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: Items[ReasoningText] = Field(default_factory=list)
    content: Items[ReasoningText] | None = None
    encrypted_content: str | None = None
    status: str | None = None

    @property
    def text(self) -> str:
        """The reasoning, where it is not sealed."""
        return "\n".join(part.text for part in self.content or self.summary)


class ReferenceItem(WireObject):
    """An item of a stored response, by its id."""

    type: Literal["item_reference"]
    id: str


_Hosted = Literal[
    "web_search_call", "file_search_call", "computer_call", "computer_call_output", "code_interpreter_call",
    "image_generation_call", "local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output",
    "apply_patch_call", "apply_patch_call_output", "mcp_call", "mcp_list_tools", "mcp_approval_request",
    "mcp_approval_response", "tool_search_call", "tool_search_output", "compaction", "additional_tools",
]  # fmt: skip


class HostedItem(Dropped):
    """What a tool that is not run here did in an earlier answer."""

    type: _Hosted


_KINDS = (
    "message", "function_call", "custom_tool_call", "function_call_output", "custom_tool_call_output", "reasoning",
    "item_reference",
)  # fmt: skip
Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[CustomCallItem, Tag("custom_tool_call")]
    | Annotated[CallOutputItem, Tag("function_call_output")]
    | Annotated[CallOutputItem, Tag("custom_tool_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ReferenceItem, Tag("item_reference")]
    | Annotated[HostedItem, Tag(OTHER)],
    kind_of(_KINDS, "message", OTHER, get_args(_Hosted)),
]
_ITEMS: TypeAdapter[list[Any]] = TypeAdapter(list[Item])


def sealed(reasoning: str) -> str:
    """A reasoning as `encrypted_content`: for clients to keep and send back, not to read. It is no secret."""
    return _SEALED + base64.b64encode(zlib.compress(reasoning.encode())).decode()


def unsealed(text: str, most: int, place: str) -> bytes:
    """The reasoning that `sealed` made this of; empty for what another server made.

    Args:
        most: Bytes that it may have.
    Raises:
        ApiError: It has more.
    """
    if not text.startswith(_SEALED):
        return b""
    try:
        found = zlib.decompressobj().decompress(base64.b64decode(text.removeprefix(_SEALED), validate=True), most + 1)
    except (binascii.Error, zlib.error, ValueError):
        return b""
    if len(found) > most:
        raise invalid_request(f"{place}: expected at most {MAX_UNSEALED} bytes of reasoning in all, found more", place)
    return found


def resolved(items: Sequence[Any], before: str | None, stored: StoredResponses) -> list[Any]:
    """The items of a whole conversation: those of an earlier response, and what is referred to in its place.

    Args:
        before: `previous_response_id`.
    Raises:
        ApiError: 404: something is not stored; or it is referred to twice.
    """
    raw: list[Any] = []
    if before is not None:
        earlier = stored.get(before, "previous_response_id")
        raw = [*earlier.items, *earlier.response["output"]]
    found = _ITEMS.validate_python(raw)
    places: dict[str, str] = {}
    for at, item in enumerate(items):
        place = f"input[{at}].id"
        if isinstance(item, ReferenceItem) and places.setdefault(item.id, place) != place:
            # As OpenAI has it; the same long item could come a hundred thousand times.
            raise invalid_request(f"{place}: expected each item once, found {item.id[:80]!r} again", place)
    referred = stored.items(places) if places else {}
    for item in items:
        if isinstance(item, ReferenceItem):
            found += _ITEMS.validate_python([referred[item.id]])
        else:
            found.append(item)
    return found


def messages_of(items: Sequence[Any], stored: int = 0) -> list[dict[str, Any]]:
    """Items as chat messages: reasoning, text and calls in a row become one message of the assistant.

    Args:
        stored: How many of the first come from an earlier response, and not from the request's `input`.
    """
    out: list[dict[str, Any]] = []
    unsealable = MAX_UNSEALED

    def answer() -> dict[str, Any]:
        if not out or out[-1]["role"] != "assistant":
            # Put together in the end: one after the other, each text would copy all that stand before it.
            out.append({"role": "assistant", "content": [], "reasoning_content": []})
        return out[-1]

    def call(item: CallItem | CustomCallItem, arguments: Any) -> None:
        function = {"name": flat_name(item.name, item.namespace), "arguments": arguments}
        answer().setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})

    for at, item in enumerate(items, -stored):
        if isinstance(item, ReasoningItem):
            reasoning = item.text
            if not reasoning and item.encrypted_content:
                raw = unsealed(item.encrypted_content, unsealable, f"input[{at}].encrypted_content")
                unsealable -= len(raw)
                reasoning = raw.decode("utf-8", "replace")
            if reasoning:
                answer()["reasoning_content"].append(reasoning)
        elif isinstance(item, CallItem):
            call(item, item.arguments)
        elif isinstance(item, CustomCallItem):
            call(item, {TEXT: item.input})
        elif isinstance(item, CallOutputItem):
            content = _content(item.output, f"input[{at}].output")
            out.append({"role": "tool", "tool_call_id": item.call_id, "content": content})
        elif isinstance(item, MessageItem) and item.role == "assistant":
            answer()["content"].append(item.content if isinstance(item.content, str) else _text(item.content, at))
        elif isinstance(item, MessageItem):
            role = "system" if item.role == "developer" else item.role
            out.append({"role": role, "content": _content(item.content, f"input[{at}].content")})
    for message in out:
        if message["role"] == "assistant":
            message["content"] = "".join(message["content"])
            if reasoning := message.pop("reasoning_content"):
                message["reasoning_content"] = "\n".join(reasoning)
    return out


def _text(parts: Sequence[Part], at: int) -> str:
    """The text of an answer's parts.

    Raises:
        ApiError: One is an image, a video or a file.
    """
    for number, part in enumerate(parts):
        if not isinstance(part, TextPart):
            place = f"input[{at}].content[{number}]"
            kind = {"input_image": "an image", "input_video": "a video"}.get(part.type, "a file")
            raise invalid_request(f"{place}: expected text, found {kind}; an answer cannot hold one", place)
    return "".join(part.text or part.refusal for part in parts if isinstance(part, TextPart))


def _content(content: str | list[Any], place: str) -> Any:
    if isinstance(content, str):
        return content
    return [_part(part, f"{place}[{number}]") for number, part in enumerate(content)]


def _part(part: Part, place: str) -> dict[str, Any]:
    """A part as `ModelKit.process_prompt` takes it.

    Raises:
        ApiError: It holds nothing, or a file that is no text.
    """
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text or part.refusal}
    if isinstance(part, FilePart):
        return {"type": "text", "text": file_text(part.file_data, part.filename, place)}
    names = IMAGE_OPTIONS if isinstance(part, ImagePart) else VIDEO_OPTIONS
    options = {name: value for name in names if (value := getattr(part, name, None)) is not None}
    if isinstance(part, ImagePart):
        return {"type": "image_url", "image_url": {"url": _url(part.image_url, f"{place}.image_url")}, **options}
    return {"type": "video", "video": _url(part.video_url, f"{place}.video_url"), **options}


def _url(url: str | list[str] | None, place: str) -> str | list[str]:
    """An address that has to be there: what may stand in place of it is refused by name, before."""
    if url is None:
        raise invalid_request(f"{place}: field required", place)
    return url


def as_json(items: Sequence[Any]) -> list[dict[str, JsonValue]]:
    """Items as they are stored: each with an id, by which clients page through them and refer to them."""
    prefixes = {"message": "msg_", "function_call": "fc_", "custom_tool_call": "ctc_", "reasoning": "rs_"}
    out = []
    for item in items:
        kept = item.model_dump(mode="json", exclude_none=True)
        out.append(kept if kept.get("id") else {**kept, "id": new_id(prefixes.get(item.type, "item_"))})
    return out


def listed(item: dict[str, Any]) -> dict[str, Any]:
    """A stored item as clients read it: a message's text as parts, and with what OpenAI's types always have."""
    found = {"status": "completed", **item}
    if item["type"] == "message":
        answer, parts = item["role"] == "assistant", item["content"]
        if isinstance(parts, str):
            parts = [{"type": "output_text" if answer else "input_text", "text": parts}]
        found["content"] = [{**_ALWAYS.get(part["type"], {}), **part} for part in parts]
    return found
