"""Pictures of the small world: a few shapes or digits on a plain ground, drawn with Pillow."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from PIL import Image, ImageDraw, ImageFont

COLOURS = {
    "red": (214, 40, 40),
    "orange": (244, 140, 6),
    "yellow": (250, 220, 40),
    "green": (46, 160, 67),
    "blue": (40, 90, 220),
    "purple": (130, 60, 180),
    "pink": (250, 130, 190),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
SIZES = ("small", "large")
GROUNDS = ((255, 255, 255), (238, 238, 238), (250, 244, 230), (225, 236, 245), (205, 205, 205))

_COLUMN_NAMES = {1: ("",), 2: ("left", "right"), 3: ("left", "", "right")}
_ROW_NAMES = {1: ("",), 2: ("top", "bottom"), 3: ("top", "", "bottom")}


@dataclass(frozen=True)
class Thing:
    """One object: a shape or a digit, its colour and size, and its cell."""

    kind: str
    colour: str
    size: str
    column: int
    row: int

    @property
    def name(self) -> str:
        """With its colour, as answers call it."""
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class Scene:
    """Things in a grid of cells.

    Args:
        columns, rows: 1 to 3 each.
        cell: Width and height of a cell in pixels.
        ground: Colour behind the things.
        things: At most one per cell, in reading order.
    """

    columns: int
    rows: int
    cell: tuple[int, int]
    ground: tuple[int, int, int]
    things: tuple[Thing, ...]

    def place(self, thing: Thing) -> str:
        """Where a thing is, in words."""
        return place_name(self.columns, self.rows, thing.column, thing.row)

    def places(self) -> Iterator[tuple[str, Thing | None]]:
        """Every cell's name and what is in it."""
        by_cell = {(thing.column, thing.row): thing for thing in self.things}
        for row in range(self.rows):
            for column in range(self.columns):
                yield place_name(self.columns, self.rows, column, row), by_cell.get((column, row))

    def unique(self, key: str) -> list[Thing]:
        """Things that no other thing shares this attribute with."""
        values = [getattr(thing, key) for thing in self.things]
        return [thing for thing in self.things if values.count(getattr(thing, key)) == 1]

    def summary(self) -> str:
        """Every thing with its place, in reading order; what a short reasoning writes down."""
        return ", ".join(f"{thing.name} {self.place(thing)}" for thing in self.things) or "nothing"

    def with_things(self, things: list[Thing]) -> "Scene":
        """The same picture with other things in it."""
        return replace(self, things=tuple(sorted(things, key=lambda thing: (thing.row, thing.column))))


def place_name(columns: int, rows: int, column: int, row: int) -> str:
    """A cell's place in words: 'top left', 'right', 'center', ..."""
    words = (_ROW_NAMES[rows][row], _COLUMN_NAMES[columns][column])
    return " ".join(word for word in words if word) or "center"


def random_scene(rng: Random, *, digits: bool = False, most: int = 4, least: int = 1) -> Scene:
    """A scene with `least` to `most` things; `digits` draws digits in place of shapes."""
    columns, rows = rng.choice([(1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (2, 2), (3, 2), (2, 3), (3, 3), (2, 2), (3, 2)])
    while columns * rows < least:
        columns, rows = rng.randint(1, 3), rng.randint(1, 3)
    cells = [(column, row) for row in range(rows) for column in range(columns)]
    count = rng.randint(least, min(most, len(cells)))
    things = [
        Thing(
            kind=str(rng.randrange(10)) if digits else rng.choice(SHAPES),
            colour=rng.choice(list(COLOURS)),
            size=rng.choice(SIZES),
            column=column,
            row=row,
        )
        for column, row in rng.sample(cells, count)
    ]
    ground = rng.choice(GROUNDS)
    scene = Scene(columns, rows, (rng.randint(40, 60), rng.randint(40, 60)), ground, ())
    return scene.with_things(things)


@dataclass(frozen=True)
class Box:
    """Where a thing was drawn, in shares of the picture's width and height."""

    thing: Thing
    left: float
    top: float
    right: float
    bottom: float


def draw(scene: Scene, rng: Random, scale: float = 1.0) -> tuple[Image.Image, list[Box]]:
    """The picture of a scene, in RGB, and where its things came to lie.

    Args:
        rng: Varies colours, exact places and sizes a little.
        scale: Enlarges the picture; the image processor brings large ones down again.
    """
    boxes = []
    oversampling = 2
    width, height = (side * scale * oversampling for side in scene.cell)
    image = Image.new("RGB", (round(scene.columns * width), round(scene.rows * height)), scene.ground)
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        colour = tuple(min(255, max(0, part + rng.randint(-12, 12))) for part in COLOURS[thing.colour])
        radius = min(width, height) * (0.44 if thing.size == "large" else 0.24) * rng.uniform(0.92, 1.04)
        x = (thing.column + 0.5 + rng.uniform(-0.05, 0.05)) * width
        y = (thing.row + 0.5 + rng.uniform(-0.05, 0.05)) * height
        _draw_thing(pen, thing.kind, x, y, radius, colour)
        left, right = (x - radius) / image.width, (x + radius) / image.width
        boxes.append(Box(thing, left, (y - radius) / image.height, right, (y + radius) / image.height))
    size = (image.width // oversampling, image.height // oversampling)
    return image.resize(size, Image.Resampling.BOX), boxes


def _draw_thing(pen: ImageDraw.ImageDraw, kind: str, x: float, y: float, r: float, colour: tuple[int, ...]) -> None:
    if kind.isdigit():
        pen.text((x, y), kind, fill=colour, font=ImageFont.load_default(size=2.2 * r), anchor="mm")
    elif kind == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif kind == "square":
        pen.rectangle((x - 0.88 * r, y - 0.88 * r, x + 0.88 * r, y + 0.88 * r), fill=colour)
    elif kind == "cross":
        pen.rectangle((x - r, y - 0.32 * r, x + r, y + 0.32 * r), fill=colour)
        pen.rectangle((x - 0.32 * r, y - r, x + 0.32 * r, y + r), fill=colour)
    else:
        pen.polygon([(x + px * r, y + py * r) for px, py in _POLYGONS[kind]], fill=colour)


_POLYGONS = {
    "triangle": [(0.0, -1.0), (1.0, 0.85), (-1.0, 0.85)],
    "diamond": [(0.0, -1.05), (0.72, 0.0), (0.0, 1.05), (-0.72, 0.0)],
    "star": [
        (0.0, -1.05), (0.25, -0.35), (1.0, -0.33), (0.41, 0.12), (0.62, 0.85),
        (0.0, 0.42), (-0.62, 0.85), (-0.41, 0.12), (-1.0, -0.33), (-0.25, -0.35),
    ],
}  # fmt: skip
