"""Messages in OpenAI's format, through the checkpoint's chat template, to token ids."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_qwen35.errors import PromptError, PromptMismatchError
from mlx_qwen35.paths import shorten
from mlx_qwen35.prompts.tokenizer import Tokenizer

ROLES = ("system", "developer", "user", "assistant", "tool")


IMAGE_PARTS = ("image", "image_url", "input_image")


@dataclass(frozen=True)
class RenderedMessages:
    """A conversation as token ids, before placeholders are expanded.

    Args:
        input_ids: One placeholder per image.
        sources: Image sources in prompt order; None where the caller passes them separately.
        places: Where each stands in the messages, for errors.
    """

    input_ids: list[int]
    sources: list[Any]
    places: list[str]


def render_messages(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    enable_thinking: bool | None = None,
    add_generation_prompt: bool = True,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    context: int | None = None,
) -> RenderedMessages:
    """Apply the checkpoint's chat template.

    Args:
        messages: Role and content each; content is a string or a list of text and image parts.
        tools: Function descriptions in OpenAI's format.
        enable_thinking: Whether the answer begins with reasoning; None leaves it to the template.
        add_generation_prompt: Whether to end with the beginning of the assistant's turn.
        chat_template_kwargs: Further variables for the template; control tokens in them are text, as in messages.
        context: Tokens that there is room for, so that what is far longer is refused before it is tokenised.
    Raises:
        PromptError: A message is malformed, the template refuses the conversation, or it is far too long.
    """
    if tokenizer.chat_template is None:
        raise PromptError("messages: the checkpoint has no chat template; pass a finished prompt or token ids")
    escapes = tokenizer.escapes()
    sources: list[Any] = []
    places: list[str] = []
    normal = [
        _message(message, f"messages[{index}]", escapes.hide, sources, places)
        for index, message in enumerate(_checked_list(messages, "messages"))
    ]
    further = escapes.hide(dict(chat_template_kwargs or {}), "chat_template_kwargs")
    options: dict[str, Any] = {**further, "add_generation_prompt": add_generation_prompt}
    if enable_thinking is not None:
        options["enable_thinking"] = enable_thinking
    if tools:
        options["tools"] = [
            _tool(tool, f"tools[{index}]", escapes.hide) for index, tool in enumerate(_checked_list(tools, "tools"))
        ]
    text = _render(tokenizer, normal, options)
    if context is not None:
        tokenizer.check_length(text, context)
    return RenderedMessages(tokenizer.encode_rendered(text, escapes), sources, places)


def _render(tokenizer: Tokenizer, messages: list[dict[str, Any]], options: Mapping[str, Any]) -> str:
    """The template's text; of the messages in another form if it refuses system messages where they are.

    Raises:
        PromptError: It refuses them in either form.
    """
    try:
        return tokenizer.apply_chat_template(messages, **options)
    except Exception as error:  # a template is a program of the checkpoint, and raises what it likes
        refusal, adapted = error, system_first(messages)
        if adapted != messages:
            try:
                return tokenizer.apply_chat_template(adapted, **options)
            except Exception as second:
                refusal = second
    raise PromptError(f"messages: the checkpoint's chat template refused them: {shorten(refusal, 500)}") from refusal


def system_first(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same conversation with one system message, at the beginning, for templates that want it so.

    Leading ones are joined. A later one becomes part of the message that it follows, if that is the user's or a
    function's result; else of the user's message that it precedes; else a user's message of its own. There it
    stands between `<system>` and `</system>`. What is done to a message does not depend on those behind the next one,
    so that the prefix of a conversation stays the same while it goes on.

    Args:
        messages: As `render_messages` hands them to templates.
    """
    leading = 0
    while leading < len(messages) and messages[leading]["role"] == "system":
        leading += 1
    out: list[dict[str, Any]] = []
    if leading:
        contents = [message["content"] for message in messages[:leading]]
        out.append({"role": "system", "content": _joined(contents, "\n\n")})
    waiting: list[Any] = []
    for message in messages[leading:]:
        if message["role"] == "system":
            marked = _joined(["<system>\n", message["content"], "\n</system>"], "")
            if out and not waiting and out[-1]["role"] in ("user", "tool"):
                out[-1] = {**out[-1], "content": _joined([out[-1]["content"], marked], "\n\n")}
            else:
                waiting.append(marked)
            continue
        if waiting and message["role"] == "user":
            message = {**message, "content": _joined([*waiting, message["content"]], "\n\n")}
        elif waiting:
            out.append({"role": "user", "content": _joined(waiting, "\n\n")})
        waiting = []
        out.append(message)
    if waiting:
        out.append({"role": "user", "content": _joined(waiting, "\n\n")})
    return out


def _joined(contents: Sequence[Any], between: str) -> Any:
    """Contents one after the other: a text if all of them are, else a list of parts."""
    kept = [content for content in contents if content]
    if all(isinstance(content, str) for content in kept):
        return between.join(kept)
    parts: list[Any] = []
    for content in kept:
        if parts and between:
            parts.append({"type": "text", "text": between})
        parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
    return parts


