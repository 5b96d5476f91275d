"""The outlines of the shapes, around the origin, in the forms that people draw."""

import math

import skia

from tools.judge.scene import Thing

Points = list[tuple[float, float]]


def polygon(points: Points) -> skia.Path:
    path = skia.Path()
    path.moveTo(*points[0])
    for point in points[1:]:
        path.lineTo(*point)
    path.close()
    return path


def outline(one: Thing) -> skia.Path:
    """The thing's outline, its box around the origin, not tilted."""
    half_width, half_height = one.width / 2, one.height / 2
    box = skia.Rect.MakeLTRB(-half_width, -half_height, half_width, half_height)
    if one.shape in ("circle", "oval"):
        return skia.Path.Oval(box)
    if one.shape in ("square", "rectangle"):
        # Some people round the corners.
        radius = 0.12 * min(one.width, one.height) if one.variant < 0.2 else 0
        return skia.Path.RRect(skia.RRect.MakeRectXY(box, radius, radius))
    if one.shape == "heart":
        return heart(half_width, half_height)
    points = {"triangle": triangle, "star": star, "cross": cross, "diamond": diamond, "arrow": arrow}[one.shape]
    return polygon([(x * half_width, y * half_height) for x, y in points(one.variant)])


def triangle(variant: float) -> Points:
    """Equal sides, a right angle, or anything between."""
    if variant < 0.6:
        return [(0, -0.87), (1, 0.87), (-1, 0.87)]
    if variant < 0.75:
        return [(-1, -1), (1, 1), (-1, 1)]
    return [((variant - 0.87) * 6, -1), (1, 0.9), (-1, 0.9)]


def star(variant: float) -> Points:
    """Five points, seldom six; slim or plump."""
    count = 6 if variant < 0.1 else 5
    inner = 0.36 + 0.15 * (variant if count == 5 else 1)
    turns = [math.pi * step / count - math.pi / 2 for step in range(2 * count)]
    return [
        (math.cos(turn) * (inner if step % 2 else 1), math.sin(turn) * (inner if step % 2 else 1))
        for step, turn in enumerate(turns)
    ]


def cross(variant: float) -> Points:
    """Arms of the same length, or the longer one below; thin or thick."""
    arm = 0.2 + 0.15 * ((variant * 7) % 1)
    middle, wide = (-0.3, 0.75) if variant < 0.3 else (0.0, 1.0)
    top, bottom = middle - arm, middle + arm
    return [
        (-arm, -1), (arm, -1), (arm, top), (wide, top), (wide, bottom), (arm, bottom),
        (arm, 1), (-arm, 1), (-arm, bottom), (-wide, bottom), (-wide, top), (-arm, top),
    ]  # fmt: skip


def diamond(variant: float) -> Points:
    return [(0, -1), (1, 0), (0, 1), (-1, 0)]


def arrow(variant: float) -> Points:
    """A shaft and a head, pointing to the right."""
    neck, shaft = 0.05 + 0.35 * variant, 0.28 + 0.2 * ((variant * 5) % 1)
    return [(-1, -shaft), (neck, -shaft), (neck, -1), (1, 0), (neck, 1), (neck, shaft), (-1, shaft)]


def heart(half_width: float, half_height: float) -> skia.Path:
    path = skia.Path()
    path.moveTo(0, half_height)
    for side in (-1, 1):
        if side == 1:
            path.moveTo(0, half_height)
        path.cubicTo(
            side * 0.55 * half_width,
            0.45 * half_height,
            side * half_width,
            0.1 * half_height,
            side * half_width,
            -0.42 * half_height,
        )
        path.cubicTo(
            side * half_width, -1.15 * half_height, side * 0.12 * half_width, -1.1 * half_height, 0, -0.5 * half_height
        )
    return path
