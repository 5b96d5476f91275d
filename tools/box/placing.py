"""Where things stand: canvases of all sizes, one thing anywhere, several in rows, columns, grids or freely."""

import math
from collections.abc import Callable, Sequence
from random import Random

from tools.box.outlines import SHAPES
from tools.box.palette import COLOURS, Rgb, contrast, shade
from tools.box.scenes import NUMBER, Ground, Scene, Style, Thing, make_thing

# A canvas as it is often chosen; the others are of any size.
USUAL = (
    (64, 64), (96, 96), (100, 100), (128, 128), (128, 64), (200, 200), (200, 100), (224, 224), (256, 256), (300, 200),
    (320, 240), (400, 300), (400, 400), (480, 320), (512, 512), (240, 160), (160, 120), (300, 300), (32, 32), (48, 48),
)  # fmt: skip
LARGE = ((640, 480), (800, 600), (1024, 768), (1600, 1200), (1200, 1600), (1024, 1024), (1280, 720))
_FAINT: tuple[Rgb, ...] = ((255, 255, 255), (245, 245, 245), (238, 238, 238), (250, 244, 230), (225, 236, 245))
CONTRAST = 115.0

# What is put on the canvas: kinds, colours and, for a number, its digits ("" for any).
Wanted = tuple[str, str, str]


def random_canvas(rng: Random) -> tuple[int, int]:
    """Width and height."""
    chance = rng.random()
    if chance < 0.3:
        return rng.choice(USUAL)
    if chance < 0.308:
        return rng.choice(LARGE)
    side = math.exp(rng.uniform(math.log(36), math.log(420)))
    aspect = math.exp(rng.choice([0, rng.uniform(-0.7, 0.7), rng.uniform(-1.4, 1.4)]))
    return max(32, round(side * aspect**0.5)), max(32, round(side / aspect**0.5))


def random_ground(rng: Random) -> Ground:
    """White most often, then another pale one or black, a colour, or a pattern."""
    chance = rng.random()
    if chance < 0.4:
        return Ground("white", ((255, 255, 255),))
    if chance < 0.5:
        return Ground("black", (shade("black", rng),))
    if chance < 0.58:
        return Ground("", (rng.choice(_FAINT[1:]),))
    if chance < 0.72:
        name = rng.choice(COLOURS)
        return Ground(name, (shade(name, rng),))
    first = rng.choice(_FAINT) if rng.random() < 0.5 else _any(rng)
    pattern = rng.choice(["gradient", "gradient", "stripes", "checks", "dots", "grain", "clouds", "paper"])
    reach = 110 if pattern == "gradient" else 45
    second = tuple(min(255, max(0, part + rng.randint(-reach, reach))) for part in first)
    return Ground("", (first, (second[0], second[1], second[2])), pattern)


def _any(rng: Random) -> Rgb:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def random_style(rng: Random) -> Style:
    """Clean most often."""
    return Style(
        soft=rng.random() < 0.65,
        noise=rng.uniform(2, 14) if rng.random() < 0.12 else 0.0,
        blur=rng.uniform(0.4, 1.2) if rng.random() < 0.06 else 0.0,
        jpeg=rng.randint(35, 92) if rng.random() < 0.15 else 0,
        seed=rng.randrange(1 << 30),
    )


Slot = tuple[float, float, float, float]


def _slots(count: int, width: int, height: int, rng: Random) -> list[Slot] | None:
    """Middle and size of the room that each thing gets; None where things stand freely."""
    if count == 1:
        return [(width / 2, height / 2, width, height)]
    chance = rng.random()
    if count == 2 and chance < 0.12:
        corners = [(0.25, 0.25), (0.75, 0.75)] if rng.random() < 0.5 else [(0.75, 0.25), (0.25, 0.75)]
        return [(x * width, y * height, width / 2, height / 2) for x, y in corners]
    if chance < (0.7 if count <= 3 else 0.25):
        row = rng.random() < (0.6 if width >= height else 0.4)
        if (width / count if row else height / count) < 0.2 * min(width, height):
            return None
        if row:
            return [((n + 0.5) * width / count, height / 2, width / count, height) for n in range(count)]
        return [(width / 2, (n + 0.5) * height / count, width, height / count) for n in range(count)]
    if chance < 0.85:
        columns = rng.choice([2, 3] if count > 2 else [2])
        rows = max(2, math.ceil(count / columns))
        cells = [(column, row) for row in range(rows) for column in range(columns)]
        return [((column + 0.5) * width / columns, (row + 0.5) * height / rows, width / columns, height / rows)
                for column, row in rng.sample(cells, count)]  # fmt: skip
    return None


