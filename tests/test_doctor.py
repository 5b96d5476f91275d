"""What the doctor finds."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from mlx_qwen35.checkpoints.weight_files import INDEX
from mlx_qwen35.conversion import convert
from mlx_qwen35.doctor import examine, self_check
from mlx_qwen35.errors import CheckpointError, ConfigError
from tests.prompts.families import OURS
from tests.tiny import DENSE, MOE, Shape


@pytest.fixture
def own(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> Path:
    """A checkpoint for one test to change."""
    return Path(shutil.copytree(checkpoint_dir(DENSE), tmp_path / "own"))


def test_a_checkpoint_of_transformers(checkpoint_dir: Callable[[Shape], Path]) -> None:
    report = examine(checkpoint_dir(MOE))
    assert (report.model_type, report.layout) == ("qwen3_5_moe", "transformers")
    assert (report.vision, report.mtp, report.quantization) == (True, True, None)
    assert set(report.dtypes) == {"F32"}
    # One attention layer: keys and values of one head of 64 in float32.
    assert report.cache_bytes_per_token == 2 * 64 * 4
    assert report.memory(1000) - report.memory(0) == 1000 * report.cache_bytes_per_token
    assert set(report.versions) >= {"mlx", "mlx-lm", "mlx-vlm", "transformers"}


def test_a_quantised_conversion(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    report = examine(convert(checkpoint_dir(DENSE), tmp_path / "out", bits=4))
    assert (report.layout, report.vision, report.mtp) == ("mlx-vlm", True, True)
    assert report.quantization is not None
    assert report.quantization["bits"] == 4


def test_the_self_check_passes_and_can_fail(
    checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = self_check(checkpoint_dir(DENSE))
    assert [result.passed for result in results] == [True, True]
    assert "different logits" in results[1].name

    # Vision silently missing: the model answers about an image that it never saw.
    monkeypatch.setattr("mlx_qwen35.state.cache.PromptMedia.place", lambda self, embeddings, start: embeddings)
    assert [result.passed for result in self_check(checkpoint_dir(DENSE))] == [True, False]


def test_a_damaged_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        examine(tmp_path)


def test_what_is_no_checkpoint_is_explained(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(
        ConfigError, match=r"found 'llama'\. By its config\.json it is a llama model; this package runs"
    ):
        examine(tmp_path)


def test_an_ordinary_checkpoint_has_little_to_explain(checkpoint_dir: Callable[[Shape], Path]) -> None:
    assert examine(checkpoint_dir(DENSE)).notes == ("Its chat template can be told whether to think, describes tools.",)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("3.6", "can be told whether to think, can keep the reasoning of earlier answers, describes tools."),
        (
            "3.8",
            "can be told whether to think, knows efforts, can keep the reasoning of earlier answers, describes tools.",
        ),
    ],
)
def test_the_template_s_generation_is_told(own: Path, version: str, words: str) -> None:
    (own / "chat_template.jinja").write_text(OURS[version])
    assert examine(own).notes == (f"Its chat template {words}",)


def without_vision(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if "visual" not in name}
    save_file(kept, directory / "model.safetensors")


def vision_apart(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    without_vision(directory)
    tower = {name: value for name, value in tensors.items() if "visual" in name}
    save_file(tower, directory / "optiq_vision.safetensors")


def setting(name: str, **values: Any) -> Callable[[Path], Any]:
    def change(directory: Path) -> None:
        path = directory / name
        path.write_text(json.dumps((json.loads(path.read_text()) if path.is_file() else {}) | values))

    return change


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (vision_apart, r"The vision tower lies in optiq_vision\.safetensors\."),
        (without_vision, r"It answers text alone: config\.json describes a vision tower, and none of its files holds"),
        (
            setting("config.json", vision_config={}),
            r"It answers text alone: its config\.json describes no vision tower",
        ),
        (
            lambda directory: (directory / "preprocessor_config.json").unlink(),
            r"It answers text alone: .*preprocessor_c",
        ),
        (setting(INDEX, weight_map={"a": "x.safetensors"}), r"model\.safetensors\.index\.json names other files than"),
        (setting("generation_config.json", max_new_tokens=0), r"max_new_tokens: expected .*; it is left out"),
        (lambda directory: (directory / "chat_template.jinja").unlink(), r"It has no chat template"),
        (lambda directory: (directory / "chat_template.jinja").write_text("{% if %}"), r"Its chat template is none \("),
        (
            lambda directory: (directory / "chat_template.jinja").write_text("a"),
            r"Its chat template knows neither tools",
        ),
    ],
    ids=range(9),
)
def test_what_is_unusual_is_told(own: Path, change: Callable[[Path], Any], note: str) -> None:
    change(own)
    notes = examine(own).notes
    assert [re.search(note, found) is not None for found in notes].count(True) == 1, notes
