"""Untested upstream versions are refused with both ranges."""

from importlib.metadata import version

import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.errors import VersionError
from mlx_qwen35.patches import apply_patches
from mlx_qwen35.patches.versions import check_versions, supported_ranges


def test_what_is_installed_is_tested() -> None:
    check_versions()
    assert set(supported_ranges()) == {"mlx-lm", "mlx-vlm"}


@pytest.mark.parametrize("other", ["0.31.0", "0.33.0", "1.0"])
def test_another_mlx_lm_is_refused(monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    monkeypatch.setattr(
        "mlx_qwen35.patches.versions.version", lambda name: other if name == "mlx-lm" else version(name)
    )
    message = rf"expected mlx-lm .*0\.32\.2.*, mlx-vlm .*0\.7\.10.*; found mlx-lm {other}, mlx-vlm {version('mlx-vlm')}"
    for use in (check_versions, apply_patches, lambda: ModelKit.load("anywhere")):
        with pytest.raises(VersionError, match=message):
            use()
