"""What is in a picture, before it is drawn: things, their places, and a background that they stand out from."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from tools.judge.expectation import Pair
from tools.judge.words import COLOURS, SHAPES

RGB = tuple[int, int, int]

# Shades that nobody would call by another colour's name.
SHADES: dict[str, tuple[int, ...]] = {
    "red": (0xD62828, 0xE10600, 0xC1121F, 0xFF0000, 0xEE2222, 0xB80000),
    "orange": (0xFF8C00, 0xF77F00, 0xFF7A1A, 0xFB8500, 0xFF931E),
    "yellow": (0xFFD500, 0xFFEA00, 0xF9E000, 0xFFEE32, 0xFFE135),
    "green": (0x008000, 0x2A9D3A, 0x38B000, 0x1B7F3B, 0x00A000, 0x4CAF50, 0x0B6E2F),
    "blue": (0x0000FF, 0x1D4ED8, 0x1E6FD9, 0x0047AB, 0x2563EB, 0x3A86FF, 0x0A3D91),
    "purple": (0x800080, 0x6A0DAD, 0x7B2CBF, 0x8E24AA, 0x5A189A),
    "pink": (0xFF69B4, 0xFF8FAB, 0xF78FB3, 0xFF9ECB, 0xFF80C0),
    "black": (0x000000, 0x111111, 0x1A1A1A),
    "white": (0xFFFFFF, 0xFDFDFD, 0xFAFAFA),
    "grey": (0x808080, 0x8C8C8C, 0x9E9E9E, 0x777777),
    "brown": (0x8B4513, 0x7B4A21, 0x6F4518, 0x5C3A1E, 0x80522D),
}
STYLES = ("flat", "flat", "edged", "shaded", "outline", "outline", "marker", "crayon", "pencil", "shadow")
HAND_DRAWN = ("marker", "crayon", "pencil")
OUTLINED = ("outline", "pencil")
# Anything from an icon to a photograph.
CANVASES = (
    (32, 32), (48, 48), (64, 64), (72, 96), (100, 100), (128, 128), (150, 100), (200, 200), (224, 224), (256, 256),
    (300, 200), (320, 240), (360, 480), (400, 400), (480, 270), (512, 512), (600, 400), (640, 480), (700, 900),
    (800, 600), (1024, 768), (1000, 1000), (1280, 720), (1200, 1200), (1600, 1200), (900, 500),
)  # fmt: skip
# Longer side over shorter side.
ASPECTS = {"rectangle": (1.55, 2.4), "oval": (1.5, 2.2), "arrow": (1.2, 1.9), "diamond": (1.2, 1.7)}
SMALLEST = 14  # pixels, of a thing's shorter side


@dataclass(frozen=True)
class Thing:
    """One shape: where it is and how it is drawn.

    Args:
        x, y: Its middle, in pixels.
        width, height: In pixels, before it is tilted.
        tilt: Degrees, clockwise.
        variant: From 0 to 1, which of the forms of the shape it is.
    """

    colour: str
    shape: str
    rgb: RGB
    x: float
    y: float
    width: float
    height: float
    tilt: float
    style: str
    variant: float

    @property
    def pair(self) -> Pair:
        return self.colour, self.shape

    @property
    def reach(self) -> float:
        """Radius of a circle that it stays inside, nearly."""
        return 0.55 * max(self.width, self.height)


@dataclass(frozen=True)
class Background:
    """Args: kind: See `draw`; colours: those that it is made of; name: what a person would call it, if anything."""

    kind: str
    colours: tuple[RGB, ...]
    name: str | None = None


@dataclass(frozen=True)
class Scene:
    """A picture. Args: quality: of the JPEG that it has been, or None; seed: of whatever is irregular in it."""

    width: int
    height: int
    things: tuple[Thing, ...]
    background: Background
    quality: int | None
    seed: int

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return tuple(thing.pair for thing in self.things)


def rgb_of(value: int) -> RGB:
    return value >> 16, value >> 8 & 255, value & 255


def shade(rng: Random, colour: str) -> RGB:
    """One of a colour's shades, a little off."""
    off = 0 if colour in ("black", "white", "grey") else 6
    red, green, blue = (min(255, max(0, c + rng.randint(-off, off))) for c in rgb_of(rng.choice(SHADES[colour])))
    return red, green, blue


