"""Numbers as they are printed and as a hand writes them: masks with the places of their digits."""

import math
import os
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageFont

from tools.box.outlines import Point, bounds, ellipse

LIST = Path(__file__).parent / "fonts.txt"
FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts")


@cache
def fonts() -> tuple[str, ...]:
    """Paths of the listed fonts that are here; $BOX_FONTS is looked through first.

    Evaluations and tests do with what there is, if need be with Pillow's own font; training says what is missing.
    """
    here: dict[str, str] = {}
    for folder in (os.environ.get("BOX_FONTS", ""), *FOLDERS):
        if folder:
            for path in sorted(Path(folder).rglob("*.[ot]tf")):
                here.setdefault(path.name, str(path))
    return tuple(here[name] for name in listed() if name in here)


def listed() -> list[str]:
    """Names of all font files that the model in the package was trained on."""
    return [line.split()[1] for line in LIST.read_text().splitlines() if line and not line.startswith("#")]


@lru_cache(2000)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    if path:
        return ImageFont.truetype(path, size)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


@dataclass(frozen=True)
class Mask:
    """A number in white on black, cut to its ink.

    Args:
        centres: Of its digits, in pixels of the image.
    """

    image: Image.Image
    centres: tuple[Point, ...]

    def within(self, width: float) -> "Mask":
        """The same, no wider than so many pixels."""
        scale = width / self.image.width
        if scale >= 1:
            return self
        size = max(1, int(width)), max(1, round(self.image.height * scale))
        return Mask(
            self.image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0),
            tuple((x * scale, y * scale) for x, y in self.centres),
        )


def draw_number(digits: str, height: float, rng: Random) -> Mask:
    """A number about so many pixels high, printed or written."""
    size = max(6, round(height))
    found = _printed(digits, size, rng) if rng.random() < 0.68 else _written(digits, size, rng)
    return _cut(_slanted(found, rng))


