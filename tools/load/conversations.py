"""One client's side of conversations about what the checkpoint in the package knows."""

import base64
import io
import json
from dataclasses import dataclass
from random import Random
from typing import Any

from PIL import Image

from tools.box import about_pictures, about_programs, about_several, about_text
from tools.box.dialogues import Dialogue, Picture

POOL = 60
MOST_TURNS = 4
MAX_TOKENS = 96

Json = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """What the user says, below some pictures."""

    text: str
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Results:
    """What the functions return that the answer before called."""

    text: str


@dataclass(frozen=True, eq=False)
class Conversation:
    """One client's side of it.

    Args:
        tools: In OpenAI's form.
        forced: Whether the first answer has to be a call.
        schema: Of every answer.
    """

    number: int
    kind: str
    turns: tuple[Question | Results, ...]
    tools: tuple[Json, ...] = ()
    forced: bool = False
    schema: Json | None = None
    thinking: bool = False
    max_tokens: int = MAX_TOKENS


SCHEMA: Json = {
    "type": "object",
    "properties": {"answer": {"type": "string", "maxLength": 40}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
    "additionalProperties": False,
}
# Keeps a row busy while the queue fills behind it.
LONG: Json = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 16, "maxItems": 16}
TASKS = {
    "text": (about_text.TASKS,),
    "image": (about_pictures.TASKS, about_several.TASKS),
    "tools": (about_programs.TASKS,),
}
KINDS = (*TASKS, "schema")


def make_pool(seed: int, count: int) -> list[Conversation]:
    """Conversations about what the checkpoint in the package knows; the same for the same seed."""
    return [_conversation(number, Random(f"load-{seed}-{number}")) for number in range(count)]


def _conversation(number: int, rng: Random) -> Conversation:
    kind = KINDS[number % len(KINDS)]
    dialogue = rng.choice(TASKS[rng.choice(["text", "image"]) if kind == "schema" else kind]).draw(rng)
    return Conversation(
        number,
        kind,
        _turns(dialogue),
        tools=dialogue.tools,
        forced=kind == "tools" and rng.random() < 0.3,
        schema=SCHEMA if kind == "schema" else None,
        thinking=rng.random() < 0.4,
    )


def _turns(dialogue: Dialogue) -> tuple[Question | Results, ...]:
    turns: list[Question | Results] = []
    for number, turn in enumerate(dialogue.turns[:MOST_TURNS]):
        if turn.question:
            turns.append(
                Question(
                    turn.question, tuple(png_of(shown.image) for shown in turn.media if isinstance(shown, Picture))
                )
            )
        else:
            turns.append(Results(dialogue.turns[number - 1].tool_results[0]))
    return tuple(turns)


def png_of(image: Image.Image) -> bytes:
    """A picture as a file."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def data_url(png: bytes) -> str:
    """A file as requests carry it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def json_bytes(data: Any) -> bytes:
    """A request's body."""
    return json.dumps(data).encode()
