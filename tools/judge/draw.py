"""Pictures of scenes, drawn by Skia: clean as a program's, or by hand with markers, crayons and pencils."""

import io
import math
from random import Random

import numpy as np
import skia
from PIL import Image

from tools.judge.outlines import outline
from tools.judge.scene import HAND_DRAWN, OUTLINED, RGB, Background, Scene, Thing, mixed

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def picture(scene: Scene) -> Image.Image:
    """The scene as an RGB image, after the JPEG that it has been."""
    surface = skia.Surface(scene.width, scene.height)
    canvas = surface.getCanvas()
    draw_background(canvas, scene)
    for one in scene.things:
        draw_thing(canvas, one)
    return finished(surface, scene.quality)


def finished(surface: skia.Surface, quality: int | None) -> Image.Image:
    """What was drawn on a surface, as a Pillow image."""
    pixels = surface.makeImageSnapshot().toarray(colorType=skia.ColorType.kRGBA_8888_ColorType)
    image = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    if quality is None:
        return image
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def paint(rgb: RGB, *, width: float | None = None, alpha: int = 255, shader: skia.Shader | None = None) -> skia.Paint:
    """A fill, or a stroke of a width."""
    made = skia.Paint(AntiAlias=True, Color=skia.Color(*rgb, alpha))
    if width is not None:
        made.setStyle(skia.Paint.kStroke_Style)
        made.setStrokeWidth(width)
        made.setStrokeCap(skia.Paint.kRound_Cap)
        made.setStrokeJoin(skia.Paint.kRound_Join)
    if shader is not None:
        made.setShader(shader)
    return made


def gradient(start: tuple[float, float], end: tuple[float, float], colours: tuple[RGB, ...]) -> skia.Shader:
    return skia.GradientShader.MakeLinear(
        points=[skia.Point(*start), skia.Point(*end)], colors=[skia.Color(*rgb) for rgb in colours]
    )


def draw_background(canvas: skia.Canvas, scene: Scene) -> None:
    kind, width, height = scene.background.kind, scene.width, scene.height
    first = scene.background.colours[0]
    canvas.clear(skia.Color(*first))
    rng = Random(scene.seed)
    if kind in ("lined", "squared"):
        draw_ruling(canvas, scene, rng)
    elif kind == "gradient":
        ends = rng.choice((((0, 0), (0, height)), ((0, 0), (width, 0)), ((0, 0), (width, height))))
        canvas.drawPaint(paint(first, shader=gradient(*ends, scene.background.colours)))
    elif kind == "glow":
        colours = [skia.Color(*rgb) for rgb in reversed(scene.background.colours)]
        centre = skia.Point(width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.7))
        canvas.drawPaint(paint(first, shader=skia.GradientShader.MakeRadial(centre, max(width, height) * 0.7, colours)))
    elif kind in ("stripes", "checks"):
        draw_pattern(canvas, scene, rng)
    elif kind == "vignette":
        centre, edge = skia.Point(width / 2, height / 2), mixed(first, BLACK, 0.14)
        colours = [skia.Color(*first), skia.Color(*edge)]
        canvas.drawPaint(
            paint(first, shader=skia.GradientShader.MakeRadial(centre, 0.75 * max(width, height), colours))
        )
    if kind in ("paper", "vignette", "noise", "clouds"):
        draw_grain(canvas, scene.background, rng, min(width, height))


def draw_grain(canvas: skia.Canvas, ground: Background, rng: Random, short: int) -> None:
    """Fine irregularities, weak enough that the colour stays what it is."""
    coarse = ground.kind == "clouds"
    frequency = rng.uniform(3, 6) / short if coarse else 0.6
    shader = skia.PerlinNoiseShader.MakeFractalNoise(frequency, frequency, 3, rng.randint(1, 10_000))
    grain = skia.Paint(Shader=shader, BlendMode=skia.BlendMode.kSoftLight)
    grain.setColorFilter(skia.ColorFilters.Matrix(GREY_ALPHA))
    canvas.drawPaint(grain)


# The noise's red as an opaque grey.
GREY_ALPHA = [*[1.0, 0, 0, 0, 0] * 3, 0, 0, 0, 0, 0.45]


