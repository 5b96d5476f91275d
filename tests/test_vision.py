"""The vision add-on: families, reasons for refusing, and what it remembers."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map
from PIL import Image

from mlx_qwen35 import ModelKit, MoeVisionAddOn, VisionAddOn
from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.errors import ConfigError, InsufficientMemoryError, VisionUnavailableError
from mlx_qwen35.patches.qwen3_5 import Model
from mlx_qwen35.prompts.images import ImageMemory
from mlx_qwen35.prompts.pieces import cut
from mlx_qwen35.vision import FeatureCache, make_vision_add_on
from tests.conftest import Bench
from tests.parity.cases import CASES
from tests.tiny import DENSE, MOE, Shape, config_of

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


def test_no_image_is_encoded_twice(kit: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a second run of a prompt, nor for the next turn of a chat with another image."""
    calls = []
    tower = kit.vision._tower
    monkeypatch.setattr(kit.vision, "_tower", Counting(tower, calls))
    kit.vision.features._features.clear()
    images = [Image.new("RGB", (96, 64), colour) for colour in ("red", "green", "blue")]
    one = kit.process_prompt("<|image_pad|>", images=images[:1])
    kit.logits(one)
    kit.generate(one, max_tokens=1)
    assert len(calls) == 1
    kit.generate(kit.process_prompt("<|image_pad|> <|image_pad|>", images=images[:2]), max_tokens=1)
    kit.generate(kit.process_prompt("<|image_pad|> <|image_pad|>", images=[images[2], images[0]]), max_tokens=1)
    assert len(calls) == 3


class Counting:
    """The tower, with a note of every call."""

    def __init__(self, tower: Any, calls: list[Any]) -> None:
        self._tower, self._calls = tower, calls

    @property
    def patch_embed(self) -> Any:
        return self._tower.patch_embed

    def __call__(self, *args: Any) -> Any:
        self._calls.append(args)
        return self._tower(*args)


def test_features_stay_within_their_budget() -> None:
    """The least recently used go first; the newest stays until it is let go."""
    features = FeatureCache(budget=100)
    for name in "abc":
        features.put(name, mx.zeros(10))
    assert features.nbytes == 80
    assert features.get("a") is None
    assert features.get("b") is not None
    features.put("d", mx.zeros(10))
    assert features.get("c") is None
    assert features.get("b") is not None
    features.put("large", mx.zeros(1000))
    assert features.nbytes == 4000
    features.release()
    assert features.nbytes == 0


def test_features_may_fill_their_budget() -> None:
    features = FeatureCache(budget=80)
    for name in "ab":
        features.put(name, mx.zeros(10))
    features.release()
    assert features.nbytes == 80
    features.put("c", mx.zeros(1))
    assert [features.get(name) is None for name in "abc"] == [True, False, False]


def test_pixels_are_given_back_only_for_what_embeddings_do_not_cover(benches: Callable[[Shape], Bench]) -> None:
    """They cost less to have again."""
    bench, held = benches(DENSE), {"pixels": 0, "features": 0}

    class Memory(ImageMemory):
        def pixels(self, nbytes: int) -> None:
            held["pixels"] = nbytes

        def features(self, nbytes: int) -> None:
            held["features"] = nbytes

    vision = make_vision_add_on(
        bench.checkpoint.config, bench.vision._tower, bench.checkpoint.directory, 2**24, Memory()
    )
    file = io.BytesIO()
    RED.save(file, "PNG")
    for missing in (0, 1):
        image = vision.prepare_image(file.getvalue())
        size = sum(features.nbytes for features in vision.encode(cut([image], [])[0], [image]))
        assert held == {"pixels": image.pixel_values.nbytes, "features": size}
        vision.reclaim(size + missing)
        assert held == {"pixels": 0 if missing else image.pixel_values.nbytes, "features": 0}


def test_an_image_is_encoded_in_the_tower_s_dtype(benches: Callable[[Shape], Bench]) -> None:
    """Pixels in float32 would make every activation twice as large, and the embeddings with them."""
    checkpoint = benches(DENSE).checkpoint
    tower = Model.from_checkpoint(checkpoint).vision_tower
    tower.update(tree_map(lambda value: value.astype(mx.bfloat16), tower.parameters()))
    vision = make_vision_add_on(checkpoint.config, tower, checkpoint.directory)
    image = vision.prepare_image(CASES["wide image"].images[0])
    (piece,) = cut([image], ())
    assert not vision.has_seen(piece)
    (found,) = vision.encode(piece, [image])
    assert vision.has_seen(piece)
    assert found.dtype == mx.bfloat16
    (expected,) = benches(DENSE).vision.encode(piece, [image])
    assert mx.abs(found.astype(mx.float32) - expected).max().item() <= 0.05 * mx.abs(expected).max().item()


def test_after_clearing_nothing_knows_a_position(benches: Callable[[Shape], Bench]) -> None:
    """What the add-on keeps is images by their content, within the budget."""
    bench = benches(DENSE)
    prompt = bench.prompt(list(CASES["wide image"].input_ids), CASES["wide image"].images)
    bench.cache(prompt)
    bench.vision.clear_prediction_state()
    kept = {name: value for name, value in vars(bench.vision).items() if name not in ("_tower", "_config")}
    assert set(kept) == {"_preprocessor", "_videos", "_no_videos", "unavailable", "features"}
    assert all(features.ndim == 2 for features in bench.vision.features._features.values())


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
    (piece,) = cut([image], ())
    (found,) = bench.vision.encode(piece, [image])
    assert found.shape == (image.tokens, bench.checkpoint.config.text.hidden_size)


def test_an_image_is_weighed_by_its_header_before_it_is_decoded(
    kit: ModelKit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """3000 x 3000 pixels do not fit; nothing is decoded, and what was entered is given back. A small one fits."""
    path = tmp_path / "large.png"
    Image.new("RGB", (3000, 3000)).save(path)
    # What is left is more where earlier tests have left prefixes behind, which are given up first.
    monkeypatch.setattr(kit.ledger, "limit", kit.ledger.held + 50 * 2**20)
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
        with pytest.raises(InsufficientMemoryError, match=r"images\[0\]: expected at most .*, found 0\.11 GB"):
            kit.process_prompt("<|image_pad|>", images=[path])
    assert "images being decoded" not in kit.ledger.by_purpose()
    assert kit.process_prompt("<|image_pad|>", images=[RED]).image_tokens == 6
    assert "images being decoded" not in kit.ledger.by_purpose()
