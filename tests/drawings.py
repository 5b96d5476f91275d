"""Drawings such as a person makes, for the model in the package to look at."""

import math

from PIL import Image, ImageDraw


def drawn(kind: str, colour: str, size: int = 96) -> Image.Image:
    """One shape in the middle of a white square."""
    image = Image.new("RGB", (size, size), "white")
    pen, middle, r = ImageDraw.Draw(image), size / 2, 0.36 * size
    if kind == "circle":
        pen.ellipse((middle - r, middle - r, middle + r, middle + r), fill=colour)
    elif kind == "square":
        pen.rectangle((middle - r, middle - r, middle + r, middle + r), fill=colour)
    else:
        # A star of five points, or a diamond.
        corners, inner = (10, 0.42) if kind == "star" else (4, 1.0)
        angles = [2 * math.pi * corner / corners for corner in range(corners)]
        reach = [r * (inner if corner % 2 else 1.0) for corner in range(corners)]
        points = [
            (middle + far * math.sin(a), middle - far * math.cos(a)) for a, far in zip(angles, reach, strict=True)
        ]
        pen.polygon(points, fill=colour)
    return image
