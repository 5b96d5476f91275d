"""mlx_lm.convert with the patches in place: the vision tower stays, and so does what is needed to load it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest

from mlx_qwen35 import ModelKit, apply_patches
from mlx_qwen35.patches.saving import keeping_vision
from tests.parity.cases import CASES, TOLERANCE
from tests.tiny import DENSE, Shape, config_of, write_checkpoint


@pytest.mark.some(1)
@pytest.mark.parametrize("quantize", [False, True])
def test_what_mlx_lm_converts_answers_about_images(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], dense_and_moe: Shape, quantize: bool
) -> None:
    from mlx_vlm.utils import load_model as load_vlm

    source, out = checkpoint_dir(dense_and_moe), tmp_path / "out"
    with apply_patches():
        mlx_lm.convert(str(source), str(out), quantize=quantize, q_bits=8)
    config = json.loads((out / "config.json").read_text())
    assert config["vision_config"] == config_of(dense_and_moe)["vision_config"]
    # mlx-lm writes no settings of the image processor.
    (out / "preprocessor_config.json").write_text((source / "preprocessor_config.json").read_text())
    case, logits = CASES["two images"], []
    for directory in (source, out):
        with ModelKit.load(directory) as kit:
            logits.append(np.array(kit.logits(kit.process_prompt(case.input_ids, images=case.images))))
    assert np.isfinite(logits[1]).all()
    if not quantize:
        np.testing.assert_array_equal(logits[1], logits[0])
    tokens = mx.array([CASES["text"].input_ids])
    with ModelKit.load(out) as kit:
        expected = np.array(kit.logits(kit.process_prompt(CASES["text"].input_ids)))
    assert np.abs(np.array(load_vlm(out)(tokens).logits[0]) - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_without_a_tower_nothing_is_announced(tmp_path: Path) -> None:
    """A checkpoint may have the settings of a tower, and none."""
    source = write_checkpoint(tmp_path / "source", replace(DENSE, name="text-only", text_only=True))
    (source / "config.json").write_text(json.dumps(config_of(DENSE)))
    with apply_patches():
        mlx_lm.convert(str(source), str(tmp_path / "out"))
    assert "vision_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_other_models_are_saved_as_mlx_lm_does(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"vision_tower.a": "x"}}))
    calls: list[tuple[object, ...]] = []

    def save_config(config: object, path: object, *, keep_vision_config: bool) -> None:
        calls.append((config, path, keep_vision_config))

    save = keeping_vision(save_config)
    for model_type, keep in (("llama", False), ("llama", True), ("qwen3_5", False), ("qwen3_5_moe", False)):
        save({"model_type": model_type}, tmp_path / "config.json", keep_vision_config=keep)
    assert [call[2] for call in calls] == [False, True, True, True]


@pytest.mark.parametrize(
    ("index", "keep"),
    [
        (None, False), ({}, False), ({"weight_map": None}, False), ({"weight_map": ["vision_tower.a"]}, False),
        ({"weight_map": {"language_model.vision_tower.a": "x"}}, False),
        ({"weight_map": {"language_model.a": "x", "vision_tower.a": "x"}}, True),
    ],
    ids=str,
)  # fmt: skip
def test_a_tower_is_one_that_the_index_beside_the_file_names(tmp_path: Path, index: object, keep: bool) -> None:
    if index is not None:
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    calls: list[bool] = []
    save = keeping_vision(lambda config, path, *, keep_vision_config: calls.append(keep_vision_config))
    for model_type in ("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"):
        save({"model_type": model_type}, str(tmp_path / "config.json"))
    assert calls == [keep] * 4
