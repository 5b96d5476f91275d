"""Messages in OpenAI's format, through the checkpoint's chat template, to token ids."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jinja2 import TemplateError

from mlx_qwen35.errors import OptionError, PromptError, PromptMismatchError
from mlx_qwen35.paths import shorten
from mlx_qwen35.prompts.media_parts import (
    IMAGE_PARTS,
    VIDEO_PARTS,
    image_source,
    options_of,
    part_kind,
    video_source,
)
from mlx_qwen35.prompts.tokenizer import CLOSE, OPEN, Tokenizer
from mlx_qwen35.prompts.tool_results import order_of

ROLES = ("system", "developer", "user", "assistant", "tool")


# transformers' names for it, in its order; templates read the first.
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
# As escapes are: no user's text holds it once those are hidden. The space shows whether a template trims texts.
_MARK = f"{OPEN}continue{CLOSE} "


@dataclass(frozen=True)
class MediaPart:
    """An image or a video in a message.

    Args:
        source: What it is; None where the caller passes it separately.
        place: Where it stands in the messages, for errors.
        is_video: Else it is an image.
        options: Of `IMAGE_OPTIONS` or `VIDEO_OPTIONS`, those that the part says.
    """

    source: Any
    place: str
    is_video: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RenderedMessages:
    """A conversation as the template writes it, before placeholders are expanded.

    Args:
        text: One placeholder per image or video.
        media: In prompt order.
        encode: From this text, or from one that has more in it, to token ids.
    """

    text: str
    media: list[MediaPart]
    encode: Callable[[str], list[int]]

    @property
    def input_ids(self) -> list[int]:
        """The text as token ids."""
        return self.encode(self.text)


def render_messages(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    enable_thinking: bool | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    context: int | None = None,
) -> RenderedMessages:
    """Apply the checkpoint's chat template.

    Args:
        messages: Role and content each; content is a string or a list of text and image parts.
        tools: Function descriptions in OpenAI's format.
        enable_thinking: Whether the answer begins with reasoning; None leaves it to the template.
        add_generation_prompt: Whether to end with the beginning of the assistant's turn.
        continue_final_message: End within the last message, which is the assistant's, where its text ends.
        chat_template_kwargs: Further variables for the template; control tokens in them are text, as in messages.
        context: Tokens that there is room for, so that what is far longer is refused before it is tokenised.
    Raises:
        PromptError: A message is malformed, the template refuses the conversation, or it is far too long.
        OptionError: A further variable says something else than an argument.
    """
    if tokenizer.chat_template is None:
        raise PromptError("messages: the checkpoint has no chat template; pass a finished prompt or token ids")
    escapes = tokenizer.escapes()
    media: list[MediaPart] = []
    given = _checked_list(messages, "messages")
    normal = [
        _message(given[index], f"messages[{index}]", escapes.hide, lambda: _splits_reasoning(tokenizer), media)
        for index in order_of(given)
    ]
    if continue_final_message:
        normal[-1] = _to_continue(normal[-1], f"messages[{len(normal) - 1}]")
    options: dict[str, Any] = {"add_generation_prompt": add_generation_prompt and not continue_final_message}
    if enable_thinking is not None:
        options["enable_thinking"] = enable_thinking
    if tools:
        options["tools"] = _checked_list(tools, "tools")
    further = dict(chat_template_kwargs or {})
    _check_agreement(further, {**options, "continue_final_message": bool(continue_final_message)})
    if tools:
        options["tools"] = [_tool(tool, f"tools[{index}]", escapes.hide) for index, tool in enumerate(options["tools"])]
    text = _render(tokenizer, normal, {**escapes.hide(further, "chat_template_kwargs"), **options})
    if continue_final_message:
        text = _up_to_the_mark(text)
    if context is not None:
        tokenizer.check_length(text, context)
    return RenderedMessages(text, media, lambda text: tokenizer.encode_rendered(text, escapes))


def _splits_reasoning(tokenizer: Tokenizer) -> bool:
    try:
        return tokenizer.template.splits_reasoning
    except TemplateError:  # whoever renders it is told
        return True


def _check_agreement(further: dict[str, Any], arguments: Mapping[str, Any]) -> None:
    """Refuse variables that an argument has another value for; those that it has the same value for go."""
    if "messages" in further:
        raise OptionError("chat_template_kwargs['messages']: expected messages as an argument alone, found them here")
    for name, value in arguments.items():
        found = further.pop(name, value)
        if found != value:
            raise OptionError(
                f"chat_template_kwargs[{name!r}]: expected {shorten(repr(value))} as the argument has it, "
                f"found {shorten(repr(found))}"
            )


def _to_continue(message: dict[str, Any], place: str) -> dict[str, Any]:
    """The last message with a mark where its text ends.

    Raises:
        PromptError: It is not the assistant's, or has no text that could go on.
    """
    if message["role"] != "assistant":
        raise PromptError(f"{place}: expected an assistant's message to continue, found a {message['role']}'s")
    if message.get("tool_calls"):
        raise PromptError(f"{place}: expected a text to continue, found calls of tools")
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": content + _MARK}
    last = max((index for index, part in enumerate(content or ()) if "text" in part), default=None)
    if last is None:
        raise PromptError(f"{place}: expected a text to continue, found none")
    return {
        **message,
        "content": [
            {**part, "text": part["text"] + _MARK} if index == last else part for index, part in enumerate(content)
        ],
    }


def _up_to_the_mark(text: str) -> str:
    """A rendered conversation up to where the last message's text ends.

    Source:
        transformers 5.24, utils/chat_template_utils.py, render_jinja_template: if the template trims texts, spaces at
        the end of this one are gone too.
    """
    end = text.rfind(_MARK.rstrip())
    if end < 0:
        raise PromptError("messages: the checkpoint's chat template leaves out the message that is to be continued")
    return text[:end] if text.startswith(_MARK, end) else text[:end].rstrip()


def _render(tokenizer: Tokenizer, messages: list[dict[str, Any]], options: Mapping[str, Any]) -> str:
    """The template's text; of the messages in the form that all templates take if it refuses them as they are.

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
    """The same conversation with one system message, at the beginning, and a user's, for templates that want it so.

    Leading ones are joined. A later one becomes part of the message that it follows, if that is the user's or a
    function's result; else of the user's message that it precedes; else a user's message of its own. There it
    stands between `<system>` and `</system>`. What is done to a message does not depend on those behind the next one,
    so that the prefix of a conversation stays the same while it goes on. Where nobody asked anything, as before a
    character's greeting is answered, or when a program trimmed what its agent was asked, an empty question does.

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
    # Those that become a part of the last message, all at once: one after the other, each would copy all before it.
    behind: list[Any] = []
    waiting: list[Any] = []
    for message in [*messages[leading:], None]:
        if message is not None and message["role"] == "system":
            marked = _joined(["<system>\n", message["content"], "\n</system>"], "")
            follows = out and not waiting and out[-1]["role"] in ("user", "tool")
            (behind if follows else waiting).append(marked)
            continue
        if behind:
            out[-1] = {**out[-1], "content": _joined([out[-1]["content"], *behind], "\n\n")}
            behind = []
        if message is None:
            break
        if waiting and message["role"] == "user":
            message = {**message, "content": _joined([*waiting, message["content"]], "\n\n")}
        elif waiting:
            out.append({"role": "user", "content": _joined(waiting, "\n\n")})
        waiting = []
        out.append(message)
    if waiting:
        out.append({"role": "user", "content": _joined(waiting, "\n\n")})
    if not any(message["role"] == "user" for message in out):
        # In front of the rest: a call's result has to stay behind its call, and an answer goes on where it ends.
        out.insert(1 if leading else 0, {"role": "user", "content": ""})
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


def fill_sources(media: Sequence[MediaPart], given: Sequence[Any] | None, name: str = "images") -> list[MediaPart]:
    """Give separately passed images or videos to the parts that came without one.

    Args:
        media: Parts of one kind.
        name: Of the argument, for errors.
    Raises:
        PromptMismatchError: Their numbers differ.
    """
    empty = [part for part in media if part.source is None]
    sources = list(given or ())
    if len(empty) != len(sources):
        places = ", ".join(part.place for part in empty) or "none"
        raise PromptMismatchError(
            f"{name}: expected {len(empty)} ({name.removesuffix('s')} parts without a source: {places}), "
            f"found {len(sources)}"
        )
    rest = iter(sources)
    return [replace(part, source=next(rest)) if part.source is None else part for part in media]


def _checked_list(value: Any, place: str, expected: str = "a list with at least one entry") -> list[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence) or not value:
        raise PromptError(f"{place}: expected {expected}, found {_found(value)}")
    return list(value)


def _found(value: Any) -> str:
    return f"{type(value).__name__} {shorten(repr(value), 60)}"


def _message(message: Any, place: str, hide: Any, splits: Callable[[], bool], media: list[MediaPart]) -> dict[str, Any]:
    """One message as the templates expect it, with user text hidden."""
    if not isinstance(message, Mapping):
        raise PromptError(f"{place}: expected an object with role and content, found {_found(message)}")
    role = message.get("role")
    if role not in ROLES:
        raise PromptError(f"{place}.role: expected one of {', '.join(ROLES)}, found {role!r}")
    # OpenAI's newer name for the same thing, which the templates do not know.
    role = "system" if role == "developer" else role
    out: dict[str, Any] = {"role": role}
    if role in ("user", "system") and "content" not in message:
        # Misspelled, most of the time; the templates would show an empty message.
        raise PromptError(f"{place}.content: expected text or a list of parts, found none")
    content = message.get("content")
    if role == "assistant":
        content, reasoning = _reasoning(message, content, place)
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
        looked_for = role == "assistant" and "reasoning_content" not in out and "</think>" in content and splits()
        out["content"] = _hide_but_think_block(content, hide) if looked_for else hide(content)
    elif content is None or content == []:
        out["content"] = content
    else:
        parts = _checked_list(content, f"{place}.content", "text or a list of parts")
        out["content"] = [_part(part, f"{place}.content[{number}]", hide, media) for number, part in enumerate(parts)]
    return out


def _reasoning(message: Mapping[str, Any], content: Any, place: str) -> tuple[Any, str | None]:
    """An earlier answer's content, one text where it is texts, and its reasoning from a field of its own."""
    if isinstance(content, list) and all(isinstance(part, Mapping) and "text" in part for part in content):
        content = "".join(str(part["text"]) for part in content)
    reasoning = next((message[name] for name in REASONING_FIELDS if message.get(name) is not None), None)
    if reasoning is not None and not isinstance(reasoning, str):
        raise PromptError(f"{place}.reasoning_content: expected a string, found {_found(reasoning)}")
    return content, reasoning


