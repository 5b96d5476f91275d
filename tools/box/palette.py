"""Colours as people pick them: for every name the shades that go by it, and which two can be told apart."""

from random import Random

Rgb = tuple[int, int, int]

# The pure colour, CSS's colours of that name, drawing programs' and plotting libraries' defaults, pastels.
SHADES: dict[str, tuple[Rgb, ...]] = {
    "red": ((255, 0, 0), (220, 20, 60), (214, 40, 40), (200, 0, 0), (230, 57, 70), (237, 28, 36), (214, 39, 40),
            (170, 10, 10), (244, 67, 54), (255, 60, 60)),
    "orange": ((255, 165, 0), (255, 140, 0), (244, 140, 6), (255, 127, 14), (255, 127, 39), (247, 127, 0),
               (255, 152, 0), (255, 120, 0), (255, 179, 71)),
    "yellow": ((255, 255, 0), (250, 220, 40), (255, 242, 0), (255, 235, 59), (255, 215, 0), (240, 230, 60),
               (255, 255, 102), (230, 220, 0)),
    "green": ((0, 255, 0), (0, 128, 0), (46, 160, 67), (50, 205, 50), (34, 139, 34), (0, 100, 0), (34, 177, 76),
              (44, 160, 44), (76, 175, 80), (46, 139, 87), (0, 200, 0), (144, 238, 144), (60, 179, 113)),
    "blue": ((0, 0, 255), (40, 90, 220), (65, 105, 225), (0, 0, 128), (30, 144, 255), (63, 72, 204), (31, 119, 180),
             (33, 150, 243), (70, 130, 180), (0, 0, 205), (135, 206, 235), (100, 149, 237), (25, 25, 112),
             (0, 162, 232), (173, 216, 230)),
    "purple": ((128, 0, 128), (130, 60, 180), (148, 0, 211), (138, 43, 226), (163, 73, 164), (148, 103, 189),
               (156, 39, 176), (75, 0, 130), (102, 51, 153), (147, 112, 219), (160, 32, 240)),
    "pink": ((255, 192, 203), (255, 105, 180), (250, 130, 190), (255, 20, 147), (255, 174, 201), (255, 182, 193),
             (227, 119, 194), (233, 30, 99), (255, 153, 204)),
    "brown": ((139, 69, 19), (150, 75, 0), (165, 42, 42), (101, 67, 33), (160, 82, 45), (121, 85, 72),
              (123, 63, 0), (140, 86, 75), (110, 60, 20)),
    "black": ((0, 0, 0), (25, 25, 25), (10, 10, 20), (35, 35, 35)),
    "white": ((255, 255, 255), (250, 250, 250), (255, 255, 240), (245, 245, 245)),
    "gray": ((128, 128, 128), (169, 169, 169), (105, 105, 105), (150, 150, 150), (119, 136, 153), (127, 127, 127),
             (192, 192, 192), (90, 90, 90), (158, 158, 158)),
}  # fmt: skip
COLOURS = tuple(SHADES)


def shade(name: str, rng: Random) -> Rgb:
    """A colour that goes by this name."""
    red, green, blue = SHADES[name][0] if rng.random() < 0.3 else rng.choice(SHADES[name])
    # Greys stay grey, and what is nearly black or white stays so.
    spread = 3 if name in ("white", "black", "gray") else 10
    if rng.random() < 0.4:
        return red, green, blue
    return _near(red, spread, rng), _near(green, spread, rng), _near(blue, spread, rng)


def _near(value: int, spread: int, rng: Random) -> int:
    return min(255, max(0, value + rng.randint(-spread, spread)))


def contrast(one: Rgb, other: Rgb) -> float:
    """How far apart two colours look, 0 to about 760: the "redmean" distance (Riemersma)."""
    mean = (one[0] + other[0]) / 2
    red, green, blue = one[0] - other[0], one[1] - other[1], one[2] - other[2]
    return float(((2 + mean / 256) * red * red + 4 * green * green + (2 + (255 - mean) / 256) * blue * blue) ** 0.5)
