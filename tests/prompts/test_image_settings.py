"""An image processor's settings: what transformers makes of them, to the bit, or an error."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from mlx_qwen35.checkpoints.config import VisionConfig
from mlx_qwen35.errors import CheckpointError
from mlx_qwen35.prompts.image_settings import ImageSettings, read_image_settings
from mlx_qwen35.prompts.images import ImagePreprocessor

SETTINGS = {
    "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "size": {"shortest_edge": 1024, "longest_edge": 65536},
}  # fmt: skip
OTHERS: dict[str, dict[str, Any]] = {
    "nothing more": {},
    "own means": {"image_mean": [0.5, 0.25, 0.1], "image_std": [0.2, 0.3, 0.9]},
    "one number for all channels": {"image_mean": 0.5, "image_std": 0.5},
    "another factor": {"rescale_factor": 1 / 127.5},
    "values as they are": {"do_rescale": False, "do_normalize": False},
    "not normalised": {"do_normalize": False},
    "not rescaled": {"do_rescale": False},
    "another filter": {"resample": 2},
    "older names beside newer ones": {"min_pixels": 4096, "max_pixels": 32768},
    "older names inside too, as Qwen2-VL has them": {
        "size": {"min_pixels": 4096, "max_pixels": 32768},
        "min_pixels": 4096,
        "max_pixels": 32768,
    },
    "what it does not heed": {"do_center_crop": True, "do_pad": True, "crop_size": 5},
}


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(SETTINGS | changes))
        return tmp_path

    return write


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_pixels_are_those_of_transformers_to_the_bit(
    written: Callable[..., Path], vision: VisionConfig, changes: dict[str, Any]
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (70, 110, 4), dtype=np.uint8)
    for image in (Image.fromarray(pixels[..., :3]), Image.fromarray(pixels), Image.fromarray(pixels[..., 0])):
        settings = copy.deepcopy(SETTINGS | changes)  # in which it writes
        expected = Qwen2VLImageProcessorPil(**settings)(images=[image], return_tensors="np")
        found = ImagePreprocessor(written(**changes), vision)(image)
        assert found.grid_thw == tuple(expected["image_grid_thw"][0])
        assert found.pixel_values.dtype == np.float32
        np.testing.assert_array_equal(found.pixel_values, expected["pixel_values"])


def test_sides_that_a_file_leaves_out_are_those_of_its_class(tmp_path: Path, vision: VisionConfig) -> None:
    path, image = tmp_path / "preprocessor_config.json", Image.new("RGB", (70, 110), "red")
    settings = {name: SETTINGS[name] for name in ("patch_size", "size")}
    path.write_text(json.dumps(settings))
    expected = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)(images=[image], return_tensors="np")
    found = ImagePreprocessor(tmp_path, vision)(image)
    np.testing.assert_array_equal(found.pixel_values, expected["pixel_values"])
    path.write_text(json.dumps({"patch_size": 14, "size": SETTINGS["size"]}))
    with pytest.raises(CheckpointError, match="expected patch_size 16 as in config.json, found 14"):
        read_image_settings(tmp_path, vision)


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    limit=st.sampled_from([None, 1024, 5000, 20000]),
    least=st.sampled_from([None, 1, 4000, 30000, 10**9]),
)
def test_sizes_are_those_of_transformers(height: int, width: int, limit: int | None, least: int | None) -> None:
    """With an image's own bounds, those of its smart_resize."""
    high = limit or 65536
    low = max(1024, min(least or 0, high))
    settings = ImageSettings(16, 2, 2, 1024, 65536, 3, np.zeros((3, 256), np.float32))
    try:
        expected = smart_resize(height, width, 32, min_pixels=low, max_pixels=high)
    except ValueError:
        with pytest.raises(ValueError, match="aspect ratio"):
            settings.resized(height, width, limit, least)
    else:
        assert settings.resized(height, width, limit, least) == expected


@pytest.mark.parametrize(
    ("changes", "edges"),
    [
        ({}, (1024, 65536)),
        ({"min_pixels": 7}, (7, 65536)),
        ({"max_pixels": 77}, (1024, 77)),
        ({"min_pixels": 7, "max_pixels": 2**31 - 1}, (7, 2**31 - 1)),
        ({"min_pixels": None, "max_pixels": None}, (1024, 65536)),
        # Without sizes, the least is what the class has.
        ({"size": None, "max_pixels": 9000}, (56 * 56, 9000)),
        ({"size": None, "min_pixels": 1, "max_pixels": 9000}, (1, 9000)),
        ({"size": {"shortest_edge": 5}, "max_pixels": 9000}, (5, 9000)),
    ],
    ids=str,
)
def test_the_older_names_of_sizes_count_before_the_newer(
    written: Callable[..., Path], vision: VisionConfig, changes: dict[str, Any], edges: tuple[int, int]
) -> None:
    found = read_image_settings(written(**changes), vision)
    assert (found.shortest_edge, found.longest_edge) == edges