def fill_sources(sources: Sequence[Any], places: Sequence[str], images: Sequence[Any] | None) -> list[Any]:
    """Give separately passed images to the image parts that came without one.

    Raises:
        PromptMismatchError: Their numbers differ.
    """
    empty = [index for index, source in enumerate(sources) if source is None]
    given = list(images or ())
    if len(empty) != len(given):
        raise PromptMismatchError(
            f"images: expected {len(empty)} (image parts without a source: "
            f"{', '.join(places[index] for index in empty) or 'none'}), found {len(given)}"
        )
    filled = list(sources)
    for index, image in zip(empty, given, strict=True):
        filled[index] = image
    return filled


def _checked_list(value: Any, place: str) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence) or not value:
        raise PromptError(f"{place}: expected a list with at least one entry, found {_found(value)}")
    return list(value)


def _found(value: Any) -> str:
    return f"{type(value).__name__} {shorten(repr(value), 60)}"


def _message(message: Any, place: str, hide: Any, sources: list[Any], places: list[str]) -> dict[str, Any]:
    """One message as the templates expect it, with user text hidden."""
    if not isinstance(message, Mapping):
        raise PromptError(f"{place}: expected an object with role and content, found {_found(message)}")
    role = message.get("role")
    if role not in ROLES:
        raise PromptError(f"{place}.role: expected one of {', '.join(ROLES)}, found {role!r}")
    # OpenAI's newer name for the same thing, which the templates do not know.
    role = "system" if role == "developer" else role
    out: dict[str, Any] = {"role": role}
    content = message.get("content")
    if role == "assistant":
        content, reasoning = _split_reasoning(message, content, place)
        if reasoning is not None:
            out["reasoning_content"] = hide(reasoning)
        calls = message.get("tool_calls")
        if calls:
            out["tool_calls"] = [
                _tool_call(call, f"{place}.tool_calls[{number}]", hide)
                for number, call in enumerate(_checked_list(calls, f"{place}.tool_calls"))
            ]
        content = "" if content is None else content
    if isinstance(content, str):
        out["content"] = hide(content)
    elif content is None or content == []:
        out["content"] = content
    else:
        parts = _checked_list(content, f"{place}.content")
        out["content"] = [
            _part(part, f"{place}.content[{number}]", role, hide, sources, places) for number, part in enumerate(parts)
        ]
    return out


def _split_reasoning(message: Mapping[str, Any], content: Any, place: str) -> tuple[Any, str | None]:
    """An earlier answer's reasoning, from its own field or from a `<think>` block in the text.

    Templates look for the block themselves, likewise, but cannot once user text is hidden.
    """
    if isinstance(content, list) and all(isinstance(part, Mapping) and "text" in part for part in content):
        content = "".join(str(part["text"]) for part in content)
    reasoning = message.get("reasoning_content")
    reasoning = message.get("reasoning") if reasoning is None else reasoning
    if reasoning is not None and not isinstance(reasoning, str):
        raise PromptError(f"{place}.reasoning_content: expected a string, found {_found(reasoning)}")
    if reasoning is None and isinstance(content, str) and "</think>" in content:
        reasoning = content.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
        content = content.split("</think>")[-1].lstrip("\n")
    return content, reasoning


def _tool_call(call: Any, place: str, hide: Any) -> dict[str, Any]:
    """A call with its arguments as a mapping, as the templates want; OpenAI sends them as JSON text."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise PromptError(f"{place}: expected a function with a name, found {_found(call)}")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise PromptError(f"{place}.arguments: expected a JSON object ({error})") from error
    if not isinstance(arguments, Mapping):
        raise PromptError(f"{place}.arguments: expected a JSON object, found {_found(arguments)}")
    return {
        "type": "function",
        "function": {"name": hide(function["name"]), "arguments": hide(dict(arguments), f"{place}.arguments")},
    }


def _tool(tool: Any, place: str, hide: Any) -> Any:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise PromptError(f"{place}: expected a function description with a name, found {_found(tool)}")
    return hide(dict(tool), place)


def _part(part: Any, place: str, role: str, hide: Any, sources: list[Any], places: list[str]) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise PromptError(f"{place}: expected an object with a type, found {_found(part)}")
    kind = part_kind(part)
    if kind in ("text", "input_text"):
        if not isinstance(part.get("text"), str):
            raise PromptError(f"{place}.text: expected a string, found {_found(part.get('text'))}")
        return {"type": "text", "text": hide(part["text"])}
    if kind in IMAGE_PARTS:
        if role in ("system", "assistant"):
            raise PromptError(f"{place}: expected text, found an image; a {role} message cannot hold one")
        sources.append(image_source(part, place))
        places.append(place)
        return {"type": "image"}
    raise PromptError(f"{place}.type: expected 'text', 'image' or 'image_url', found {kind!r}")


def part_kind(part: Mapping[str, Any]) -> Any:
    """The type of a content part, which may be left out where the part's own key tells it."""
    return part.get("type") or ("text" if "text" in part else "image" if "image" in part else None)


def image_source(part: Mapping[str, Any], place: str) -> Any:
    """What an image part says the image is; None if it is passed separately.

    Raises:
        PromptError: It names several.
    """
    found = [value for value in _image_values(part) if value is not None]
    if len(found) > 1:
        raise PromptError(f"{place}: expected one image, found {len(found)}")
    return found[0] if found else None


def _image_values(part: Mapping[str, Any]) -> Iterator[Any]:
    for key in ("image", "path", "url", "image_url", "data"):
        value = part.get(key)
        yield value.get("url") if isinstance(value, Mapping) else value
