"""What is said about the small world: questions with exact answers, and how they are drawn at random."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from PIL import Image

from tools.box.scenes import Scene


@dataclass(frozen=True)
class Picture:
    """A scene and how it was drawn."""

    scene: Scene
    image: Image.Image


@dataclass(frozen=True)
class Turn:
    """One question and its only right answer.

    Args:
        task: What the question tests; reports are per task.
        question: Text of the user.
        answer: Text of the assistant; empty when it calls a function.
        reasoning: What it writes down first when it thinks.
        images: Pictures that come with this question, in front of its text.
        tool_calls: In OpenAI's form, arguments as a mapping.
        tool_results: What the functions returned; the next turn answers on them and has no question.
    """

    task: str
    question: str
    answer: str
    reasoning: str
    images: tuple[Picture, ...] = ()
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_results: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dialogue:
    """Turns that follow each other; later ones may be about earlier pictures."""

    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()
    system: str | None = None

    def messages(self, turns: int, *, with_answer: bool, thinking: bool) -> list[dict[str, Any]]:
        """The conversation up to turn number `turns`, with or without its answer."""
        out: list[dict[str, Any]] = []
        if self.system is not None:
            out.append({"role": "system", "content": self.system})
        for number, turn in enumerate(self.turns[:turns], start=1):
            if turn.question:
                parts = [{"type": "image", "image": picture.image} for picture in turn.images]
                out.append({"role": "user", "content": [*parts, {"type": "text", "text": turn.question}]})
            if number == turns and not with_answer:
                break
            reply: dict[str, Any] = {"role": "assistant", "content": turn.answer}
            reply["reasoning_content"] = turn.reasoning if thinking else ""
            if turn.tool_calls:
                reply["tool_calls"] = [{"type": "function", "function": call} for call in turn.tool_calls]
            out.append(reply)
            if number < turns:
                out += [{"role": "tool", "content": result} for result in turn.tool_results]
        return out


Maker = Callable[[Random], Dialogue]


@dataclass
class Tasks:
    """Makers of dialogues under their names, with how often each is drawn."""

    makers: dict[str, Maker] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, weight: float) -> Callable[[Maker], Maker]:
        """Register a maker."""

        def register(maker: Maker) -> Maker:
            self.makers[name], self.weights[name] = maker, weight
            return maker

        return register

    def draw(self, rng: Random) -> Dialogue:
        """One dialogue of a random kind."""
        names = list(self.makers)
        return self.makers[rng.choices(names, [self.weights[name] for name in names])[0]](rng)