def _hide_but_think_block(content: str, hide: Any) -> str:
    """An answer's text, in which the template finds the marks of its reasoning and splits there, as it does."""
    reasoning, *rest = content.split("</think>")
    return "</think>".join(["<think>".join(map(hide, reasoning.split("<think>"))), *map(hide, rest)])


def _tool_call(call: Any, place: str, hide: Any) -> dict[str, Any]:
    """A call with its arguments as a mapping, as the templates want; OpenAI sends them as JSON text."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise PromptError(f"{place}: expected a function with a name, found {_found(call)}")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = _arguments_of(arguments)
    if not isinstance(arguments, Mapping):
        raise PromptError(f"{place}.arguments: expected a JSON object, found {_found(arguments)}")
    return {
        "type": "function",
        "function": {"name": hide(function["name"]), "arguments": hide(dict(arguments), f"{place}.arguments")},
    }


def _arguments_of(text: str) -> dict[str, Any]:
    """What JSON text says.

    A model may have written something else, and a program may have shortened it since. OpenAI's API takes such a call
    back, so that the conversation can go on: here the text becomes one argument, for the model to read.
    """
    try:
        arguments = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return {"arguments": text}
    if arguments is None:
        return {}
    return arguments if isinstance(arguments, dict) else {"arguments": text}


def _tool(tool: Any, place: str, hide: Any) -> Any:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise PromptError(f"{place}: expected a function description with a name, found {_found(tool)}")
    return hide(dict(tool), place)


def _part(part: Any, place: str, hide: Any, media: list[MediaPart]) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise PromptError(f"{place}: expected an object with a type, found {_found(part)}")
    kind = part_kind(part)
    if kind in ("text", "input_text"):
        if not isinstance(part.get("text"), str):
            raise PromptError(f"{place}.text: expected a string, found {_found(part.get('text'))}")
        return {"type": "text", "text": hide(part["text"])}
    if kind in IMAGE_PARTS:
        media.append(MediaPart(image_source(part, place), place, options=options_of(part, place)))
        return {"type": "image"}
    if kind in VIDEO_PARTS:
        media.append(MediaPart(video_source(part, place), place, is_video=True, options=options_of(part, place)))
        return {"type": "video"}
    raise PromptError(f"{place}.type: expected 'text', 'image', 'image_url', 'video' or 'video_url', found {kind!r}")
