"""Clips: frames of one thing that moves, appears, disappears or changes colour, and a question about it.

Nothing here asks a model: the runtime takes no videos yet. Whoever has code that does gives `judge` the answer.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from PIL import Image

from tools.judge.changes import MOVES, WAYS, change, expected
from tools.judge.draw import picture
from tools.judge.expectation import Expectation
from tools.judge.question import worded
from tools.judge.scene import CANVASES, Scene, Thing


@dataclass(frozen=True)
class Clip:
    """Args: kind: What happens; frames: RGB images of one size; fps: frames a second."""

    kind: str
    frames: list[Image.Image]
    fps: float
    text: str
    expectation: Expectation


GENERAL = (
    "What happens?",
    "What happens in this clip?",
    "What is going on here?",
    "Tell me what happens in the video.",
    "What happened?",
)
MOVING = ("Which way does the {shape} move?", "Where does the {shape} go?", "In which direction does it move?")
COLOURING = (
    "Which colour does the {shape} become?",
    "What happens to the {shape}?",
    "What colour is the {shape} at the end?",
)
COMING = ("What appears?", "What shows up?", "What comes into the picture?")
GOING = ("What disappears?", "What goes away?", "What is gone at the end?")


def between(before: Scene, after: Scene, way: str, part: float) -> Scene:
    """The scene at a time from 0 to 1."""
    if way not in MOVES:
        return after if part >= 0.5 else before
    start, end = before.things[0], after.things[0]
    here = replace(end, x=start.x + (end.x - start.x) * part, y=start.y + (end.y - start.y) * part)
    return replace(after, things=(here, *after.things[1:]))


def wanted(way: str, general: bool, one: Thing, before: Scene, after: Scene) -> Expectation:
    made = expected(way, one, before, after)
    if general:
        return replace(made, need=()) if way in MOVES else made
    if way in MOVES:  # "to the left" is enough
        return replace(made, all_of=made.all_of[1:], need=())
    if way == "colour":
        return made
    return replace(made, all_of=(), need=("shape",))  # the question said what happens to it


def clip(rng: Random) -> Clip:
    way = rng.choice(WAYS)
    size = rng.choice([size for size in CANVASES if 100 <= min(size) <= 500])
    before, after, one = change(rng, way, size, rng.choice((1, 1, 2)))
    count, fps = rng.choice((4, 6, 8, 8, 12, 16)), rng.choice((1.0, 2.0, 2.0, 4.0, 8.0))
    scenes = [replace(between(before, after, way, index / (count - 1)), quality=None) for index in range(count)]
    general = rng.random() < 0.5
    wordings: tuple[str, ...] = GENERAL
    if not general:
        wordings = MOVING if way in MOVES else {"colour": COLOURING, "appears": COMING, "disappears": GOING}[way]
    text = worded(rng, wordings, shape=one.shape)
    return Clip(way, [picture(made) for made in scenes], fps, text, wanted(way, general, one, before, after))


def clips(count: int, seed: int = 0) -> Iterator[Clip]:
    """So many clips, always the same for a seed; whatever the count is, they begin alike."""
    for index in range(count):
        yield clip(Random(f"{seed}/clips/{index}"))
