"""The models command over a cache of its own."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_commands import run
from tests.test_cached import add, cache
from tests.tiny import DENSE, Shape, config_of

__all__ = ["cache"]  # the fixture


def test_listing(cache: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    assert "No Qwen3.5-class checkpoint in" in run("models").stdout
    add(cache, "tiny/model", checkpoint_dir(DENSE))
    for arguments in ((), ("list",)):
        head, row, place = run("models", *arguments).stdout.splitlines()
        assert head.split() == ["model", "size", "bits", "pictures", "MTP", "fits"]
        assert row.split() == ["tiny/model", "0.0", "GB", "16", "yes", "yes", "yes"]
        assert place == f"in {cache}"
    report = json.loads(run("models", "list", "--json").stdout)
    assert report["directory"] == str(cache)
    assert (report["models"][0]["id"], report["models"][0]["fits"]) == ("tiny/model", True)


def test_removing_asks(cache: Path, checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    add(cache, "tiny/model", checkpoint_dir(DENSE))
    refused = run("models", "rm", "tiny/model")
    assert (refused.returncode, list(cache.iterdir()) != []) == (2, True)
    assert "expected a terminal to ask on, or --yes" in refused.stderr
    monkeypatch.setattr("mlx_qwen35.cli.models.asks", lambda: True)
    assert run("models", "rm", "tiny/model", stdin="\n").stdout.endswith("kept\n")
    assert list(cache.iterdir()) != []
    assert "removed tiny/model" in run("models", "rm", "tiny/model", stdin="y\n").stdout
    assert list(cache.iterdir()) == []
    assert run("models", "rm", "tiny/model", "--yes").returncode == 2


def test_pulling_says_what_came(checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    directory = checkpoint_dir(DENSE)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file, revision: str(directory / file))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **options: str(directory))
    assert run("models", "pull", "tiny/model").stdout.splitlines()[1].startswith("tiny/model  0.0 GB  16 ")


def test_a_pull_that_brings_what_cannot_be_loaded_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_of(DENSE)))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file, revision: str(tmp_path / file))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **options: str(tmp_path))
    done = run("models", "pull", "tiny/model")
    assert done.returncode == 2
    assert "tiny/model: downloaded, and cannot be loaded: expected model*.safetensors, found none" in done.stderr
