"""Scenes to pixels: grounds of many kinds, fills and outlines, hard and soft edges, noise and JPEG's artefacts."""

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tools.box.outlines import Outline, bounds
from tools.box.palette import Rgb
from tools.box.scenes import Ground, Scene, Thing

# How much of a ground's second colour is where: all or nothing, or 0 to 255.
Mask = NDArray[np.bool_] | NDArray[np.uint8]
LARGE = 500_000
# Normally distributed noise; every row of a picture gets some piece of it.
_NOISE = np.random.default_rng(0).standard_normal(1 << 18, np.float32)


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene, in RGB; the same every time."""
    style = scene.style
    # Edges of large canvases become soft when they are brought to the model's size.
    scale = 2 if style.soft and scene.width * scene.height < LARGE else 1
    if scene.ground.pattern == "flat":
        image = Image.new("RGB", (scene.width, scene.height), scene.ground.rgbs[0])
    else:
        image = _pattern(scene.ground, scene.width, scene.height, style.seed).copy()
    for thing in scene.things:
        _draw_thing(image, thing, scale)
    return _kept(image, scene)


def _draw_thing(image: Image.Image, thing: Thing, scale: int) -> None:
    form = thing.form
    if form.mask is not None:
        _print(image, thing, form.mask.image, scale)
        return
    points = [((thing.x + px) * scale, (thing.y + py) * scale) for px, py in form.points]
    if thing.filled:
        _paint(image, form.rgb, points, 0, scale)
    if form.stroke and (form.border or not thing.filled):
        _paint(image, form.border or form.rgb, points, max(1, round(form.stroke * scale)), scale)


def _print(image: Image.Image, thing: Thing, mask: Image.Image, scale: int) -> None:
    """A number; with soft edges, its middle may lie between pixels."""
    width, height = mask.width * scale, mask.height * scale
    left, top = round(thing.x * scale - width / 2), round(thing.y * scale - height / 2)
    if scale > 1:
        large = Image.new("L", (width + scale, height + scale))
        large.paste(mask.resize((width, height), Image.Resampling.BILINEAR), (left % scale, top % scale))
        mask = large.reduce(scale)
    image.paste(thing.form.rgb, (left // scale, top // scale), mask)


def _paint(image: Image.Image, rgb: Rgb, points: Outline, width: int, scale: int) -> None:
    """A polygon or, with a width, its outline; soft edges through a mask that is as much larger as the points are."""
    if scale == 1:
        _trace(image, points, width, rgb)
        return
    left, top, right, bottom = (int(edge // scale) for edge in bounds(points))
    apart = width // scale + 1
    left, top = left - apart, top - apart
    mask = Image.new("L", ((right + apart + 1 - left) * scale, (bottom + apart + 1 - top) * scale))
    _trace(mask, [(x - left * scale, y - top * scale) for x, y in points], width, 255)
    image.paste(rgb, (left, top), mask.reduce(scale))


def _trace(image: Image.Image, points: Outline, width: int, colour: Rgb | int) -> None:
    pen = ImageDraw.Draw(image)
    if width:
        pen.line([*points, points[0], points[1]], fill=colour, width=width, joint="curve")
    else:
        pen.polygon(points, fill=colour)


# Frames of a clip, and pictures before and after a change, share their ground.
@lru_cache(1)
def _pattern(ground: Ground, width: int, height: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    if ground.pattern in ("clouds", "photo"):
        return _clouds(ground, width, height, rng)
    image = Image.new("RGB", (width, height), ground.rgbs[0])
    image.paste(ground.rgbs[-1], (0, 0), Image.fromarray(_SHARES[ground.pattern](width, height, rng)))
    return image


def _clouds(ground: Ground, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Soft patches of the ground's colours, or, for a photograph of nothing, of any colours, and a little grain."""
    coarse = int(rng.integers(2, 8))
    if ground.pattern == "photo":
        small = rng.integers(0, 256, (coarse, coarse, 3)).astype(np.uint8)
    else:
        share = rng.random((coarse, coarse, 1), np.float32)
        one, other = (np.array(rgb, np.float32) for rgb in (ground.rgbs[0], ground.rgbs[-1]))
        small = (one + (other - one) * share).astype(np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return _noisy(image, float(rng.uniform(0, 25)), rng) if ground.pattern == "photo" else image


def _gradient(width: int, height: int, rng: np.random.Generator) -> Mask:
    angle = rng.choice([0, np.pi / 2, np.pi, rng.uniform(0, 2 * np.pi)])
    x, y = np.cos(angle) * np.linspace(-1, 1, width), np.sin(angle) * np.linspace(-1, 1, height)
    scale = 255 / max(float(np.ptp(x) + np.ptp(y)), 1e-6)
    x, y = scale * (x - x.min()), scale * (y - y.min())
    found: Mask = (x.astype(np.float32) + y.astype(np.float32)[:, None]).astype(np.uint8)
    return found


def _odd(along: NDArray[np.int64], step: float) -> NDArray[np.bool_]:
    """Of bands so wide every second."""
    found: NDArray[np.bool_] = np.floor(along / step) % 2 == 1
    return found


def _stripes(width: int, height: int, rng: np.random.Generator) -> Mask:
    step = rng.uniform(0.02, 0.12) * max(width, height) + 2
    x, y = np.arange(width), np.arange(height)[:, None]
    way = rng.integers(4)
    if way < 2:
        return np.ascontiguousarray(np.broadcast_to(_odd((x, y)[way], step), (height, width)))
    # Each row is the one above moved by one.
    lines = np.lib.stride_tricks.sliding_window_view(_odd(np.arange(-height + 1, width), step), width)[::-1]
    if way == 2:
        lines = np.lib.stride_tricks.sliding_window_view(_odd(np.arange(height + width - 1), step), width)
    return np.ascontiguousarray(lines)


def _checks(width: int, height: int, rng: np.random.Generator) -> Mask:
    step = rng.uniform(0.03, 0.12) * max(width, height) + 2
    return _odd(np.arange(width), step) ^ _odd(np.arange(height), step)[:, None]


def _dots(width: int, height: int, rng: np.random.Generator) -> Mask:
    step = rng.uniform(0.04, 0.12) * max(width, height) + 3
    x, y = np.arange(width)[None, :] % step - step / 2, np.arange(height)[:, None] % step - step / 2
    found: Mask = x * x + y * y < (step * rng.uniform(0.12, 0.3)) ** 2
    return found


def _grain(width: int, height: int, rng: np.random.Generator) -> Mask:
    return rng.integers(0, 256, (height, width), np.uint8)


def _paper(width: int, height: int, rng: np.random.Generator) -> Mask:
    """Squared or ruled paper: thin lines."""
    step = int(rng.uniform(0.05, 0.14) * max(width, height)) + 4
    found = np.zeros((height, width), np.bool_)
    found[step // 2 :: step] = True
    if rng.random() < 0.6:
        found[:, step // 2 :: step] = True
    return found


_SHARES = {
    "gradient": _gradient, "stripes": _stripes, "checks": _checks, "dots": _dots, "grain": _grain, "paper": _paper,
}  # fmt: skip


def _blurred(image: Image.Image, radius: float) -> Image.Image:
    """Pillow's Gaussian blur, but for rounding, in half its time: three boxes in a row, here as one sum in 256ths.

    A box is one pixel and a share of its neighbours; so small are radii below 1.7 (Pillow 13, BoxBlur.c,
    _gaussian_blur_radius).
    """
    edge = radius**2 / (6 - 2 * radius**2)
    box = np.array([edge, 1.0, edge]) / (1 + 2 * edge)
    shares = np.rint(256 * np.convolve(np.convolve(box, box), box)[3:]).astype(np.uint16)
    shares[0] = 256 - 2 * shares[1:].sum()
    pixels = np.asarray(image).astype(np.uint16)
    for axis in (0, 1):
        padding = [(3 * (axis == 0), 3 * (axis == 0)), (3 * (axis == 1), 3 * (axis == 1)), (0, 0)]
        wide = np.moveaxis(np.pad(pixels, padding, mode="edge"), axis, 0)
        total = shares[0] * np.moveaxis(pixels, axis, 0) + np.uint16(128)
        for apart, share in enumerate(shares[1:], start=1):
            total += share * (wide[3 - apart : len(wide) - 3 - apart] + wide[3 + apart : len(wide) - 3 + apart])
        pixels = np.moveaxis(total >> 8, 0, axis)
    return Image.fromarray(pixels.astype(np.uint8))


def _noisy(image: Image.Image, spread: float, rng: np.random.Generator) -> Image.Image:
    width, channels = image.width, 3 if rng.random() < 0.5 else 1
    pieces = np.lib.stride_tricks.sliding_window_view(_NOISE, width * channels)
    noise = pieces[rng.integers(0, len(pieces), image.height)]
    if channels == 1:
        noise = np.repeat(noise, 3, axis=1)
    noise *= spread
    noise += np.asarray(image).reshape(noise.shape)
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8).reshape(image.height, width, 3))


def _kept(image: Image.Image, scene: Scene) -> Image.Image:
    """As it comes from a file."""
    style = scene.style
    if style.blur:
        image = _blurred(image, style.blur)
    if style.noise:
        image = _noisy(image, style.noise, np.random.default_rng(style.seed))
    if style.jpeg:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=style.jpeg)
        image = Image.open(file).convert("RGB")
    return image
