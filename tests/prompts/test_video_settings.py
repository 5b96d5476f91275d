"""How videos are sampled and resized: as transformers does it, by the checkpoint's own files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_qwen35.checkpoints.config import VisionConfig
from mlx_qwen35.errors import CheckpointError, MediaError, OptionError
from mlx_qwen35.prompts.video_settings import VideoSettings, read_video_settings
from tests.parity.video_cases import PUBLISHED, RATES, SAMPLINGS, TOTALS, sizes
from tests.tiny import write_processor

SETTINGS = VideoSettings(patch_size=16, temporal_patch_size=2, merge_size=2)


@pytest.mark.parametrize(("fps", "low", "high"), SAMPLINGS)
def test_frames_are_sampled_as_transformers_samples_them(golden: Any, fps: float, low: int, high: int) -> None:
    expected = golden[f"sampled/{fps}"]
    rows = []
    for total in TOTALS:
        for rate in RATES:
            found = SETTINGS.sample(total, rate, fps, low, high)
            row = [len(found), *found[:: max(1, len(found) // 8)][:8]]
            rows.append(row + [-1] * (9 - len(row)))
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("capped", [False, True])
def test_sizes_are_transformers(golden: Any, capped: bool) -> None:
    """Where the reference refuses, with a message of its own."""
    settings = replace(SETTINGS, shortest_edge=2**16, longest_edge=2**22, cap_pixels_per_frame=capped)
    refused = 0
    for (t, h, w), expected in zip(sizes(), golden[f"resized/{capped}"], strict=True):
        if expected.any():
            assert settings.resized(t, h, w, None, "video") == tuple(expected), (t, h, w)
        else:
            refused += 1
            with pytest.raises(MediaError, match=rf"^video: expected frames at most 200 times .*, found {w} x {h}$"):
                settings.resized(t, h, w, None, "video")
    assert 0 < refused < len(sizes()) // 4


def test_a_pixel_budget_holds_for_all_frames_together() -> None:
    settings = replace(SETTINGS, shortest_edge=4096)
    assert settings.resized(4, 256, 256, None, "video") == (256, 256)
    assert settings.resized(4, 256, 256, 4 * 128 * 128, "video") == (128, 128)
    with pytest.raises(OptionError, match=r"max_pixels: expected at least 4096 .*, found 4095"):
        settings.resized(4, 256, 256, 4095, "video")
    with pytest.raises(
        MediaError, match=r"fits into 8192 pixels, found 100 frames of 256 x 256, which take 102400; ask"
    ):
        settings.resized(100, 256, 256, 8192, "video")


@pytest.mark.parametrize("capped", [False, True])
def test_a_budget_may_be_the_least_that_there_is(capped: bool) -> None:
    """As if the checkpoint itself had it; a frame has its least even where all together go beyond the budget."""
    settings = replace(SETTINGS, shortest_edge=16384, cap_pixels_per_frame=capped)
    frames = 10 if capped else 4
    found = settings.resized(frames, 256, 256, 16384, "video")
    assert found == replace(settings, longest_edge=16384).resized(frames, 256, 256, None, "video")
    assert (frames * found[0] * found[1] > 16384) is capped


def write(directory: Path, name: str, settings: dict[str, Any]) -> None:
    (directory / name).write_text(json.dumps(settings))


def test_the_file_is_the_one_that_transformers_reads(tmp_path: Path, vision: VisionConfig) -> None:
    """Nested in the newest, in one of their own, or the images'; see `get_video_processor_dict`."""
    with pytest.raises(CheckpointError, match="expected video_preprocessor_config.json .*, found none; copy it"):
        read_video_settings(tmp_path, vision)
    write_processor(tmp_path)
    assert read_video_settings(tmp_path, vision).longest_edge == 256 * 256
    write(tmp_path, "video_preprocessor_config.json", PUBLISHED)
    assert read_video_settings(tmp_path, vision).longest_edge == 25165824
    for other in ({"processor_class": "Qwen3VLProcessor"}, {"video_processor": None}, {"video_processor": "x"}):
        write(tmp_path, "processor_config.json", other)
        assert read_video_settings(tmp_path, vision).longest_edge == 25165824
    nested = PUBLISHED | {"size": {"longest_edge": 77, "shortest_edge": 7}, "fps": 3, "max_frames": 9, "min_frames": 2}
    write(tmp_path, "processor_config.json", {"video_processor": nested})
    found = read_video_settings(tmp_path, vision)
    assert (found.shortest_edge, found.longest_edge) == (7, 77)
    assert (found.fps, found.min_frames, found.max_frames) == (3.0, 2, 9)


