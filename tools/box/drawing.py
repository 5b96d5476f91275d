"""Scenes to pixels: grounds of many kinds, fills and outlines, hard and soft edges, noise and JPEG's artefacts."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from tools.box.scenes import Ground, Scene, Thing

Pixels = NDArray[np.float32]
LARGE = 500_000


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene, in RGB; the same every time."""
    style = scene.style
    # Edges of large canvases become soft when they are brought to the model's size.
    scale = 2 if style.soft and scene.things and scene.width * scene.height < LARGE else 1
    width, height = scene.width * scale, scene.height * scale
    if scene.ground.pattern == "flat":
        image = Image.new("RGB", (width, height), scene.ground.rgbs[0])
    else:
        image = _ground(scene.ground, scene.width, scene.height, style.seed)
        image = image.resize((width, height), Image.Resampling.NEAREST) if scale > 1 else image
    if scene.things:
        pen = ImageDraw.Draw(image)
        for thing in scene.things:
            _draw_thing(image, pen, thing, scale)
        if scale > 1:
            image = image.reduce(scale)
    return _kept(image, scene)


def _draw_thing(image: Image.Image, pen: ImageDraw.ImageDraw, thing: Thing, scale: int) -> None:
    form = thing.form
    x, y = thing.x * scale, thing.y * scale
    if form.mask is not None:
        mask = form.mask.image
        if scale > 1:
            mask = mask.resize((mask.width * scale, mask.height * scale), Image.Resampling.BILINEAR)
        image.paste(form.rgb, (round(x - mask.width / 2), round(y - mask.height / 2)), mask)
        return
    points = [(x + px * scale, y + py * scale) for px, py in form.points]
    if thing.filled:
        pen.polygon(points, fill=form.rgb)
    if form.stroke and (form.border or not thing.filled):
        width = max(1, round(form.stroke * scale))
        colour = form.border or form.rgb
        pen.line([*points, points[0], points[1]], fill=colour, width=width, joint="curve")


def _ground(ground: Ground, width: int, height: int, seed: int) -> Image.Image:
    first, last = ground.rgbs[0], ground.rgbs[-1]
    rng = np.random.default_rng(seed)
    one, other = np.array(first, np.float32), np.array(last, np.float32)
    if ground.pattern in ("clouds", "photo"):
        return _clouds(ground, width, height, rng)
    share = _SHARES[ground.pattern](width, height, rng)[:, :, None]
    return Image.fromarray((one + (other - one) * share).clip(0, 255).astype(np.uint8))


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


def _gradient(width: int, height: int, rng: np.random.Generator) -> Pixels:
    angle = rng.choice([0, np.pi / 2, np.pi, rng.uniform(0, 2 * np.pi)])
    x, y = np.cos(angle) * np.linspace(-1, 1, width), np.sin(angle) * np.linspace(-1, 1, height)
    found = x[None, :] + y[:, None]
    return ((found - found.min()) / max(float(np.ptp(found)), 1e-6)).astype(np.float32)


def _stripes(width: int, height: int, rng: np.random.Generator) -> Pixels:
    step = rng.uniform(0.02, 0.12) * max(width, height) + 2
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    way = rng.integers(4)
    along = (x + 0 * y, y + 0 * x, x + y, x - y)[way]
    return ((along // step) % 2).astype(np.float32)


def _checks(width: int, height: int, rng: np.random.Generator) -> Pixels:
    step = rng.uniform(0.03, 0.12) * max(width, height) + 2
    return ((np.arange(width)[None, :] // step + np.arange(height)[:, None] // step) % 2).astype(np.float32)


def _dots(width: int, height: int, rng: np.random.Generator) -> Pixels:
    step = rng.uniform(0.04, 0.12) * max(width, height) + 3
    x, y = np.arange(width)[None, :] % step - step / 2, np.arange(height)[:, None] % step - step / 2
    return (x * x + y * y < (step * rng.uniform(0.12, 0.3)) ** 2).astype(np.float32)


def _grain(width: int, height: int, rng: np.random.Generator) -> Pixels:
    return rng.random((height, width), np.float32)


def _paper(width: int, height: int, rng: np.random.Generator) -> Pixels:
    """Squared or ruled paper: thin lines."""
    step = int(rng.uniform(0.05, 0.14) * max(width, height)) + 4
    found = np.zeros((height, width), np.float32)
    found[step // 2 :: step] = 1
    if rng.random() < 0.6:
        found[:, step // 2 :: step] = 1
    return found


_SHARES = {
    "gradient": _gradient, "stripes": _stripes, "checks": _checks, "dots": _dots, "grain": _grain, "paper": _paper,
}  # fmt: skip


def _noisy(image: Image.Image, spread: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image).astype(np.float32)
    shape = pixels.shape if rng.random() < 0.5 else (*pixels.shape[:2], 1)
    pixels += spread * rng.standard_normal(shape, np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _kept(image: Image.Image, scene: Scene) -> Image.Image:
    """As it comes from a file."""
    style = scene.style
    if style.blur:
        image = image.filter(ImageFilter.GaussianBlur(style.blur))
    if style.noise:
        image = _noisy(image, style.noise, np.random.default_rng(style.seed))
    if style.jpeg:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=style.jpeg)
        image = Image.open(file).convert("RGB")
    return image
