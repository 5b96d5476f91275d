"""Video files for tests, made by PyAV: frames that tell their own number by their brightness."""

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 96, 64


def shade(number: int) -> int:
    """The grey of a frame; neighbours differ by more than any codec errs."""
    return 16 + number * 37 % 220


def picture(number: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """Grey, with a black corner at the top left."""
    image = Image.new("RGB", size, (shade(number),) * 3)
    image.paste((0, 0, 0), (0, 0, size[0] // 3, size[1] // 3))
    return image


def pictures(count: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> list[Image.Image]:
    return [picture(number, size) for number in range(count)]


def shades(images: Sequence[Image.Image]) -> list[int]:
    """The grey in each one's middle."""
    return [int(np.asarray(image)[image.height // 2, image.width // 2].mean().round()) for image in images]


def near(found: Sequence[int], numbers: Sequence[int]) -> bool:
    """Whether frames of these numbers were found."""
    return len(found) == len(numbers) and all(
        abs(value - shade(number)) <= 4 for value, number in zip(found, numbers, strict=True)
    )


def movie(
    count: int = 48,
    container: str = "mp4",
    codec: str = "libx264",
    *,
    fps: int = 24,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    times: Sequence[int] | None = None,
    pixels: str = "yuv420p",
    frames: Sequence[NDArray[Any]] | None = None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    **turn: Any,
) -> bytes:
    """A video file.

    Args:
        container, codec: By FFmpeg's names.
        times: When each frame is shown, in milliseconds; None for evenly.
        frames: RGB or RGBA arrays; None for `picture`.
        turn: For the display matrix.
    """
    av = pytest.importorskip("av", reason="needs the video extra")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=muxer or {}) as output:
        stream = output.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = size[0], size[1], pixels
        if turn:
            stream.set_display_rotation(**turn)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(count):
            values = np.asarray(picture(number, size)) if frames is None else frames[number]
            frame = av.VideoFrame.from_ndarray(values, format="rgba" if values.shape[2] == 4 else "rgb24")
            frame.pts = number if times is None else times[number]
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def animated(
    images: Sequence[Image.Image], kind: str = "GIF", duration: int | Sequence[int] = 100, **options: Any
) -> bytes:
    """An animation, losslessly where the format can; durations in milliseconds."""
    buffer = io.BytesIO()
    times = duration if isinstance(duration, int) else [*duration]
    if kind == "WEBP":
        options["lossless"] = True
    images[0].save(buffer, kind, save_all=True, append_images=images[1:], duration=times, **options)
    return buffer.getvalue()


def still(image: Image.Image, kind: str = "PNG") -> bytes:
    """A picture's file."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
