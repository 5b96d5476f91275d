"""What the doctor finds."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_qwen35.conversion import convert
from mlx_qwen35.doctor import examine, self_check
from mlx_qwen35.errors import CheckpointError
from tests.tiny import DENSE, MOE, Shape


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
