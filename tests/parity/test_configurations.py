"""Configurations as they are in the wild, against transformers' own classes on the same directory; needs torch."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_qwen35 import ModelKit
from tests.parity.cases import CASES, TOLERANCE
from tests.tiny import DENSE, MOE, Shape

pytestmark = pytest.mark.parity

Change = Callable[[dict[str, Any]], Any]


def without(*names: str) -> Change:
    """Leaves fields of config.json and of its text_config out."""

    def change(raw: dict[str, Any]) -> None:
        for name in names:
            raw.pop(name, None)
            raw["text_config"].pop(name, None)

    return change


def text(**values: Any) -> Change:
    return lambda raw: raw["text_config"].update(values)


def yarn(**settings: Any) -> Change:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 100.0}
    return text(rope_parameters=rope | {"partial_rotary_factor": 0.25, "mrope_section": [3, 3, 2]} | settings)


CONFIGURATIONS: dict[str, tuple[Shape, Change]] = {
    "what has a default is left out": (
        DENSE,
        without(
            "rope_parameters", "layer_types", "attention_bias", "rms_norm_eps", "hidden_act", "max_position_embeddings",
            "tie_word_embeddings", "eos_token_id", "dtype", "video_token_id",
        ),
    ),
    "experts, what has a default is left out": (
        MOE, without("rope_parameters", "layer_types", "attention_bias", "rms_norm_eps", "hidden_act"),
    ),
    "the rotary embedding in the old form": (
        DENSE,
        text(
            rope_parameters=None, rope_theta=50.0, partial_rotary_factor=0.5,
            rope_scaling={"type": "yarn", "factor": 2.0},
        ),
    ),
    "Qwen3.8's further fields": (DENSE, text(output_gate_type="swish", mtp_use_dedicated_embeddings=False)),
    "YaRN with a factor on attention": (DENSE, yarn(attention_factor=1.5)),
    "YaRN with both scales, not truncated": (DENSE, yarn(mscale=0.7, mscale_all_dim=2.0, truncate=False)),
}  # fmt: skip


@pytest.mark.parametrize(("shape", "change"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_logits_equal_the_reference(
    checkpoint_dir: Callable[[Shape], Path], tmp_path: Path, shape: Shape, change: Change
) -> None:
    """float32, text and two images: TOLERANCE of the largest logit, equal argmax."""
    pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    from tests.parity.reference import Reference

    directory = Path(shutil.copytree(checkpoint_dir(shape), tmp_path / "checkpoint"))
    raw = json.loads((directory / "config.json").read_text())
    change(raw)
    (directory / "config.json").write_text(json.dumps(raw))
    reference = Reference(directory)
    with ModelKit.load(directory) as kit:
        for name in ("text", "two images"):
            prompt = kit.process_prompt(CASES[name].input_ids, images=CASES[name].images)
            found, expected = np.array(kit.logits(prompt)), reference.logits(prompt)
            np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))
            assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
