"""Untested upstream versions are refused with both ranges."""

from importlib.metadata import PackageNotFoundError, version

import pytest
from packaging.requirements import Requirement

from mlx_qwen35 import ModelKit
from mlx_qwen35.errors import VersionError
from mlx_qwen35.patches import apply_patches, versions
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


@pytest.mark.parametrize(("library", "other"), [("mlx-lm", "0.31.9"), ("mlx-vlm", "0.6.0"), ("mlx-vlm", "99.0")])
def test_either_library_is_looked_at(monkeypatch: pytest.MonkeyPatch, library: str, other: str) -> None:
    monkeypatch.setattr(versions, "version", lambda name: other if name == library else version(name))
    with pytest.raises(VersionError, match=rf"found .*{library} {other}"):
        check_versions()


def test_a_version_before_a_release_is_one_of_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = {name: Requirement(f"{name}>=1.0,<2.0") for name in ("mlx-lm", "mlx-vlm")}
    monkeypatch.setattr(versions, "supported_ranges", lambda: ranges)
    monkeypatch.setattr(versions, "version", lambda name: "1.1.dev3")
    check_versions()
    monkeypatch.setattr(versions, "version", lambda name: "2.0")
    with pytest.raises(VersionError):
        check_versions()


def test_a_source_tree_that_was_not_installed_declares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(versions, "requires", missing)
    assert supported_ranges() == {}
    check_versions()


@pytest.mark.parametrize(
    ("versions", "fits"),
    [
        ({"mlx-vlm": "0.6.9"}, False), ({"mlx-vlm": "0.8.0"}, False), ({"mlx-vlm": "0.7.11"}, True),
        ({"mlx-lm": "0.32.9", "mlx-vlm": "0.7.99"}, True), ({"mlx-lm": "0.32.3rc1"}, True),
        ({"mlx-lm": "0.31.0", "mlx-vlm": "0.8.0"}, False),
    ],
    ids=str,
)  # fmt: skip
def test_each_of_them_has_to_be_in_its_range(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], fits: bool
) -> None:
    """A release candidate of a version that fits does too."""
    monkeypatch.setattr("mlx_qwen35.patches.versions.version", lambda name: versions.get(name) or version(name))
    if fits:
        check_versions()
    else:
        with pytest.raises(VersionError, match="installed packages: expected mlx-lm .*, mlx-vlm .*; found mlx-lm "):
            check_versions()
