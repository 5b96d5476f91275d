"""A scripted conversation: ten turns with reasoning, two images, one tool loop, one regeneration."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

Message = dict[str, Any]

_SENTENCE = "Answer with care, name the shapes and the colors that you see, and say where they are. "
_REASONING = "The question is about what was shown before, so look at it again, one thing after the other. " * 5
_ANSWER = "There is a red circle at the top left, a blue square at the right and a green star below it. " * 3
_QUESTION = "Now think about the things that we talked about, and tell me more about the one at number {}."

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Search for something.",
            "parameters": {"type": "object", "properties": {"term": {"type": "string"}}, "required": ["term"]},
        },
    }
]


@dataclass(frozen=True)
class Step:
    """One request.

    Args:
        name: What is special about it.
        messages: The whole conversation.
        reply: What the assistant is made to answer.
        turn: Number of the user's question, from 1.
    """

    name: str
    messages: tuple[Message, ...]
    reply: Message
    turn: int


def picture(seed: int) -> str:
    """A small picture as a data URL."""
    image = Image.new("RGB", (160, 128), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((10 + 8 * seed, 10, 60 + 8 * seed, 60), fill="red")
    pen.rectangle((90, 50 + 8 * seed, 140, 100 + 8 * seed), fill="blue")
    out = io.BytesIO()
    image.save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def write_conversation(count: Callable[[str], int], *, images: bool = True, system_tokens: int = 1000) -> list[Step]:
    """The requests of the conversation, in order.

    Args:
        count: Tokens of a text.
        images: Whether turns 3 and 7 bring a picture.
        system_tokens: At least this many tokens in the system message.
    """
    system = _SENTENCE
    while count(system) < system_tokens:
        system += _SENTENCE
    history: list[Message] = [{"role": "system", "content": system}]
    steps: list[Step] = []

    def ask(name: str, turn: int, reply: Message, *new: Message) -> None:
        history.extend(new)
        steps.append(Step(name, tuple(history), reply, turn))
        history.append(reply)

    reply: Message = {"role": "assistant", "content": _ANSWER.strip(), "reasoning_content": _REASONING.strip()}
    call: Message = {
        "role": "assistant",
        "content": "",
        "reasoning_content": _REASONING.strip(),
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"term": "star"}'}}
        ],
    }
    for turn in range(1, 11):
        parts: list[Message] = [{"type": "text", "text": _QUESTION.format(turn).strip()}]
        name = "text"
        if turn in (3, 7) and images:
            name = "image"
            parts.insert(0, {"type": "image_url", "image_url": {"url": picture(turn)}})
        question: Message = {"role": "user", "content": parts if images else parts[-1]["text"]}
        if turn == 5:
            ask("tool call", turn, call, question)
            result = {"role": "tool", "tool_call_id": "call_1", "content": "A star is a shape with five points."}
            ask("tool result", turn, reply, result)
        else:
            ask(name, turn, reply, question)
        if turn == 8:
            steps.append(Step("regenerate", steps[-1].messages, reply, turn))
    return steps
