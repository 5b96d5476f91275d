"""An image processor's settings: what transformers makes of them, to the bit, or an error."""

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
        expected = Qwen2VLImageProcessorPil(**(SETTINGS | changes))(images=[image], return_tensors="np")
        found = ImagePreprocessor(written(**changes), vision)(image)
        assert found.grid_thw == tuple(expected["image_grid_thw"][0])
        assert found.pixel_values.dtype == np.float32
        np.testing.assert_array_equal(found.pixel_values, expected["pixel_values"])


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), limit=st.sampled_from([None, 1024, 5000, 20000]))
def test_sizes_are_those_of_transformers(height: int, width: int, limit: int | None) -> None:
    settings = ImageSettings(16, 2, 2, 1024, 65536, 3, np.zeros((3, 256), np.float32))
    try:
        expected = smart_resize(height, width, 32, min_pixels=1024, max_pixels=limit or 65536)
    except ValueError:
        with pytest.raises(ValueError, match="aspect ratio"):
            settings.resized(height, width, limit)
    else:
        assert settings.resized(height, width, limit) == expected


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
        ({"size": None, "max_pixels": 0}, "max_pixels: expected a number of pixels, found 0"),
        ({"max_pixels": True}, "max_pixels: expected a number of pixels, found True"),
    ],
)
def test_what_no_image_could_be_prepared_by_is_refused(
    written: Callable[..., Path], vision: VisionConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_image_settings(written(**changes), vision)