def test_settings_nested_in_the_newest_file_count_before_those_of_the_older(
    tmp_path: Path, vision: VisionConfig
) -> None:
    """As in transformers: its processors write that file, and leave the older one where it was."""
    older, newer = tmp_path / "preprocessor_config.json", tmp_path / "processor_config.json"
    older.write_text(json.dumps(SETTINGS))
    newer.write_text(json.dumps({"image_processor": SETTINGS | {"image_mean": [0.1] * 3, "resample": 2}}))
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (70, 110, 3), dtype=np.uint8))
    expected = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)(images=[image], return_tensors="np")
    found = ImagePreprocessor(tmp_path, vision)(image)
    np.testing.assert_array_equal(found.pixel_values, expected["pixel_values"])


def test_settings_are_those_of_the_older_file_where_the_newest_nests_none(tmp_path: Path, vision: VisionConfig) -> None:
    """Or none with sizes: such are no image processor's."""
    older, newer = tmp_path / "preprocessor_config.json", tmp_path / "processor_config.json"
    with pytest.raises(CheckpointError, match=r"expected preprocessor_config.json with the image sizes .* found none"):
        read_image_settings(tmp_path, vision)
    older.mkdir()
    newer.write_text(json.dumps({"processor_class": "x", "image_processor": SETTINGS | {"resample": 1}}))
    assert read_image_settings(tmp_path, vision).resample == 1
    older.rmdir()
    for other in ({"patch_size": 16}, {"size": SETTINGS["size"]}, {"patch_size": 16, "min_pixels": 5}):
        older.write_text(json.dumps(other))
        assert read_image_settings(tmp_path, vision).resample == 1
    older.write_text(json.dumps(SETTINGS | {"resample": 0}))
    newer.write_text(json.dumps({"processor_class": "x", "image_processor": {"patch_size": 16}}))
    assert read_image_settings(tmp_path, vision).resample == 0
    older.write_text(json.dumps(SETTINGS | {"resample": None, "rescale_factor": None, "image_mean": None}))
    found = read_image_settings(tmp_path, vision)
    assert found.resample == 3
    assert (found.patch_size, found.temporal_patch_size, found.merge_size) == (16, 2, 2)
    white = (1 - np.array([0.48145466, 0.4578275, 0.40821073])) / np.array([0.26862954, 0.26130258, 0.27577711])
    np.testing.assert_allclose(found.values[:, 255], white, rtol=1e-6)


def test_a_shape_may_be_as_long_as_the_limit_and_no_longer() -> None:
    settings = ImageSettings(16, 2, 2, 1024, 65536, 3, np.zeros((3, 256), np.float32))
    assert settings.resized(10, 2000, None)
    for height, width in ((10, 2001), (2001, 10)):
        with pytest.raises(ValueError, match="aspect ratio must be smaller than 200"):
            settings.resized(height, width, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_resize": False}, "do_resize: expected true, found false"),
        ({"do_convert_rgb": False}, "do_convert_rgb: expected true, found false"),
        ({"resample": 9}, "resample: expected a number from 0 to 5, found 9"),
        ({"resample": True}, "resample: expected a number from 0 to 5, found True"),
        ({"rescale_factor": "1"}, "rescale_factor: expected a number, found '1'"),
        ({"image_std": [0.5, 0, 0.5]}, r"image_std: expected numbers above 0, found \[0.5, 0, 0.5\]"),
        ({"image_mean": [0.5, 0.5]}, r"image_mean: expected numbers from 0 to 1, found \[0.5, 0.5\]"),
        ({"image_mean": [0.5, 0.5, 2]}, r"image_mean: expected numbers from 0 to 1, found \[0.5, 0.5, 2\]"),
        ({"image_mean": "x"}, "image_mean: expected numbers from 0 to 1, found 'x'"),
        ({"size": [1]}, r"size: expected an object, found \[1\]"),
        ({"size": {"height": 3}}, "size.shortest_edge: expected a number of pixels, found None"),
        ({"patch_size": 14}, "image processor: expected patch_size 16 as in config.json, found 14"),
        ({"temporal_patch_size": None}, "expected temporal_patch_size 2 as in config.json, found None"),
        ({"merge_size": 1}, "expected merge_size 2 as in config.json, found 1"),
        ({"resample": -1}, "resample: expected a number from 0 to 5, found -1"),
        ({"resample": 6}, "resample: expected a number from 0 to 5, found 6"),
        ({"rescale_factor": True}, "rescale_factor: expected a number, found True"),
        ({"image_mean": -0.1}, "image_mean: expected numbers from 0 to 1, found -0.1"),
        ({"size": {"shortest_edge": 0, "longest_edge": 5}}, "size.shortest_edge: expected a number of pixels, found 0"),
        ({"size": {"shortest_edge": 5}}, "size.longest_edge: expected a number of pixels, found None"),
        ({"min_pixels": 2**31}, "min_pixels: expected a number of pixels, found 2147483648"),
        ({"min_pixels": 4.5}, "min_pixels: expected a number of pixels, found 4.5"),
        ({"size": None, "max_pixels": 0}, "max_pixels: expected a number of pixels, found 0"),
        ({"max_pixels": True}, "max_pixels: expected a number of pixels, found True"),
    ],
)
def test_what_no_image_could_be_prepared_by_is_refused(
    written: Callable[..., Path], vision: VisionConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_image_settings(written(**changes), vision)
