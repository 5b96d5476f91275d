"""Pictures of numbers: printed in many fonts, or written by hand."""

from dataclasses import dataclass
from functools import cache
from random import Random

import skia
from PIL import Image

from tools.judge import fonts
from tools.judge.draw import draw_background, finished, paint, shaky
from tools.judge.scene import CANVASES, RGB, Background, Scene, background, lab, shade
from tools.judge.words import COLOURS

# How a hand writes each digit: strokes through points, x to the right and y down, in a box of 1 x 1.6.
Stroke = tuple[tuple[float, float], ...]
DIGITS: dict[str, tuple[tuple[Stroke, ...], ...]] = {
    "0": ((((0.55, 0.0), (0.1, 0.25), (0.02, 0.9), (0.3, 1.55), (0.7, 1.5), (0.98, 0.9), (0.85, 0.2), (0.5, 0.0)),),),
    "1": (
        (((0.5, 0.0), (0.5, 1.6)),),
        (((0.2, 0.4), (0.58, 0.0), (0.58, 0.01), (0.55, 1.6)),),
        (((0.2, 0.4), (0.55, 0.0), (0.55, 0.01), (0.55, 1.6)), ((0.2, 1.6), (0.9, 1.6))),
    ),
    "2": (
        (((0.08, 0.4), (0.3, 0.03), (0.75, 0.03), (0.95, 0.4), (0.65, 0.95), (0.05, 1.58), (0.06, 1.6), (1.0, 1.57)),),
    ),
    "3": (
        (((0.1, 0.15), (0.5, 0.0), (0.9, 0.25), (0.75, 0.65), (0.4, 0.75), (0.41, 0.75), (0.9, 0.9), (0.95, 1.35),
          (0.5, 1.62), (0.05, 1.4)),),
        (((0.1, 0.02), (0.9, 0.0), (0.9, 0.01), (0.45, 0.62), (0.46, 0.63), (0.92, 0.85), (0.9, 1.4), (0.5, 1.6),
          (0.05, 1.45)),),
    ),
    "4": (
        (((0.6, 0.0), (0.02, 1.05), (0.03, 1.06), (1.0, 1.02)), ((0.72, 0.55), (0.7, 1.6))),
        (((0.15, 0.0), (0.1, 0.85), (0.12, 0.87), (0.98, 0.83)), ((0.8, 0.05), (0.76, 1.6))),
    ),
    "5": (
        (((0.9, 0.02), (0.2, 0.04), (0.19, 0.05), (0.14, 0.68), (0.15, 0.69), (0.6, 0.6), (0.97, 0.95), (0.9, 1.4),
          (0.5, 1.6), (0.05, 1.45)),),
    ),
    "6": (
        (((0.8, 0.02), (0.3, 0.45), (0.05, 1.05), (0.2, 1.5), (0.6, 1.6), (0.95, 1.3), (0.8, 0.92), (0.45, 0.85),
          (0.1, 1.1)),),
    ),
    "7": (
        (((0.05, 0.03), (0.95, 0.0), (0.95, 0.02), (0.6, 0.75), (0.4, 1.6)),),
        (((0.05, 0.03), (0.95, 0.0), (0.95, 0.02), (0.6, 0.75), (0.4, 1.6)), ((0.3, 0.8), (0.85, 0.76))),
    ),
    "8": (
        (((0.85, 0.2), (0.45, 0.0), (0.1, 0.3), (0.4, 0.68), (0.85, 1.0), (0.85, 1.45), (0.45, 1.6), (0.08, 1.35),
          (0.25, 0.95), (0.75, 0.62), (0.9, 0.3), (0.8, 0.12)),),
    ),
    "9": (
        (((0.9, 0.25), (0.5, 0.0), (0.1, 0.25), (0.15, 0.7), (0.55, 0.82), (0.88, 0.55), (0.92, 0.2), (0.91, 0.21),
          (0.88, 0.9), (0.75, 1.6)),),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Numeral:
    """A number in a picture. Args: font: a file's name, or None for strokes of a pen."""

    digits: str
    font: str | None
    scene: Scene
    rgb: RGB


@cache
def typeface(name: str) -> skia.Typeface:
    return skia.Typeface.MakeFromFile(str(fonts.files()[name]))


def readable(rgb: RGB, ground: Background) -> bool:
    return all(abs(lab(rgb)[0] - lab(part)[0]) >= 38 for part in ground.colours)


def numeral(rng: Random, digits: str, hand: str) -> Numeral:
    """Args: hand: "printed", "font" for a handwriting font, "pen" for strokes."""
    font = None if hand == "pen" else rng.choice(fonts.names(written=hand == "font"))
    least = {1: 32, 2: 48, 3: 64}.get(len(digits), 96)
    width, height = rng.choice([size for size in CANVASES if size[0] >= least and min(size) >= 32])
    while True:
        name = rng.choice(("black", "black", *COLOURS))
        rgb = shade(rng, name)
        ground = background(rng, [rgb])
        if ground and readable(rgb, ground):
            break
    quality = rng.randint(40, 85) if rng.random() < 0.4 else None
    return Numeral(digits, font, Scene(width, height, (), ground, quality, rng.getrandbits(31)), rgb)


def written(digits: str, rng: Random) -> tuple[skia.Path, float]:
    """The strokes of a number by one hand, and the pen's width, where a digit is about 160 high."""
    path = skia.Path()
    left, slant = 0.0, rng.uniform(-0.08, 0.22)
    wide = rng.uniform(0.75, 1.0)
    for digit in digits:
        size = rng.uniform(92, 108)
        drop = rng.uniform(-7, 7)
        for stroke in rng.choice(DIGITS[digit]):
            points = [
                (left + size * wide * (x + rng.uniform(-0.025, 0.025)) - slant * size * y,
                 drop + size * (y + rng.uniform(-0.025, 0.025)))
                for x, y in stroke
            ]  # fmt: skip
            smooth(path, points)
        left += size * wide * (0.75 if digit == "1" else 1.0) + rng.uniform(28, 48)
    return path, rng.uniform(9, 20)


def smooth(path: skia.Path, points: list[tuple[float, float]]) -> None:
    """A curve through points (Catmull and Rom's); two points that nearly coincide make a corner."""
    path.moveTo(*points[0])
    ends = [points[0], *points, points[-1]]
    for before, start, end, after in zip(ends, ends[1:], ends[2:], ends[3:], strict=False):
        reach = 0.0 if abs(start[0] - end[0]) + abs(start[1] - end[1]) < 12 else 1 / 6
        first = (start[0] + (end[0] - before[0]) * reach, start[1] + (end[1] - before[1]) * reach)
        second = (end[0] - (after[0] - start[0]) * reach, end[1] - (after[1] - start[1]) * reach)
        path.cubicTo(*first, *second, *end)


def printed(digits: str, name: str) -> skia.Path:
    """The outlines of a number in a font, 160 pixels to the em."""
    font, path, left = skia.Font(typeface(name), 160), skia.Path(), 0.0
    for glyph in font.textToGlyphs(digits):
        part = font.getPath(glyph)
        part.offset(left, 0)
        path.addPath(part)
        left += font.getWidths([glyph])[0]
    return path


def place(canvas: skia.Canvas, scene: Scene, box: skia.Rect, rng: Random) -> float:
    """Turn to where the number goes, legible on small canvases too; returns how many times larger it gets."""
    room = 0.9 * min(scene.width / box.width(), scene.height / box.height())
    least = min(room, max(0.22 * min(scene.width, scene.height), 20) / box.height())
    scale = rng.uniform(least, room) if rng.random() < 0.7 else room * 0.8
    tilt = rng.uniform(-6, 6) if rng.random() < 0.4 and scale < room * 0.75 else 0.0
    middle = []
    for length, reach in ((scene.width, box.width() * scale / 2), (scene.height, box.height() * scale / 2)):
        edge = min(length / 2, reach + 0.03 * length + (0.06 * box.width() * scale if tilt else 0))
        middle.append(rng.uniform(edge, length - edge))
    canvas.translate(*middle)
    canvas.rotate(tilt)
    canvas.scale(scale, scale)
    canvas.translate(-box.centerX(), -box.centerY())
    return scale


def picture(one: Numeral) -> Image.Image:
    """The number somewhere on its background, as an RGB image."""
    rng = Random(one.scene.seed)
    surface = skia.Surface(one.scene.width, one.scene.height)
    canvas = surface.getCanvas()
    draw_background(canvas, one.scene)
    path, pen = (printed(one.digits, one.font), 0.0) if one.font else written(one.digits, rng)
    box = path.computeTightBounds()
    box.outset(pen / 2, pen / 2)
    scale = place(canvas, one.scene, box, rng)
    ink = paint(one.rgb)
    if not one.font:
        ink = paint(one.rgb, width=max(pen, 1.6 / scale))
        ink.setPathEffect(shaky(110, rng, 0.008))
    canvas.drawPath(path, ink)
    return finished(surface, one.scene.quality)