def draw_ruling(canvas: skia.Canvas, scene: Scene, rng: Random) -> None:
    """The faint lines of an exercise book."""
    step = max(8.0, min(scene.width, scene.height) / rng.uniform(9, 18))
    line = paint((150, 180, 215), width=max(1.0, step / 25), alpha=110)
    for row in range(1, int(scene.height / step) + 1):
        canvas.drawLine(0, row * step, scene.width, row * step, line)
    if scene.background.kind == "squared":
        for column in range(1, int(scene.width / step) + 1):
            canvas.drawLine(column * step, 0, column * step, scene.height, line)


def draw_pattern(canvas: skia.Canvas, scene: Scene, rng: Random) -> None:
    """Stripes or checks of two tones that are close to each other."""
    step = max(4.0, min(scene.width, scene.height) / rng.uniform(6, 14))
    tone = paint(scene.background.colours[1])
    across = rng.random() < 0.5
    for row in range(math.ceil(scene.height / step)):
        for column in range(math.ceil(scene.width / step)):
            odd = (row + column) % 2 if scene.background.kind == "checks" else (row if across else column) % 2
            if odd:
                canvas.drawRect(skia.Rect.MakeXYWH(column * step, row * step, step + 0.5, step + 0.5), tone)


def shaky(size: float, rng: Random, amount: float) -> skia.PathEffect:
    """What an unsteady hand does to a line."""
    rough = skia.DiscretePathEffect.Make(max(5.0, size / 9), size * amount, rng.getrandbits(16))
    return skia.PathEffect.MakeCompose(skia.CornerPathEffect.Make(max(3.0, size / 14)), rough)


def draw_thing(canvas: skia.Canvas, one: Thing) -> None:
    rng = Random(one.variant)  # the same thing in another picture looks the same
    short, size = min(one.width, one.height), max(one.width, one.height)
    canvas.save()
    canvas.translate(one.x, one.y)
    canvas.rotate(one.tilt)
    path = outline(one)
    if one.style == "shadow":
        shade = paint((40, 40, 40), alpha=90)
        shade.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, size * 0.03))
        canvas.save()
        canvas.rotate(-one.tilt)
        canvas.translate(size * 0.03, size * 0.04)
        canvas.rotate(one.tilt)
        canvas.drawPath(path, shade)
        canvas.restore()
    if one.style in OUTLINED:
        width = max(2.5, short * rng.uniform(0.08, 0.14))
        stroke = paint(one.rgb, width=width)
        canvas.scale(1 - width / one.width, 1 - width / one.height)  # the line stays inside
        if one.style == "pencil":
            stroke.setPathEffect(shaky(size, rng, 0.012))
        canvas.drawPath(path, stroke)
    elif one.style == "crayon":
        draw_crayon(canvas, one, path, rng)
    else:
        fill = paint(one.rgb)
        if one.style == "shaded":
            ends = mixed(one.rgb, WHITE, 0.12), mixed(one.rgb, BLACK, 0.12)
            fill.setShader(gradient((-one.width / 2, -one.height / 2), (one.width / 2, one.height / 2), ends))
        if one.style in HAND_DRAWN:
            fill.setPathEffect(shaky(size, rng, 0.012))
        canvas.drawPath(path, fill)
        if one.style == "edged":
            edge = paint(mixed(one.rgb, BLACK, 0.35), width=max(1.0, short * 0.03))
            edge.setStrokeJoin(skia.Paint.kMiter_Join)
            canvas.drawPath(path, edge)
    canvas.restore()


def draw_crayon(canvas: skia.Canvas, one: Thing, path: skia.Path, rng: Random) -> None:
    """Filled by going to and fro, with the paper showing through here and there, and a line around."""
    size = max(one.width, one.height)
    thick = size * rng.uniform(0.05, 0.075)
    scribble = skia.Path()
    angle = rng.uniform(-60, 60)
    row = -size
    scribble.moveTo(-size, row)
    side = 1
    while row < size:
        row += thick * rng.uniform(0.75, 1.15)
        scribble.lineTo(side * size, row + rng.uniform(-thick, thick) * 0.3)
        side = -side
    canvas.save()
    canvas.clipPath(path, doAntiAlias=True)
    canvas.rotate(angle)
    canvas.drawPath(scribble, paint(one.rgb, width=thick))
    canvas.restore()
    edge = paint(one.rgb, width=max(2.0, thick * 0.7))
    edge.setPathEffect(shaky(size, rng, 0.01))
    canvas.drawPath(path, edge)
