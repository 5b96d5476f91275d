"""Videos that are pictures already: lists and arrays."""

import struct
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_qwen35.errors import MediaError
from mlx_qwen35.prompts.clips import ArrayClip, PictureClip
from mlx_qwen35.prompts.pixels import to_rgb
from tests.prompts.clips import HEIGHT, WIDTH, near, pictures, shades, still


def values(count: int = 4) -> np.ndarray:
    return np.stack([np.asarray(image) for image in pictures(count)])


def shown(clip: Any, indices: list[int]) -> list[Image.Image]:
    return list(clip.frames(indices, lambda: None))


def test_pictures_may_be_whatever_images_may_be(tmp_path: Any) -> None:
    image = pictures(1)[0]
    (tmp_path / "a.png").write_bytes(still(image))
    sources = [image, still(image), tmp_path / "a.png", np.asarray(image)]
    clip = PictureClip(sources, 2.0, "video")
    assert clip.times == [0, 0.5, 1, 1.5]
    for found in shown(clip, [0, 1, 2, 3]):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(image))


@pytest.mark.parametrize("kind", ["float64", "int64", "MLX", "torch"])
def test_arrays_may_be_of_any_library(kind: str) -> None:
    array: Any = values()
    if kind == "MLX":
        array = mx.array(array)
    elif kind == "torch":
        array = pytest.importorskip("torch", reason="needs the parity extra").from_numpy(array)
    else:
        array = array.astype(kind)
    clip = ArrayClip(array, 4.0, "video")
    assert (clip.size, clip.times, clip.sampled) == ((WIDTH, HEIGHT), [0, 0.25, 0.5, 0.75], True)
    assert near(shades(shown(clip, [0, 1, 3])), [0, 1, 3])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((2, 4, 4), np.uint8),
            r"expected an array of shape \(T, H, W, 3\) .*, found one of shape \(2, 4, 4\)",
        ),
        (np.zeros((2, 3, 4, 4), np.uint8), r"found one of shape \(2, 3, 4, 4\) and type uint8"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"array of shape \(0, 4, 4, 3\): expected a video, found no pixels"),
        (np.zeros((2, 4, 4, 3), "U1"), r"found one of shape \(2, 4, 4, 3\) and type <U1"),
    ],
)
def test_other_arrays_are_refused(array: Any, message: str) -> None:
    with pytest.raises(MediaError, match=rf"^video: .*{message}"):
        ArrayClip(array, 2.0, "video")


def test_values_that_are_no_colours_are_refused_with_their_frame() -> None:
    array = values().astype(np.float32)
    array[2] /= 255
    with pytest.raises(MediaError, match=r"^video\[2\]: expected whole numbers from 0 to 255, found others .* float32"):
        shown(ArrayClip(array, 2.0, "video"), [0, 2])


def test_pictures_of_several_sizes_are_refused() -> None:
    sources = [*pictures(2), *pictures(1, (64, 96))]
    with pytest.raises(
        MediaError, match=r"^video\[2\]: expected 96 x 64 pixels as in the first picture, found 64 x 96"
    ):
        shown(PictureClip(sources, 2.0, "video"), [0, 1, 2])


def test_no_pictures_are_no_video() -> None:
    with pytest.raises(MediaError, match="^video: expected a list of pictures, found an empty one"):
        PictureClip([], 2.0, "video")


@pytest.mark.parametrize("make", [lambda: ArrayClip(values(), 2.0, "v"), lambda: PictureClip(pictures(4), 2.0, "v")])
def test_who_wants_no_more_is_heard_before_each_frame(make: Any) -> None:
    calls: list[int] = []
    frames = make().frames([0, 1, 2], lambda: calls.append(1))
    next(frames)
    next(frames)
    assert len(calls) == 2


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "LA", "RGBA", "PA"])
def test_every_mode_becomes_rgb_as_transformers_has_it(mode: str) -> None:
    from transformers.image_transforms import convert_to_rgb

    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), convert_to_rgb(image, return_numpy=True))


def test_gray_with_premultiplied_alpha_is_composed_like_gray_with_alpha() -> None:
    straight = Image.new("LA", (4, 4), (200, 100))
    premultiplied = Image.new("La", (4, 4), (200 * 100 // 255, 100))
    difference = np.abs(np.asarray(to_rgb(premultiplied), np.int16) - np.asarray(to_rgb(straight), np.int16))
    assert difference.max() <= 1


def test_a_tiff_file_of_gray_with_premultiplied_alpha_is_a_picture(tmp_path: Path) -> None:
    file = tmp_path / "gray.tif"
    Image.new("LA", (4, 4), (200, 100)).save(file)
    # Pillow reads such files and writes none: the tag of the extra sample, 338, is 1 instead of 2 in them.
    tag = struct.pack("<HHI", 338, 3, 1)
    file.write_bytes(file.read_bytes().replace(tag + b"\x02", tag + b"\x01"))
    with Image.open(file) as image:
        assert image.mode == "La"
        assert to_rgb(image).mode == "RGB"


def test_a_palettes_transparent_entry_is_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.info["transparency"] = 0
    assert to_rgb(image).getpixel((0, 0)) == (255, 255, 255)
