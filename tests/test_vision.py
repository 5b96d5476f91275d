"""The vision add-on: families, reasons for refusing, and what it remembers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_qwen35 import ModelKit, MoeVisionAddOn, VisionAddOn
from mlx_qwen35.config import ModelConfig
from mlx_qwen35.errors import ConfigError, VisionUnavailableError
from tests.checkpoints import DENSE, MOE, Shape, config_of
from tests.conftest import Bench
from tests.parity.cases import CASES

RED = Image.new("RGB", (96, 64), "red")


def test_each_family_has_its_add_on(kits: Callable[[Shape], ModelKit], tmp_path: Path) -> None:
    assert type(kits(DENSE).vision) is VisionAddOn
    assert type(kits(MOE).vision) is MoeVisionAddOn
    with pytest.raises(ConfigError, match="MoeVisionAddOn: expected model_type qwen3_5_moe or .*, found qwen3_5"):
        MoeVisionAddOn(ModelConfig.from_dict(config_of(DENSE)), None, tmp_path)


def test_without_settings_images_are_refused_and_text_is_served(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    """Guessing pixel limits would give other tokens than the model was trained on."""
    import shutil

    directory = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "copy")
    (directory / "preprocessor_config.json").unlink()
    with ModelKit.load(directory) as kit:
        assert np.isfinite(np.array(kit.logits(kit.process_prompt([1, 2, 3])))).all()
        with pytest.raises(VisionUnavailableError, match=r"images\[0\]: .*expected preprocessor_config.json"):
            kit.process_prompt("<|image_pad|>", images=[RED])


def test_an_image_is_encoded_once_for_the_prompt_at_hand(benches: Callable[[Shape], Bench]) -> None:
    bench = benches(DENSE)
    bench.vision.clear_prediction_state()
    prompt = bench.prompt(list(CASES["two images"].input_ids), CASES["two images"].images)
    first, second = bench.vision.media(prompt), bench.vision.media(prompt)
    assert first is not None
    assert second is not None
    assert all(one is other for one, other in zip(first.features, second.features, strict=True))
    bench.vision.clear_prediction_state()
    third = bench.vision.media(prompt)
    assert third is not None
    assert third.features[0] is not first.features[0]
    assert mx.array_equal(third.features[0], first.features[0]).item()  # type: ignore[arg-type]


def test_after_clearing_nothing_knows_a_position_or_an_image(benches: Callable[[Shape], Bench]) -> None:
    vision = benches(DENSE).vision
    prompt = benches(DENSE).prompt(list(CASES["wide image"].input_ids), CASES["wide image"].images)
    vision.media(prompt)

    def held(value: Any) -> list[Any]:
        if isinstance(value, (mx.array, np.ndarray)):
            return [value]
        if isinstance(value, dict):
            return [item for entry in value.values() for item in held(entry)]
        if isinstance(value, (list, tuple, set)):
            return [item for entry in value for item in held(entry)]
        return []

    own = {name: value for name, value in vars(vision).items() if name != "_tower"}
    assert held(own)
    vision.clear_prediction_state()
    own = {name: value for name, value in vars(vision).items() if name != "_tower"}
    assert not held(own)


def test_process_prompt_clears_first(kit: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a prompt that is refused has cleared what the one before it left."""
    calls = []
    monkeypatch.setattr(kit.vision, "clear_prediction_state", lambda: calls.append("cleared"))
    monkeypatch.setattr(kit.vision, "prepare_image", lambda *a, **k: calls.append("prepared") or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kit.process_prompt("<|image_pad|>", images=[RED])
    assert calls == ["cleared", "prepared"]


def test_features_have_the_decoder_s_size(benches: Callable[[Shape], Bench], dense_and_moe: Shape) -> None:
    bench = benches(dense_and_moe)
    image = bench.vision.prepare_image(RED)
    assert bench.vision.encode(image).shape == (image.tokens, bench.checkpoint.config.text.hidden_size)