def _printed(digits: str, height: int, rng: Random) -> Mask:
    path = rng.choice(fonts()) if fonts() and rng.random() < 0.97 else ""
    font = _font(path, max(8, round(height * 1.4)) // 3 * 3)
    apart = rng.uniform(0.05, 0.3) * height if rng.random() < 0.15 else 0.0
    lengths = [font.getlength(digit) for digit in digits]
    starts, x = [], 0.0
    for length in lengths:
        starts.append(x)
        x += length + apart
    left, top, right, bottom = font.getbbox(digits)
    pad = height // 2 + 2
    image = Image.new("L", (round(max(x, right - left)) + 2 * pad, round(bottom - top) + 2 * pad))
    pen = ImageDraw.Draw(image)
    bold = max(1, height // 24) if rng.random() < 0.12 else 0
    if apart:
        for digit, start in zip(digits, starts, strict=True):
            pen.text((pad + start, pad - top), digit, fill=255, font=font, stroke_width=bold)
    else:
        pen.text((pad, pad - top), digits, fill=255, font=font, stroke_width=bold)
    centres = [(pad + start + length / 2, pad + (bottom - top) / 2)
               for length, start in zip(lengths, starts, strict=True)]  # fmt: skip
    return Mask(image, tuple(centres))


# Strokes in a unit square; those marked True are bent smoothly through their points.
_STROKES: dict[str, tuple[tuple[tuple[bool, tuple[Point, ...]], ...], ...]] = {
    "0": (((True, (*((0.5 + x, 0.5 + y) for x, y in ellipse(0.42, 0.5, 9)), (0.92, 0.5))),),),
    "1": (
        ((False, ((0.5, 0.0), (0.5, 1.0))),),
        ((False, ((0.25, 0.25), (0.58, 0.0), (0.58, 1.0))),),
        ((False, ((0.25, 0.22), (0.55, 0.0), (0.55, 1.0))), (False, ((0.2, 1.0), (0.9, 1.0)))),
    ),
    "2": (
        ((True, ((0.1, 0.27), (0.28, 0.04), (0.68, 0.02), (0.88, 0.27), (0.6, 0.6), (0.08, 1.0))),
         (False, ((0.08, 1.0), (0.95, 1.0)))),
        ((True, ((0.12, 0.2), (0.5, 0.0), (0.86, 0.25), (0.5, 0.72), (0.12, 0.98), (0.3, 0.86), (0.92, 0.98))),),
    ),
    "3": (
        ((True, ((0.1, 0.14), (0.45, 0.0), (0.84, 0.2), (0.74, 0.42), (0.38, 0.48))),
         (True, ((0.38, 0.48), (0.84, 0.58), (0.9, 0.82), (0.5, 1.0), (0.06, 0.86)))),
        ((False, ((0.1, 0.0), (0.88, 0.0), (0.45, 0.42))),
         (True, ((0.45, 0.42), (0.88, 0.56), (0.86, 0.86), (0.46, 1.0), (0.06, 0.86)))),
    ),
    "4": (
        ((False, ((0.66, 1.0), (0.66, 0.0), (0.04, 0.68), (0.96, 0.68))),),
        ((False, ((0.2, 0.0), (0.1, 0.52), (0.92, 0.52))), (False, ((0.74, 0.08), (0.7, 1.0)))),
    ),
    "5": (
        ((False, ((0.86, 0.0), (0.2, 0.0), (0.15, 0.45))),
         (True, ((0.15, 0.45), (0.58, 0.36), (0.9, 0.64), (0.66, 0.97), (0.08, 0.93)))),
    ),
    "6": (
        ((True, ((0.78, 0.02), (0.34, 0.24), (0.1, 0.65), (0.3, 0.97), (0.74, 0.95), (0.88, 0.7), (0.6, 0.48),
                 (0.14, 0.64))),),
    ),
    "7": (
        ((False, ((0.06, 0.0), (0.92, 0.0), (0.38, 1.0))),),
        ((False, ((0.06, 0.0), (0.92, 0.0), (0.38, 1.0))), (False, ((0.28, 0.5), (0.86, 0.5)))),
    ),
    "8": (
        ((True, ((0.5, 0.48), (0.16, 0.25), (0.5, 0.0), (0.84, 0.25), (0.5, 0.48), (0.1, 0.76), (0.5, 1.0),
                 (0.9, 0.76), (0.5, 0.48))),),
    ),
    "9": (
        ((True, ((0.86, 0.26), (0.52, 0.52), (0.12, 0.28), (0.48, 0.0), (0.86, 0.2), (0.86, 0.6), (0.72, 1.0))),),
        ((True, ((0.86, 0.28), (0.5, 0.54), (0.12, 0.28), (0.5, 0.0), (0.86, 0.26))),
         (False, ((0.86, 0.26), (0.82, 1.0)))),
    ),
}  # fmt: skip
# The seven segments of a calculator: top, upper left and right, middle, lower left and right, bottom.
_SEGMENTS = (
    ((0.05, 0.0), (0.95, 0.0)), ((0.0, 0.05), (0.0, 0.45)), ((1.0, 0.05), (1.0, 0.45)), ((0.05, 0.5), (0.95, 0.5)),
    ((0.0, 0.55), (0.0, 0.95)), ((1.0, 0.55), (1.0, 0.95)), ((0.05, 1.0), (0.95, 1.0)),
)  # fmt: skip
_LIT = ("012456", "25", "02346", "02356", "1235", "01356", "013456", "025", "0123456", "012356")


def _smooth(points: tuple[Point, ...]) -> list[Point]:
    """A Catmull-Rom curve through the points."""
    ends = (points[0], *points, points[-1])
    found = []
    for (x0, y0), (x1, y1), (x2, y2), (x3, y3) in zip(ends, ends[1:], ends[2:], ends[3:], strict=False):
        for step in range(6):
            t = step / 6
            a, b, c = -0.5 * t + t * t - 0.5 * t**3, 1 - 2.5 * t * t + 1.5 * t**3, 0.5 * t + 2 * t * t - 1.5 * t**3
            d = -0.5 * t * t + 0.5 * t**3
            found.append((a * x0 + b * x1 + c * x2 + d * x3, a * y0 + b * y1 + c * y2 + d * y3))
    return [*found, points[-1]]


def _written(digits: str, height: int, rng: Random) -> Mask:
    wide, gap = height * rng.uniform(0.45, 0.7), height * rng.uniform(0.16, 0.4)
    pad = height
    image = Image.new("L", (round(len(digits) * (wide + gap)) + 2 * pad, 3 * pad))
    pen = ImageDraw.Draw(image)
    width = max(1, round(height * rng.uniform(0.04, 0.17)))
    segments, shake = rng.random() < 0.1, rng.uniform(0.0, 0.05)
    shear = rng.uniform(-0.2, 0.2)
    centres, x = [], float(pad)
    for digit in digits:
        if segments:
            strokes = [list(_SEGMENTS[int(number)]) for number in _LIT[int(digit)]]
        else:
            strokes = [_smooth(_shaken(points, shake, rng)) if bent else list(_shaken(points, shake, rng))
                       for bent, points in rng.choice(_STROKES[digit])]  # fmt: skip
        tall, own = (1.0, wide) if segments else (rng.uniform(0.88, 1.08), wide * rng.uniform(0.85, 1.1))
        low = 0.0 if segments else rng.uniform(-0.06, 0.06)
        for stroke in strokes:
            path = [(x + px * own + shear * (0.5 - py) * height, pad + (py * tall + low) * height)
                    for px, py in stroke]  # fmt: skip
            _stroke(pen, path, width)
        centres.append((x + own / 2, pad + (0.5 * tall + low) * height))
        x += own + gap
    return Mask(image, tuple(centres))


def _shaken(points: tuple[Point, ...], amount: float, rng: Random) -> tuple[Point, ...]:
    return tuple((x + rng.uniform(-amount, amount), y + rng.uniform(-amount, amount)) for x, y in points)


def _stroke(pen: ImageDraw.ImageDraw, path: list[Point], width: int) -> None:
    pen.line(path, fill=255, width=width, joint="curve")
    r = width / 2 - 0.5
    for x, y in (path[0], path[-1]):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)


def _slanted(mask: Mask, rng: Random) -> Mask:
    """Some numbers lean, or are turned a little."""
    if rng.random() > 0.22:
        return mask
    image = mask.image
    x, y = image.width / 2, image.height / 2
    a, b, c, d = 1.0, rng.uniform(-0.25, 0.25), rng.uniform(-0.08, 0.08), rng.uniform(0.85, 1.15)
    # Where each point of the new picture comes from; what lies where follows from the inverse.
    from_x, from_y, whole = x - a * x - b * y, y - c * x - d * y, a * d - b * c

    def to(px: float, py: float) -> Point:
        return x + (d * (px - x) - b * (py - y)) / whole, y + (a * (py - y) - c * (px - x)) / whole

    # Only what has ink, with a margin that edges fade into.
    ink = image.getbbox()
    assert ink is not None, "a number without ink"
    left, top, right, bottom = ink[0] - 2, ink[1] - 2, ink[2] + 2, ink[3] + 2
    corners = bounds([to(left, top), to(right, top), to(right, bottom), to(left, bottom)])
    to_left, to_top = (max(0, math.floor(edge)) for edge in corners[:2])
    size = min(image.width, math.ceil(corners[2])) - to_left, min(image.height, math.ceil(corners[3])) - to_top
    image = image.crop((left, top, right, bottom)).transform(
        size, Image.Transform.AFFINE,
        (a, b, from_x + a * to_left + b * to_top - left, c, d, from_y + c * to_left + d * to_top - top),
        Image.Resampling.BILINEAR,
    )  # fmt: skip
    return Mask(image, tuple((px - to_left, py - to_top) for px, py in (to(*centre) for centre in mask.centres)))


def _cut(mask: Mask) -> Mask:
    box = mask.image.getbbox()
    assert box is not None, "a number without ink"
    left, top = box[:2]
    return Mask(mask.image.crop(box), tuple((x - left, y - top) for x, y in mask.centres))