def place(
    things: Sequence[Wanted], width: int, height: int, ground: Ground, rng: Random, *, smallest: float = 0.125
) -> list[Thing] | None:
    """Things on a canvas, or None if they did not find room."""
    short = min(width, height)
    slots = _slots(len(things), width, height, rng)
    alike = rng.random() < 0.5
    share = rng.uniform(0.45, 0.95)
    found: list[Thing] = []
    for number, (kind, colour, digits) in enumerate(things):
        rgb = seen_against(colour, ground, rng)
        if rgb is None:
            return None
        x, y, wide, high = slots[number] if slots else (width / 2, height / 2, width, height)
        most = 0.96 * min(wide, high) if slots else 0.45 * short
        least = max(smallest * short, 6.0 if kind == NUMBER else 4.0)
        if least > most:
            return None
        if not alike:
            share = rng.uniform(0.3, 0.96)
        size = max(least, share * most)
        if len(things) == 1:
            size = math.exp(rng.uniform(math.log(least), math.log(most)))
            if rng.random() < 0.4:
                size = rng.uniform(0.4, 0.95) * short
        thing = make_thing(kind, colour, size, rng, rgb=rgb, digits=digits, widest=0.95 * wide, room=short)
        placed = _put(thing, x, y, wide, high, found, 0.03 * short, rng, centred=rng.random() < 0.35)
        if placed is None:
            return None
        found.append(placed)
    return found


def _put(
    thing: Thing, x: float, y: float, wide: float, high: float, others: Sequence[Thing], apart: float, rng: Random,
    *, centred: bool,
) -> Thing | None:  # fmt: skip
    """A thing somewhere in its room."""
    for attempt in range(12):
        free_x, free_y = max(0.0, wide - thing.width), max(0.0, high - thing.height)
        reach = 0.0 if centred and attempt == 0 else 0.49
        placed = thing.at(x + rng.uniform(-reach, reach) * free_x, y + rng.uniform(-reach, reach) * free_y)
        if not any(placed.overlaps(other, apart) for other in others):
            return placed
    return None


def seen_against(colour: str, ground: Ground, rng: Random) -> Rgb | None:
    """A shade of this colour that stands out from the ground, if there is one."""
    first, last = ground.rgbs[0], ground.rgbs[-1]
    between = ((first[0] + last[0]) // 2, (first[1] + last[1]) // 2, (first[2] + last[2]) // 2)
    behind = (first, last, between) if len(ground.rgbs) > 1 else (first,)
    for _ in range(6):
        rgb = shade(colour, rng)
        if all(contrast(rgb, other) > CONTRAST for other in behind):
            return rgb
    return None


def random_wanted(
    count: int,
    rng: Random,
    *,
    kinds: Sequence[str] = SHAPES,
    colours: Sequence[str] = COLOURS,
    numbers: float = 0.0,
    alike: bool = True,
) -> list[Wanted]:
    """Kinds and colours of so many things.

    Args:
        numbers: Share of numbers.
        alike: Whether two things may be of one kind.
    """
    chosen = rng.choices(kinds, k=count) if alike else rng.sample(list(kinds), count)
    if alike and count > 1 and rng.random() < 0.25:
        # Questions such as "How many circles?" need pictures of several.
        chosen = rng.choices(rng.sample(list(kinds), min(len(kinds), 2)), k=count)
    if numbers:
        chosen = [NUMBER if rng.random() < numbers else kind for kind in chosen]
    few = rng.sample(list(colours), min(len(colours), 2)) if rng.random() < 0.2 else colours
    return [(kind, rng.choice(few), "") for kind in chosen]


def random_scene(rng: Random, want: Callable[[Random], Sequence[Wanted]], *, frames: int = 0) -> Scene:
    """A scene of the wanted things, drawn anew until they fit, stand out and are in plain order.

    Args:
        want: Gives things, none for a picture of nothing.
        frames: Of a clip, whose frames are smaller the more there are.
    """
    while True:
        width, height = random_canvas(rng)
        ground, style = random_ground(rng), random_style(rng)
        for _ in range(3):
            things = place(want(rng), width, height, ground, rng, smallest=0.22 if frames else 0.125)
            if things is not None:
                scene = Scene(width, height, ground, (), style, frames).with_things(things)
                if scene.is_clear():
                    return scene


def nothing(rng: Random) -> Scene:
    """A picture without shapes: blank, a pattern, or what might be a photograph of nothing."""
    width, height = random_canvas(rng)
    ground = random_ground(rng)
    if rng.random() < 0.4:
        ground = Ground("", (_any(rng), _any(rng)), rng.choice(["photo", "photo", "clouds", "grain", "gradient"]))
    return Scene(width, height, ground, (), random_style(rng))