def test_what_a_file_leaves_out_is_transformers_default(tmp_path: Path, vision: VisionConfig) -> None:
    write(tmp_path, "video_preprocessor_config.json", {"patch_size": 16})
    assert read_video_settings(tmp_path, vision) == SETTINGS


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"patch_size": 14}, r"expected patch_size 16 as in config.json, found 14"),
        ({"temporal_patch_size": 1}, r"expected temporal_patch_size 2"),
        ({"merge_size": 3}, r"expected merge_size 2"),
        ({"do_resize": False}, r"do_resize: expected True for videos, found False"),
        ({"resample": 2}, r"resample: expected 3 for videos, found 2"),
        ({"num_frames": 8}, r"num_frames: expected None for videos, found 8"),
        ({"do_rescale": False}, r"do_rescale: expected True for videos, found False"),
        ({"do_normalize": False}, r"do_normalize: expected True for videos, found False"),
        ({"do_sample_frames": False}, r"do_sample_frames: expected True for videos, found False"),
        ({"do_center_crop": True}, r"do_center_crop: expected None for videos, found True"),
        ({"do_pad": True}, r"do_pad: expected None for videos, found True"),
        ({"fps": True}, r"fps: expected a number above 0, found True"),
        ({"fps": float("inf")}, r"fps: expected a number above 0, found inf"),
        ({"min_frames": True}, r"min_frames: expected a whole number of at least 1, found True"),
        ({"max_video_tokens": 0}, r"max_video_tokens: expected a whole number of at least 1, found 0"),
        ({"max_frames": 2**31}, r"max_frames: expected a whole number of at least 1, found 2147483648"),
        ({"image_mean": 1.5}, r"image_mean: expected 3 numbers from 0 to 1, found 1.5"),
        ({"rescale_factor": 2}, r"image_mean: expected 3 numbers from 0 to 1, .* rescale_factor of 2"),
        ({"size": 5}, r"size: expected an object, found 5"),
        ({"size": {"longest_edge": 0, "shortest_edge": 1}}, r"size.longest_edge: expected a whole number .*, found 0"),
        ({"size": {"longest_edge": 5}}, r"size.shortest_edge: expected a whole number .*, found None"),
        ({"fps": 0}, r"fps: expected a number above 0, found 0"),
        ({"fps": "2"}, r"fps: expected a number above 0, found '2'"),
        ({"max_frames": 2.5}, r"max_frames: expected a whole number of at least 1, found 2.5"),
        ({"image_std": [0.5, 0.5]}, r"image_std: expected 3 numbers from 0 to 1, found \[0.5, 0.5\]"),
        ({"image_std": [0.5, 0, 0.5]}, r"image_std: expected 3 numbers"),
        ({"image_mean": ["a"] * 3}, r"image_mean: expected 3 numbers"),
        ({"rescale_factor": "x"}, r"image_mean: expected 3 numbers from 0 to 1, .* rescale_factor of 'x'"),
    ],
)
def test_settings_that_no_video_could_be_prepared_by_are_refused(
    tmp_path: Path, vision: VisionConfig, changed: dict[str, Any], message: str
) -> None:
    write(tmp_path, "video_preprocessor_config.json", PUBLISHED | changed)
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}.*{message}"):
        read_video_settings(tmp_path, vision)


def test_every_setting_is_read_from_its_own_field(tmp_path: Path, vision: VisionConfig) -> None:
    numbers = {"min_frames": 5, "max_frames": 6, "max_video_tokens": 7}
    written = PUBLISHED | numbers | {
        "size": {"shortest_edge": 8, "longest_edge": 2**31 - 1}, "fps": 0.5, "cap_pixels_per_frame": True,
        "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 1], "rescale_factor": 0.5,
    }  # fmt: skip
    write(tmp_path, "video_preprocessor_config.json", written)
    assert read_video_settings(tmp_path, vision) == VideoSettings(
        16, 2, 2, shortest_edge=8, longest_edge=2**31 - 1, fps=0.5, cap_pixels_per_frame=True,
        mean=(0.2, 0.4, 0.6), std=(0.8, 1.0, 2.0), **numbers,
    )  # fmt: skip


@pytest.mark.parametrize("value", [0.25, [0.25], [0.25, 0.25, 0.25]])
def test_one_number_may_be_that_of_all_channels(tmp_path: Path, vision: VisionConfig, value: Any) -> None:
    write(tmp_path, "video_preprocessor_config.json", PUBLISHED | {"image_std": value, "rescale_factor": None})
    found = read_video_settings(tmp_path, vision)
    assert found.std == (63.75, 63.75, 63.75)
    assert found.mean == (127.5, 127.5, 127.5)
    assert found.channels == 3


def test_nulls_and_what_is_switched_off_say_nothing(tmp_path: Path, vision: VisionConfig) -> None:
    names = ("do_resize", "do_rescale", "do_normalize", "do_sample_frames", "resample", "num_frames", "do_pad", "fps")
    more = ("size", "min_frames", "max_frames", "max_video_tokens", "cap_pixels_per_frame", "image_mean", "image_std")
    settings = dict.fromkeys((*names, *more)) | {"do_center_crop": False, "num_frames": False}
    write(tmp_path, "video_preprocessor_config.json", settings)
    assert read_video_settings(tmp_path, vision) == SETTINGS


def test_everything_that_transformers_writes_is_read(tmp_path: Path, vision: VisionConfig) -> None:
    """With its many settings for other models, switched off."""
    written = PUBLISHED | {
        "crop_size": None, "data_format": "channels_first", "default_to_square": True, "device": None, "pad_size": None,
        "do_center_crop": None, "do_pad": False, "do_convert_rgb": True, "do_normalize": True, "do_rescale": True,
        "do_resize": True, "do_sample_frames": True, "fps": 2, "max_frames": 768, "min_frames": 4, "num_frames": None,
        "resample": 3, "rescale_factor": 0.00392156862745098, "return_metadata": False, "video_metadata": None,
    }  # fmt: skip
    write(tmp_path, "video_preprocessor_config.json", written)
    found = read_video_settings(tmp_path, vision)
    assert replace(found, shortest_edge=1, longest_edge=1) == replace(SETTINGS, shortest_edge=1, longest_edge=1)
