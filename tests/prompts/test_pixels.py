"""Pictures of every mode in three channels, and patches in the order of the tower."""

import numpy as np
import pytest
from PIL import Image

from mlx_qwen35.prompts.pixels import cut_into_patches, to_rgb

# Modes with alpha, by what each is made from.
WITH_ALPHA = {"RGBA": "RGBA", "LA": "LA", "La": "LA", "PA": "RGBA", "RGBa": "RGBA"}


def in_mode(mode: str, gray: int, alpha: int) -> Image.Image:
    made = WITH_ALPHA[mode]
    colour = (gray, alpha) if made == "LA" else (gray, gray, gray, alpha)
    return Image.new(made, (3, 2), colour).convert(mode)


@pytest.mark.parametrize("mode", WITH_ALPHA)
def test_what_is_transparent_is_white_and_what_is_not_stays(mode: str) -> None:
    """Half transparent black is gray, to a step of rounding."""
    for gray, alpha, expected in ((0, 0, 255), (40, 255, 40), (0, 128, 127)):
        found = to_rgb(in_mode(mode, gray, alpha))
        assert found.mode == "RGB"
        assert np.abs(np.asarray(found).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("transparent", [0, 1])
def test_a_colour_that_stands_for_transparent_is_white(transparent: int) -> None:
    """An entry of a palette, a gray and a colour, as PNG has them; the first of a palette too."""
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 10, 10, 20, 20, 20])
    palette.putdata([0, 1])
    palette.info["transparency"] = transparent
    gray = Image.fromarray(np.array([[0, 1]], np.uint8))
    gray.info["transparency"] = transparent
    colour = gray.convert("RGB")
    colour.info["transparency"] = (transparent,) * 3
    for image, values in ((palette, [10, 20]), (gray, [0, 1]), (colour, [0, 1])):
        values[transparent] = 255
        assert np.asarray(to_rgb(image))[0, :, 0].tolist() == values


def test_a_picture_that_needs_nothing_is_not_copied() -> None:
    image = Image.new("RGB", (2, 2))
    assert to_rgb(image) is image


def test_patches_of_a_token_stand_behind_each_other_and_frames_in_a_patch() -> None:
    """Every value says where it stood: frame, row, column and channel."""
    frames = np.zeros((2, 8, 12, 3), np.uint8)
    for frame in range(2):
        for row in range(8):
            for column in range(12):
                frames[frame, row, column] = [frame * 100 + row * 12 + column] * 3
    frames[..., 1] += 1
    frames[..., 2] += 2
    patches, grid = cut_into_patches(frames, patch=2, merge=2)
    assert grid == (1, 4, 6)
    assert patches.shape == (24, 3, 8)
    number = 0
    for tile_row in range(2):
        for tile_column in range(3):
            for inner_row in range(2):
                for inner_column in range(2):
                    top, left = tile_row * 4 + inner_row * 2, tile_column * 4 + inner_column * 2
                    for channel in range(3):
                        expected = frames[:, top : top + 2, left : left + 2, channel].reshape(-1)
                        np.testing.assert_array_equal(patches[number, channel], expected)
                    number += 1