def lab(colour: RGB) -> tuple[float, float, float]:
    """CIE L*a*b*, in which distances are those that a person sees."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    rows = ((0.4124, 0.3576, 0.1805, 0.9505), (0.2126, 0.7152, 0.0722, 1.0), (0.0193, 0.1192, 0.9505, 1.089))
    x, y, z = (sum(a * b for a, b in zip(row, linear, strict=False)) / row[3] for row in rows)
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def stands_out(one: RGB, other: RGB) -> bool:
    """Whether a thing of one colour is plain to see on the other."""
    first, second = lab(one), lab(other)
    apart, lighter = math.dist(first, second), abs(first[0] - second[0])
    return lighter >= 32 or (apart >= 45 and lighter >= 24) or (apart >= 80 and lighter >= 7)


def mixed(one: RGB, other: RGB, part: float) -> RGB:
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(one, other, strict=True))
    return red, green, blue


def background(rng: Random, things: Sequence[RGB], avoid: Sequence[str] = ()) -> Background | None:
    """A background that all these colours stand out from, called by none of the names to avoid, if one is found."""
    for attempt in range(300):
        made = _any_background(rng) if attempt < 200 else rng.choice(PLAIN)
        if made.name not in avoid and all(stands_out(thing, part) for thing in things for part in made.colours):
            return made
    return None


PLAIN = (
    Background("plain", ((255, 255, 255),), "white"), Background("plain", ((0, 0, 0),), "black"),
    Background("plain", ((217, 210, 197),)), Background("plain", ((48, 48, 48),)),
    Background("plain", ((168, 200, 232),)), Background("plain", ((107, 107, 107),), "grey"),
)  # fmt: skip


def _any_background(rng: Random) -> Background:
    paper = (255 - rng.randint(0, 6), 254 - rng.randint(0, 10), 250 - rng.randint(0, 22))
    roll = rng.random()
    if roll < 0.3:
        return Background("plain", ((255, 255, 255),), "white")
    if roll < 0.38:
        return Background("plain", ((0, 0, 0),), "black")
    if roll < 0.6:
        return Background(rng.choice(("paper", "lined", "squared", "vignette")), (paper,), "white")
    name = rng.choice(COLOURS)
    colour = shade(rng, name)
    if roll < 0.74:
        return Background("plain", (colour,), name)
    pale = mixed(colour, (255, 255, 255), rng.uniform(0.6, 0.8))
    if roll < 0.86:
        return Background(rng.choice(("gradient", "glow")), (pale, mixed(pale, (255, 255, 255), 0.6)), name)
    dark = mixed(pale, (0, 0, 0), 0.07)
    return Background(rng.choice(("stripes", "checks", "noise", "clouds")), (pale, dark), name)


def canvas(rng: Random, count: int) -> tuple[int, int]:
    """A size in pixels that so many things can be seen in."""
    least = 32 if count == 1 else 100 if count == 2 else 128 if count == 3 else 200
    return rng.choice([size for size in CANVASES if min(size) >= least])


def thing(rng: Random, colour: str, shape: str, size: float, style: str | None = None) -> Thing:
    """A thing somewhere in the corner, its longer side so many pixels."""
    ratio = rng.uniform(*ASPECTS[shape]) if shape in ASPECTS else 1.0
    width, height = (size, size / ratio) if rng.random() < 0.5 else (size / ratio, size)
    if shape == "arrow":
        width, height = size, size / ratio
    elif shape == "diamond":
        width, height = size / ratio, size
    tilt = {"circle": 0.0, "arrow": rng.choice((0, 90, 180, 270)) + rng.uniform(-20, 20)}.get(shape)
    if tilt is None:
        most = {"star": 36, "triangle": 180, "oval": 40, "rectangle": 25, "heart": 18}.get(shape, 9)
        tilt = rng.uniform(-most, most) if rng.random() < 0.6 else 0.0
    style = style or rng.choice(STYLES)
    if size < 40 and style not in ("flat", "edged"):
        style = "flat"
    if colour == "white" and style == "crayon":
        style = "marker"
    return Thing(colour, shape, shade(rng, colour), 0, 0, width, height, tilt, style, rng.random())


def spread(
    rng: Random, width: int, height: int, things: Sequence[Thing], fits: Callable[[list[Thing]], bool]
) -> list[Thing]:
    """The things at places where they neither touch each other nor leave the canvas, and that `fits` accepts.

    Raises: ValueError: There is no room; not for as few and small things as `sized` makes.
    """
    gap = 0.03 * min(width, height)
    for attempt in range(4000):
        # After a while they get smaller, but stay plain to see.
        factor = 1 - 0.25 * min(1, attempt / 2000)
        placed: list[Thing] = []
        for one in things:
            one = replace(one, width=one.width * factor, height=one.height * factor)
            room = one.reach + gap
            if 2 * room > min(width, height):
                room = min(width, height) / 2
            x, y = rng.uniform(room, width - room), rng.uniform(room, height - room)
            one = replace(one, x=x, y=y)
            if any(math.dist((x, y), (other.x, other.y)) < one.reach + other.reach + gap for other in placed):
                break
            placed.append(one)
        if len(placed) == len(things) and fits(placed):
            return placed
    raise ValueError(f"no room for {len(things)} things on {width} x {height}")


def sizes(rng: Random, width: int, height: int, count: int) -> list[float]:
    """Longer sides of so many things, in pixels."""
    short = min(width, height)
    least = max(short / 7, 1.6 * SMALLEST)
    most = max(least, short * {1: 0.85, 2: 0.42, 3: 0.34, 4: 0.3}.get(count, 0.25))
    return [rng.uniform(least, most) for _ in range(count)]


def scene(
    rng: Random, pairs: Sequence[Pair], *, avoid: Sequence[str] = (), lengths: Sequence[float] | None = None,
    fits: Callable[[list[Thing]], bool] = bool, size: tuple[int, int] | None = None,
) -> Scene:  # fmt: skip
    """A picture of things of these colours and shapes.

    Args:
        avoid: Colours that the background may not be called by.
        lengths: Longer sides, as parts of the canvas's shorter side; None for any.
        fits: Whether the places of the things are as the question needs them.
    """
    width, height = size or canvas(rng, len(pairs))
    pixels = [part * min(width, height) for part in lengths] if lengths else sizes(rng, width, height, len(pairs))
    # One hand draws a picture: all things in one style, or each in any.
    style = rng.choice(STYLES) if rng.random() < 0.6 else None
    for _ in range(100):
        things = [thing(rng, *pair, length, style) for pair, length in zip(pairs, pixels, strict=True)]
        if ground := background(rng, [one.rgb for one in things], avoid):
            break
    else:
        raise ValueError(f"no background for {pairs}, avoiding {avoid}")
    placed = spread(rng, width, height, things, fits)
    quality = rng.randint(30, 85) if rng.random() < 0.4 else None
    return Scene(width, height, tuple(placed), ground, quality, rng.getrandbits(31))


def any_pairs(rng: Random, count: int, *, distinct: str = "pair") -> list[Pair]:
    """Colours and shapes that some background suits. Args: distinct: "pair", "shape", "colour" or "both" differ."""
    # Most drawings are on white paper.
    palette = [name for name in COLOURS if name != "white"] if count > 2 and rng.random() < 0.7 else COLOURS
    while True:
        pairs = [(rng.choice(palette), rng.choice(SHAPES)) for _ in range(count)]
        colours, shapes = {colour for colour, _ in pairs}, {shape for _, shape in pairs}
        if distinct in ("shape", "both") and len(shapes) < count:
            continue
        if distinct in ("colour", "both") and len(colours) < count:
            continue
        if distinct == "pair" and len(set(pairs)) < count:
            continue
        if suits(colours):
            return pairs


def suits(colours: set[str], avoid: Sequence[str] = ()) -> bool:
    """Whether things of these colours can be seen on a background with none of their names, nor those to avoid."""
    return any(
        ground.name not in {*colours, *avoid}
        and all(any(seen(value, ground) for value in SHADES[name]) for name in colours)
        for ground in PLAIN
    )


def seen(shade_value: int, ground: Background) -> bool:
    return stands_out(rgb_of(shade_value), ground.colours[0])
