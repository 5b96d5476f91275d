"""The hub's cache as huggingface_hub itself lays it out."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_qwen35 import cached, convert
from mlx_qwen35.doctor import examine
from mlx_qwen35.errors import CheckpointError, OptionError
from tests.tiny import DENSE, MOE, Shape, write_checkpoint


def add(root: Path, name: str, source: Path, commit: str = "a" * 40) -> Path:
    """What a download leaves behind: blobs, and a snapshot of links to them."""
    repository = root / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        blob = repository / "blobs" / f"{commit[:8]}{path.name}"
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    (repository / "refs" / "main").write_text(commit)
    return snapshot


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one."""
    import huggingface_hub.constants as constants

    (tmp_path / "hub").mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_checkpoints_of_the_family_are_listed(
    cache: Path, tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    add(cache, "tiny/moe", checkpoint_dir(MOE))
    text_only = write_checkpoint(tmp_path / "text", replace(DENSE, name="text", text_only=True))
    add(cache, "Owner/Text-4bit", text_only)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "llama"}')
    add(cache, "owner/llama", other)
    (cache / "models--owner--broken").mkdir()
    text, moe = cached.cached_models()
    assert (text.id, text.vision, moe.id, moe.vision, moe.mtp) == ("Owner/Text-4bit", False, "tiny/moe", True, True)
    assert moe.size == sum(path.stat().st_size for path in checkpoint_dir(MOE).iterdir())
    assert moe.fits
    assert moe.size < moe.needs < moe.limit


def test_what_does_not_fit_and_what_is_not_whole_is_told(
    cache: Path, tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(cache, "tiny/model", checkpoint_dir(DENSE))
    part = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "part")
    (part / "model.safetensors").unlink()
    add(cache, "tiny/part", part)
    monkeypatch.setattr(cached, "default_limit", lambda: 1000)
    whole, part_of_it = cached.cached_models()
    assert (whole.fits, whole.problem) == (False, None)
    assert not part_of_it.fits
    assert part_of_it.problem == "expected model*.safetensors, found none"


def test_the_newest_snapshot_counts(cache: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    add(cache, "tiny/model", checkpoint_dir(MOE), "a" * 40)
    newest = add(cache, "tiny/model", checkpoint_dir(DENSE), "b" * 40)
    for path in (newest.parent.parent / "blobs").iterdir():
        os.utime(path, (0, 0) if path.name.startswith("a") else (9e8, 9e8))
    (model,) = cached.cached_models()
    assert model.directory == newest


@pytest.mark.parametrize(
    ("settings", "bits"),
    [
        (None, "16"),
        ({"bits": 4, "group_size": 64}, "4"),
        ({"bits": 4, "group_size": 64, "mode": "affine", "lm_head": {"bits": 6}, "model.gate": False}, "4, some 6"),
        ({"bits": 4, "group_size": 32, "mode": "mxfp4"}, "mxfp4"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
    ],
)
def test_bits_in_words(settings: dict[str, object] | None, bits: str) -> None:
    assert cached.bits_of({} if settings is None else {"quantization": settings}) == bits


def test_settings_left_over_beside_plain_weights_are_no_bits(
    cache: Path, tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    """As mlx-vlm's convert leaves them when it restores plain weights."""
    source = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "source")
    config = json.loads((source / "config.json").read_text()) | {"quantization": {"bits": 4, "group_size": 64}}
    (source / "config.json").write_text(json.dumps(config))
    add(cache, "tiny/plain", source)
    add(cache, "tiny/quantised", convert(checkpoint_dir(DENSE), tmp_path / "out", bits=4))
    plain, quantised = cached.cached_models()
    assert (plain.bits, quantised.bits[0]) == ("16", "4")
    assert examine(plain.directory).quantization is None
    assert examine(quantised.directory).quantization is not None


def test_removing_takes_every_snapshot(cache: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    """And none of another repository, though that one holds the same commit."""
    add(cache, "tiny/model", checkpoint_dir(DENSE), "a" * 40)
    add(cache, "tiny/model", checkpoint_dir(DENSE), "b" * 40)
    add(cache, "tiny/other", checkpoint_dir(DENSE))
    entry = cached.find_cached("tiny/model")
    size = entry.size_on_disk
    assert entry.remove() == size > 0
    assert [path.name for path in cache.iterdir()] == ["models--tiny--other"]
    with pytest.raises(OptionError, match="tiny/model: expected a checkpoint in .*hub, found none"):
        cached.find_cached("tiny/model")


def test_what_the_hub_calls_corrupted_is_listed_and_removed(
    cache: Path, tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    """A link to a blob that is not there, as after a disk was tidied up, and a reference to a snapshot that is not."""
    snapshot = add(cache, "tiny/model", checkpoint_dir(DENSE))
    (snapshot / "model.safetensors").resolve().unlink()
    (snapshot.parent.parent / "refs" / "old").write_text("b" * 40)
    (model,) = cached.cached_models()
    assert model.problem == "expected model*.safetensors, found none"
    # As for a folder that was moved to a larger disk.
    shutil.move(cache / "models--tiny--model", tmp_path / "moved")
    (cache / "models--tiny--model").symlink_to(tmp_path / "moved")
    entry = cached.find_cached("tiny/model")
    (tmp_path / "moved" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="expected what the hub's client writes, found 'notes.txt'"):
        entry.remove()
    (tmp_path / "moved" / "notes.txt").unlink()
    assert entry.remove() > 0
    assert not (tmp_path / "moved").exists()
    assert list(cache.iterdir()) == []


def test_what_cannot_be_removed_is_told(
    cache: Path, checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(cache, "tiny/model", checkpoint_dir(DENSE))

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(CheckpointError, match=r"models--tiny--model: cannot be removed \(Permission denied\)"):
        cached.find_cached("tiny/model").remove()


def test_another_family_is_refused_before_it_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def one_file(name: str, file: str, revision: str | None = None) -> str:
        asked.append(file)
        path = tmp_path / name.replace("/", "-") / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"model_type": "qwen3_5" if name == "owner/ours" else "llama"}))
        return str(path)

    def everything(name: str, **options: object) -> str:
        asked.append(f"all of {name}")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", one_file)
    monkeypatch.setattr("huggingface_hub.snapshot_download", everything)
    with pytest.raises(
        CheckpointError, match="owner/other: expected a Qwen3.5-class checkpoint, found model_type 'llama'"
    ):
        cached.pull("owner/other")
    assert asked == ["config.json"]
    assert cached.pull("owner/ours") == tmp_path
    assert asked[1:] == ["config.json", "all of owner/ours"]
    for name in (str(tmp_path), "name", "a/b/c"):
        with pytest.raises(OptionError, match="expected a hub id"):
            cached.pull(name)
    with pytest.raises(OptionError, match="models pull: ~nobody-of-this-name/b: Could not determine home"):
        cached.pull("~nobody-of-this-name/b")


def test_no_cache_is_an_empty_one(cache: Path) -> None:
    cache.rmdir()
    assert cached.cached_models() == []
