"""A question: what is sent to the model, and what its answer has to say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from PIL import Image

from tools.judge.expectation import Expectation

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """One question of a group.

    Args:
        kind: What sort of question it is, within its group.
        messages: In OpenAI's form; images are Pillow images.
        tools: Descriptions of functions, in OpenAI's form; none are given if it is empty.
    """

    kind: str
    messages: Sequence[Message]
    expectation: Expectation
    tools: Sequence[Mapping[str, Any]] = field(default=())

    @property
    def images(self) -> list[Image.Image]:
        return [part["image"] for message in self.messages for part in parts(message) if part["type"] == "image"]

    @property
    def text(self) -> str:
        """The conversation in one line, pictures as [picture]."""
        said = []
        for message in self.messages:
            spoken = " ".join(part.get("text", "[picture]") for part in parts(message))
            said.append(spoken if message["role"] == "user" else f"<{message['role']}: {spoken}>")
        return " ".join(said)


Maker = Callable[[Random], Question]


def parts(message: Message) -> list[dict[str, Any]]:
    content = message.get("content") or ""
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def user(text: str, *images: Image.Image) -> Message:
    """A user's message: the pictures, then the text."""
    if not images:
        return {"role": "user", "content": text}
    return {"role": "user", "content": [*({"type": "image", "image": image} for image in images), words(text)]}


def words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def worded(rng: Random, wordings: Sequence[str], **names: object) -> str:
    """One of the wordings; now and then as it is typed in a hurry."""
    text = rng.choice(wordings).format(**names)
    roll = rng.random()
    if roll < 0.12:
        return text.lower()
    if roll < 0.22:
        return text.rstrip("?.!")
    if roll < 0.3 and text.endswith(".") and text.split()[0] in VERBS:
        return f"Please {text[0].lower()}{text[1:]}"
    return text.replace("colour", "color") if roll > 0.85 else text


# Requests that "please" may stand before.
VERBS = ("Name", "Describe", "Tell", "Count", "Read", "Spell", "Add", "Subtract", "Take", "Calculate")


def chosen(rng: Random, makers: Mapping[str, tuple[int, Maker]]) -> Question:
    """A question of one of the kinds, each as often as its weight says."""
    makes = [maker for _, maker in makers.values()]
    return rng.choices(makes, [weight for weight, _ in makers.values()])[0](rng)
