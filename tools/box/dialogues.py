"""What is said about the small world: questions with exact answers, and how they are drawn at random."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any

from PIL import Image

from tools.box.drawing import draw
from tools.box.scenes import Scene


@dataclass(frozen=True)
class Picture:
    """A scene, drawn when somebody looks."""

    scene: Scene

    @cached_property
    def image(self) -> Image.Image:
        """In RGB."""
        return draw(self.scene)


@dataclass(frozen=True)
class Clip:
    """What happens: one scene per frame, an even number of them, all of one size.

    Args:
        interval: Seconds from a frame to the next.
    """

    scenes: tuple[Scene, ...]
    interval: float = 0.5

    @cached_property
    def frames(self) -> tuple[Image.Image, ...]:
        """In RGB; one image where one scene lasts."""
        drawn = {id(scene): draw(scene) for scene in {id(scene): scene for scene in self.scenes}.values()}
        return tuple(drawn[id(scene)] for scene in self.scenes)

    def times(self) -> list[float]:
        """Of every pair of frames, in seconds, as Qwen3.5's prompts give them."""
        return [(number + 0.5) * self.interval for number in range(0, len(self.scenes), 2)]


@dataclass(frozen=True)
class Turn:
    """One question and its only right answer.

    Args:
        task: What the question tests; reports are per task.
        question: Text of the user.
        answer: Text of the assistant; empty when it calls a function.
        reasoning: What it writes down first when it thinks.
        media: Pictures and clips that come with this question.
        text_first: Whether they stand behind its text.
        tool_calls: In OpenAI's form, arguments as a mapping.
        tool_results: What the functions returned; the next turn answers on them and has no question.
    """

    task: str
    question: str
    answer: str
    reasoning: str
    media: tuple[Picture | Clip, ...] = ()
    text_first: bool = False
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_results: tuple[str, ...] = ()

    def content(self) -> list[dict[str, Any]]:
        """The user's message; a clip as the pairs of frames that Qwen3.5's processor makes of it."""
        parts: list[dict[str, Any]] = []
        for shown in self.media:
            if isinstance(shown, Picture):
                parts.append({"type": "image", "image": shown})
                continue
            for number, time in enumerate(shown.times()):
                parts.append({"type": "text", "text": f"<{time:.1f} seconds>"})
                parts.append({"type": "image", "image": (shown, number)})
        text = {"type": "text", "text": self.question}
        return [text, *parts] if self.text_first else [*parts, text]


@dataclass(frozen=True)
class Dialogue:
    """Turns that follow each other; later ones may be about earlier pictures."""

    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()
    system: str | None = None

    def messages(self, turns: int, *, with_answer: bool, thinking: bool) -> list[dict[str, Any]]:
        """The conversation up to turn number `turns`, with or without its answer; pictures are `Picture`s."""
        out: list[dict[str, Any]] = []
        if self.system is not None:
            out.append({"role": "system", "content": self.system})
        for number, turn in enumerate(self.turns[:turns], start=1):
            if turn.question:
                out.append({"role": "user", "content": turn.content()})
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
