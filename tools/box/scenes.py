"""Pictures of the small world: shapes and numbers of any size, anywhere on a canvas of any size."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from tools.box.numbers import Mask, draw_number
from tools.box.outlines import DIRECTIONS, SHAPES, Outline, bounds, outline, wobbly
from tools.box.palette import Rgb, shade
from tools.box.prepare import merged

NUMBER = "number"
KINDS = (*SHAPES, NUMBER)


@dataclass(frozen=True)
class Form:
    """How a thing is drawn, around its middle, in pixels.

    Args:
        points: Of a shape's outline.
        mask: Of a number.
        stroke: Width of an outline that is not filled, or of the border of one that is.
        border: Colour of the border, if there is one.
    """

    rgb: Rgb
    points: tuple[tuple[float, float], ...] = ()
    mask: Mask | None = None
    stroke: float = 0.0
    border: Rgb | None = None


@dataclass(frozen=True)
class Thing:
    """A shape or a number.

    Args:
        x, y, width, height: Middle and size of its bounding box in pixels.
        direction: Where an arrow points.
        digits: Of a number.
    """

    kind: str
    colour: str
    x: float
    y: float
    width: float
    height: float
    form: Form = field(repr=False, compare=False)
    filled: bool = True
    direction: str = ""
    digits: str = ""

    @property
    def name(self) -> str:
        """With its colour, as answers call it: 'red circle', 'blue number 42'."""
        return f"{self.colour} {self.kind}" + (f" {self.digits}" if self.digits else "")

    @property
    def size(self) -> float:
        """A side of the square of its bounding box's area."""
        return (self.width * self.height) ** 0.5

    def at(self, x: float, y: float) -> "Thing":
        """The same somewhere else."""
        return replace(self, x=x, y=y)

    def overlaps(self, other: "Thing", apart: float) -> bool:
        """Whether less than so many pixels lie between the two bounding boxes."""
        return (
            abs(self.x - other.x) < (self.width + other.width) / 2 + apart
            and abs(self.y - other.y) < (self.height + other.height) / 2 + apart
        )


@dataclass(frozen=True)
class Ground:
    """What is behind the things.

    Args:
        name: Its colour, if it has one that goes by a name.
        rgbs: The colour, or two that flow into each other, or that a pattern has.
        pattern: "flat", "gradient", "stripes", "checks", "dots", "grain", "clouds" or "paper".
    """

    name: str
    rgbs: tuple[Rgb, ...]
    pattern: str = "flat"


@dataclass(frozen=True)
class Style:
    """How the picture is drawn and kept: hard or soft edges, noise, blur, JPEG's quality (0: not a JPEG)."""

    soft: bool = True
    noise: float = 0.0
    blur: float = 0.0
    jpeg: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Scene:
    """Things on a canvas, in reading order: by the row and column of the token that holds their middle."""

    width: int
    height: int
    ground: Ground
    things: tuple[Thing, ...] = ()
    style: Style = Style()
    frames: int = 0

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return merged(self.width, self.height, self.frames)

    def cell(self, thing: Thing) -> tuple[int, int]:
        """Row and column of the token that holds a thing's middle."""
        rows, columns = self.grid
        return (
            min(rows - 1, max(0, int(thing.y / self.height * rows))),
            min(columns - 1, max(0, int(thing.x / self.width * columns))),
        )

    def with_things(self, things: Sequence[Thing]) -> "Scene":
        """The same picture with other things on it, put into reading order."""
        return replace(self, things=tuple(sorted(things, key=self.cell)))

    def is_clear(self) -> bool:
        """Whether no two middles share a token, and whether all are in a plain order of reading."""
        rows, _ = self.grid
        cells = [self.cell(thing) for thing in self.things]
        if len(set(cells)) < len(cells):
            return False
        for number, (one, (row, _)) in enumerate(zip(self.things, cells, strict=True)):
            for other, (above, _) in zip(self.things[:number], cells, strict=False):
                if row != above and abs(one.y - other.y) * rows / self.height < 0.3:
                    return False
        return True

    def unique(self, key: str) -> list[Thing]:
        """Things that no other thing shares this attribute with."""
        values = [getattr(thing, key) for thing in self.things]
        return [thing for thing in self.things if values.count(getattr(thing, key)) == 1]

    def extreme(self, side: str) -> Thing | None:
        """The thing furthest to the "left", "right", "top" or "bottom", if it is so beyond doubt."""
        if len(self.things) < 2:
            return None
        sign = 1 if side in ("left", "top") else -1
        ordered = sorted(self.things, key=lambda thing: sign * (thing.x if side in ("left", "right") else thing.y))
        first, second = ordered[:2]
        apart = abs(first.x - second.x) if side in ("left", "right") else abs(first.y - second.y)
        return first if apart > 0.12 * min(self.width, self.height) else None


def make_thing(
    kind: str,
    colour: str,
    size: float,
    rng: Random,
    *,
    rgb: Rgb | None = None,
    digits: str = "",
    widest: float = 1e9,
    room: float = 0.0,
) -> Thing:
    """A thing around the origin.

    Args:
        size: Its longer side in pixels; of a number, its height.
        widest: A number that would be wider is made smaller.
        room: Shorter side of the canvas, to which hand-drawn lines are in proportion.
    """
    rgb = rgb or shade(colour, rng)
    if kind == NUMBER:
        digits = digits or random_digits(rng)
        mask = draw_number(digits, size, rng).within(widest)
        form = Form(rgb, mask=mask)
        return Thing(kind, colour, 0, 0, mask.image.width, mask.image.height, form, digits=digits)
    direction = rng.choice(DIRECTIONS) if kind == "arrow" else ""
    points = outline(kind, rng, direction)
    by_hand = kind != "line" and rng.random() < 0.14
    if by_hand:
        points = wobbly(points, rng, rng.uniform(0.02, 0.06))
    points, width, height = _scaled(points, size)
    filled, stroke, border = True, 0.0, None
    thin = min(width, height)
    if kind == "line":
        stroke = 0.0
    elif rng.random() < (0.7 if by_hand else 0.25):
        most = 0.05 if kind in ("cross", "arrow", "star") else 0.16
        filled, stroke = False, min(max(1.0, rng.uniform(0.03, 0.12) * size, 0.006 * room), most * thin)
    elif colour not in ("white", "black") and rng.random() < 0.16:
        stroke = max(1.0, rng.uniform(0.02, 0.07) * size)
        border = (0, 0, 0) if rng.random() < 0.7 else (rgb[0] // 2, rgb[1] // 2, rgb[2] // 2)
    return Thing(kind, colour, 0, 0, width, height, Form(rgb, tuple(points), None, stroke, border), filled, direction)


def _scaled(points: Outline, size: float) -> tuple[Outline, float, float]:
    """With the bounding box's middle at the origin and its longer side so long; also the two sides."""
    left, top, right, bottom = bounds(points)
    scale = size / max(right - left, bottom - top)
    x, y = (left + right) / 2, (top + bottom) / 2
    scaled = [((px - x) * scale, (py - y) * scale) for px, py in points]
    return scaled, (right - left) * scale, (bottom - top) * scale


def random_digits(rng: Random) -> str:
    """Of a number of one to four digits."""
    count = rng.choice([1, 1, 1, 2, 2, 3, 3, 4])
    first = str(rng.randrange(1, 10)) if count > 1 else str(rng.randrange(10))
    return first + "".join(str(rng.randrange(10)) for _ in range(count - 1))
