"""Images against unpatched mlx-vlm with the same pixels, in float32."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen35 import ModelKit
from tests.parity.cases import CASES, TOLERANCE
from tests.tiny import Shape

# mlx-vlm computes positions per run of placeholders, so adjacent images are one to it.
NAMES = [
    name for name, case in CASES.items() if case.image_sizes and not case.video_sizes and name != "adjacent images"
]


@pytest.mark.some(3)
@pytest.mark.parametrize("name", NAMES)
def test_image_logits_equal_mlx_vlm(
    name: str, dense_and_moe: Shape, kits: Callable[[Shape], ModelKit], checkpoint_dir: Callable[[Shape], Path]
) -> None:
    """TOLERANCE of the largest logit, equal argmax. mlx-vlm needs vision_start in front of an image to see it."""
    from mlx_vlm.utils import load_model

    kit, case = kits(dense_and_moe), CASES[name]
    start = kit.config.media_tokens.vision_start_token_id  # type: ignore[union-attr]
    pad = kit.config.media_tokens.image_token_id  # type: ignore[union-attr]
    ids = [
        token
        for index, id_ in enumerate(case.input_ids)
        for token in ([start, id_] if id_ == pad and (index == 0 or case.input_ids[index - 1] != start) else [id_])
    ]
    prompt = kit.process_prompt(ids, images=case.images)
    logits = np.array(kit.logits(prompt))
    model = load_model(checkpoint_dir(dense_and_moe))
    out = model(
        mx.array(prompt.input_ids)[None],
        pixel_values=mx.array(np.concatenate([image.pixel_values for image in prompt.images])),
        image_grid_thw=mx.array(np.array([image.grid_thw for image in prompt.images])),
        cache=model.language_model.make_cache(),
    )
    expected = np.array(out.logits[0])
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))
    assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.some(3)
@pytest.mark.parametrize("name", ["one video", "a pair of frames", "many frames", "two videos"])
def test_video_logits_equal_mlx_vlm(
    name: str, dense_and_moe: Shape, kits: Callable[[Shape], ModelKit], checkpoint_dir: Callable[[Shape], Path]
) -> None:
    """TOLERANCE of the largest logit, equal argmax, with the same pixels; beside an image mlx-vlm raises."""
    from mlx_vlm.utils import load_model

    kit, case = kits(dense_and_moe), CASES[name]
    prompt = kit.process_prompt(case.input_ids, **case.media)
    logits = np.array(kit.logits(prompt))
    model = load_model(checkpoint_dir(dense_and_moe))
    grids = [(len(video), *prompt.media[video[0]].grid_thw[1:]) for video in prompt.videos]
    out = model(
        mx.array(prompt.input_ids)[None],
        pixel_values=mx.array(np.concatenate([unit.pixel_values for unit in prompt.media])),
        video_grid_thw=mx.array(np.array(grids)),
        cache=model.language_model.make_cache(),
    )
    expected = np.array(out.logits[0])
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))
    assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()
