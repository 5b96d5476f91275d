"""Pictures of the small world: a few shapes or digits on a plain ground, drawn with Pillow."""

from collections.abc import Iterator, Sequence
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
DIGITS = tuple(str(digit) for digit in range(10))
KINDS = (*SHAPES, *DIGITS)
SIZES = ("small", "large")
GROUNDS = ((255, 255, 255), (238, 238, 238), (250, 244, 230), (225, 236, 245), (205, 205, 205))


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
        return place_name(thing.column, thing.row)

    def places(self) -> Iterator[tuple[str, Thing | None]]:
        """Every cell's name and what is in it."""
        by_cell = {(thing.column, thing.row): thing for thing in self.things}
        for row in range(self.rows):
            for column in range(self.columns):
                yield place_name(column, row), by_cell.get((column, row))

    def unique(self, key: str) -> list[Thing]:
        """Things that no other thing shares this attribute with."""
        values = [getattr(thing, key) for thing in self.things]
        return [thing for thing in self.things if values.count(getattr(thing, key)) == 1]

    def summary(self) -> str:
        """Every thing with its row and column, in reading order; what a short reasoning writes down."""
        return ", ".join(f"{thing.name} {thing.row + 1}/{thing.column + 1}" for thing in self.things)

    def with_things(self, things: list[Thing]) -> "Scene":
        """The same picture with other things in it."""
        return replace(self, things=tuple(sorted(things, key=lambda thing: (thing.row, thing.column))))


def place_name(column: int, row: int) -> str:
    """A cell's place in words; counted from the top left, so that it does not depend on what comes later."""
    return f"row {row + 1}, column {column + 1}"


def random_scale(scene: Scene, rng: Random) -> float:
    """Most pictures are drawn at the size that the model sees; a few of the largest are files of twice that."""
    return 2.0 if (scene.columns, scene.rows) == (3, 3) and rng.random() < 0.3 else 1.0


def random_scene(
    rng: Random,
    *,
    digits: bool = False,
    most: int = 4,
    least: int = 1,
    kinds: Sequence[str] = SHAPES,
    colours: Sequence[str] = tuple(COLOURS),
    alike: bool = True,
    cells: int = 1,
) -> Scene:
    """A scene with `least` to `most` things.

    Args:
        digits: Digits in place of shapes.
        kinds, colours: To choose from.
        alike: Whether two things may be of one kind.
        cells: The grid has at least so many.
    """
    grids = [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (2, 2), (2, 2), (3, 2), (3, 2), (2, 3), (3, 3)]
    columns, rows = rng.choice([grid for grid in grids if grid[0] * grid[1] >= max(cells, least)])
    if digits:
        kinds = DIGITS
    places = [(column, row) for row in range(rows) for column in range(columns)]
    count = rng.randint(least, min(most, len(places)))
    chosen = rng.choices(kinds, k=count) if alike else rng.sample(kinds, count)
    things = [
        Thing(kind, rng.choice(colours), rng.choice(SIZES), column, row)
        for kind, (column, row) in zip(chosen, rng.sample(places, count), strict=True)
    ]
    ground = rng.choice(GROUNDS)
    scene = Scene(columns, rows, (rng.randint(60, 66), rng.randint(60, 66)), ground, ())
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
        share = 0.44 if thing.size == "large" else 0.34 if thing.kind.isdigit() else 0.24
        radius = min(width, height) * share * rng.uniform(0.92, 1.04)
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
