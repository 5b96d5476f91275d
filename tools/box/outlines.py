"""Outlines of shapes in many forms: polygons around the origin, about two units wide or high."""

import math
from random import Random

Point = tuple[float, float]
Outline = list[Point]

SHAPES = (
    "circle", "square", "triangle", "star", "cross", "diamond", "rectangle", "oval", "heart", "arrow", "line",
)  # fmt: skip
DIRECTIONS = ("up", "right", "down", "left")


def outline(kind: str, rng: Random, direction: str = "") -> Outline:
    """One of the forms that a shape is drawn in, turned as people turn it.

    Args:
        direction: Where an arrow points.
    """
    points = _FORMS[kind](rng)
    if kind == "arrow":
        return turned(points, 90 * DIRECTIONS.index(direction) + rng.uniform(-8, 8) * (rng.random() < 0.3))
    return points


def turned(points: Outline, degrees: float) -> Outline:
    """Clockwise, as the picture's vertical axis points down."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in points]


def ellipse(width: float, height: float, corners: int = 48) -> Outline:
    """Half axes of one and less."""
    angles = [2 * math.pi * corner / corners for corner in range(corners)]
    return [(width * math.cos(angle), height * math.sin(angle)) for angle in angles]


def _circle(rng: Random) -> Outline:
    return ellipse(1.0, 1.0)


def _oval(rng: Random) -> Outline:
    points = ellipse(1.0, rng.uniform(0.42, 0.74))
    return turned(points, rng.choice([0, 0, 0, 90, 90, rng.uniform(0, 180)]))


def _box(width: float, height: float) -> Outline:
    return [(-width, -height), (width, -height), (width, height), (-width, height)]


def _square(rng: Random) -> Outline:
    return turned(_box(1.0, 1.0), rng.uniform(-14, 14) if rng.random() < 0.25 else 0)


def _rectangle(rng: Random) -> Outline:
    points = _box(1.0, rng.uniform(0.3, 0.7))
    return turned(points, rng.choice([0, 0, 0, 0, 90, 90, rng.uniform(-15, 15)]))


def _triangle(rng: Random) -> Outline:
    form = rng.random()
    if form < 0.35:
        points = [(0.0, -0.87), (1.0, 0.87), (-1.0, 0.87)]
    elif form < 0.6:
        width, height = rng.uniform(0.6, 1.0), rng.uniform(0.6, 1.0)
        points = [(rng.uniform(-0.4, 0.4) * width, -height), (width, height), (-width, height)]
    elif form < 0.75:
        points = [(-1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    else:
        points = ellipse(1.0, 1.0, 3)
    return turned(points, rng.choice([0, 0, 0, 0, 180, 90, 270, rng.uniform(0, 360)]))


def _star(rng: Random) -> Outline:
    points = 5 if rng.random() < 0.85 else rng.choice([4, 6, 8])
    inner = rng.uniform(0.36, 0.5) if points <= 5 else rng.uniform(0.45, 0.6)
    if points == 4:
        inner = rng.uniform(0.25, 0.4)
    ring = [
        ((inner if corner % 2 else 1.0) * math.sin(math.pi * corner / points),
         -(inner if corner % 2 else 1.0) * math.cos(math.pi * corner / points))
        for corner in range(2 * points)
    ]  # fmt: skip
    return turned(ring, rng.uniform(0, 360) if rng.random() < 0.3 else 0)


def _cross(rng: Random) -> Outline:
    bar = rng.uniform(0.16, 0.4)
    points = [
        (-bar, -1.0), (bar, -1.0), (bar, -bar), (1.0, -bar), (1.0, bar), (bar, bar),
        (bar, 1.0), (-bar, 1.0), (-bar, bar), (-1.0, bar), (-1.0, -bar), (-bar, -bar),
    ]  # fmt: skip
    return turned(points, rng.choice([0, 0, 0, 45, 45, rng.uniform(-12, 12)]))


def _diamond(rng: Random) -> Outline:
    width = 1.0 if rng.random() < 0.4 else rng.uniform(0.55, 0.95)
    points = [(0.0, -1.0), (width, 0.0), (0.0, 1.0), (-width, 0.0)]
    return turned(points, 90) if rng.random() < 0.2 else points


def _heart(rng: Random) -> Outline:
    points = []
    if rng.random() < 0.5:
        for corner in range(48):
            t = 2 * math.pi * corner / 48
            y = -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16
            points.append((math.sin(t) ** 3, y))
    else:
        # Two half circles over a triangle, as drawing libraries have one put it together.
        sink = rng.uniform(0.95, 1.2)
        points = [(-0.5 - 0.5 * math.cos(math.pi * n / 16), -0.4 - 0.5 * math.sin(math.pi * n / 16)) for n in range(17)]
        points += [(0.5 - 0.5 * math.cos(math.pi * n / 16), -0.4 - 0.5 * math.sin(math.pi * n / 16)) for n in range(17)]
        points.append((0.0, sink))
    return points


def _arrow(rng: Random) -> Outline:
    head, shaft = rng.uniform(0.45, 0.8), rng.uniform(0.1, 0.28)
    neck = rng.uniform(-0.4, 0.1)
    return [(0.0, -1.0), (head, neck), (shaft, neck), (shaft, 1.0), (-shaft, 1.0), (-shaft, neck), (-head, neck)]


def _line(rng: Random) -> Outline:
    points = _box(1.0, rng.uniform(0.02, 0.08))
    return turned(points, rng.choice([0, 90, 45, 135, rng.uniform(0, 180)]))


def wobbly(points: Outline, rng: Random, amount: float = 0.04) -> Outline:
    """As a hand draws it: edges bend a little, corners do not quite meet their places."""
    steps = max(1, round(32 / len(points)))
    phase, waves = rng.uniform(0, 6.28), rng.choice([2, 3, 4])
    found = []
    for number, (x, y) in enumerate(points):
        next_x, next_y = points[(number + 1) % len(points)]
        for step in range(steps):
            share = step / steps
            angle = phase + waves * 2 * math.pi * (number + share) / len(points)
            found.append((
                x + (next_x - x) * share + amount * math.sin(angle) + rng.uniform(-0.3, 0.3) * amount,
                y + (next_y - y) * share + amount * math.cos(1.3 * angle) + rng.uniform(-0.3, 0.3) * amount,
            ))  # fmt: skip
    return found


def bounds(points: Outline) -> tuple[float, float, float, float]:
    """Left, top, right, bottom."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)


_FORMS = {
    "circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "cross": _cross, "diamond": _diamond,
    "rectangle": _rectangle, "oval": _oval, "heart": _heart, "arrow": _arrow, "line": _line,
}  # fmt: skip
