"""Which files are a checkpoint's, of all that may lie in a directory."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.weight_files import INDEX, SINGLE, files_with_vision, find_weight_files, parts_in
from mlx_qwen35.errors import CheckpointError, VisionUnavailableError
from tests.parity.cases import CASES
from tests.tiny import DENSE, Shape

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def directory(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint_dir(DENSE), tmp_path / "checkpoint"))


def write_index(directory: Path, *names: str) -> None:
    weight_map = {f"model.layers.{number}.weight": name for number, name in enumerate(names)}
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def split(directory: Path, vision_file: str, *, decoder_file: str = SINGLE, extra: tuple[str, ...] = ()) -> None:
    """Put the vision tensors, and some others, into a file of their own."""
    tensors = load_file(directory / SINGLE)
    (directory / SINGLE).unlink()
    vision = {name: value for name, value in tensors.items() if "visual" in name}
    save_file(vision | {name: tensors[name] for name in extra}, directory / vision_file)
    save_file({name: value for name, value in tensors.items() if name not in vision}, directory / decoder_file)


def logits_of(directory: Path, name: str) -> np.ndarray:
    case = CASES[name]
    with ModelKit.load(directory) as kit:
        return np.array(kit.logits(kit.process_prompt(case.input_ids, images=case.images)))


@pytest.mark.parametrize("there", [(), SHARDS[:1]], ids=["none of them", "one of them"])
def test_an_index_of_missing_files_does_not_count_beside_a_whole_model(
    directory: Path, there: tuple[str, ...], checkpoint_dir: Callable[[Shape], Path]
) -> None:
    write_index(directory, *SHARDS)
    for name in there:
        (directory / name).write_bytes(b"")
    assert find_weight_files(directory, vision=True) == [directory / SINGLE]
    np.testing.assert_array_equal(logits_of(directory, "image first"), logits_of(checkpoint_dir(DENSE), "image first"))


def test_an_index_of_missing_files_does_not_count_beside_other_shards(directory: Path) -> None:
    (directory / SINGLE).rename(directory / SHARDS[0])
    write_index(directory, "model-00001-of-00009.safetensors", "model-00002-of-00009.safetensors")
    assert find_weight_files(directory, vision=True) == [directory / SHARDS[0]]


def test_a_download_that_is_not_complete_is_told(directory: Path) -> None:
    (directory / SINGLE).rename(directory / SHARDS[0])
    write_index(directory, *SHARDS)
    with pytest.raises(CheckpointError, match=rf"expected 2 weight files, 1 missing: {SHARDS[1]}"):
        find_weight_files(directory, vision=True)


def test_a_stale_index_alone_is_told(directory: Path) -> None:
    (directory / SINGLE).unlink()
    write_index(directory, *SHARDS)
    with pytest.raises(CheckpointError, match=rf"expected 2 weight files, 2 missing: {SHARDS[0]}, {SHARDS[1]}"):
        find_weight_files(directory, vision=True)


@pytest.mark.some(2)
@pytest.mark.parametrize("vision_file", ["model-vision.safetensors", "optiq_vision.safetensors"])
@pytest.mark.parametrize("indexed", [False, True], ids=["no index", "index"])
def test_a_vision_tower_may_lie_in_a_file_of_its_own(
    directory: Path, vision_file: str, indexed: bool, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    split(directory, vision_file)
    if indexed:
        write_index(directory, SINGLE)
    assert set(find_weight_files(directory, vision=True)) == {directory / SINGLE, directory / vision_file}
    np.testing.assert_array_equal(logits_of(directory, "wide image"), logits_of(checkpoint_dir(DENSE), "wide image"))


def test_no_vision_is_looked_for_where_there_is_some_or_none_is_described(directory: Path) -> None:
    shutil.copy(directory / SINGLE, directory / "whole.safetensors")
    split(directory, "tower.safetensors")
    assert find_weight_files(directory, vision=False) == [directory / SINGLE]
    (directory / "whole.safetensors").rename(directory / SINGLE)
    assert find_weight_files(directory, vision=True) == [directory / SINGLE]


def test_vision_weights_that_are_not_used_are_not_called_missing(directory: Path) -> None:
    """A file with other weights too may be another model's."""
    split(directory, "other.safetensors", extra=("model.language_model.norm.weight",))
    with ModelKit.load(directory) as kit:
        with pytest.raises(VisionUnavailableError, match=r"the vision weights in other\.safetensors are not used"):
            kit.process_prompt(CASES["wide image"].input_ids, images=CASES["wide image"].images)
        (directory / "other.safetensors").unlink()
    with (
        ModelKit.load(directory) as kit,
        pytest.raises(VisionUnavailableError, match="it holds no vision weights, although config.json describes"),
    ):
        kit.process_prompt(CASES["wide image"].input_ids, images=CASES["wide image"].images)


def test_files_that_the_index_names_need_no_vision_each(directory: Path) -> None:
    """One of them has the tower, so that another one beside them is left over."""
    split(directory, SHARDS[1], decoder_file=SHARDS[0])
    write_index(directory, *SHARDS)
    shutil.copy(directory / SHARDS[1], directory / "old-vision.safetensors")
    assert find_weight_files(directory, vision=True) == [directory / name for name in SHARDS]


def test_a_damaged_file_may_have_the_tower(directory: Path) -> None:
    """So that no other one is taken in its place."""
    split(directory, "tower.safetensors")
    (directory / SINGLE).write_bytes(b"damaged")
    assert find_weight_files(directory, vision=True) == [directory / SINGLE]


def test_folders_are_no_weight_files_and_no_index(directory: Path) -> None:
    (directory / INDEX).mkdir()
    (directory / "model-folder.safetensors").mkdir()
    assert find_weight_files(directory, vision=True) == [directory / SINGLE]
    (directory / INDEX).rmdir()
    write_index(directory, "model-folder.safetensors", "model-2.safetensors")
    (directory / SINGLE).rename(directory / "model-2.safetensors")
    with pytest.raises(CheckpointError, match="expected 2 weight files, 1 missing: model-folder.safetensors$"):
        find_weight_files(directory, vision=True)


def test_a_shard_that_is_missing_beside_the_first_is_told(directory: Path) -> None:
    """The whole model's name says nothing where the index has it for a part."""
    write_index(directory, SINGLE, SHARDS[1])
    with pytest.raises(CheckpointError, match=f"expected 2 weight files, 1 missing: {SHARDS[1]}$"):
        find_weight_files(directory, vision=True)


@pytest.mark.parametrize("content", [{}, {"weight_map": None}, {"weight_map": ["model.safetensors"]}], ids=str)
def test_an_index_without_a_map_is_refused(directory: Path, content: dict[str, object]) -> None:
    (directory / INDEX).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"{INDEX}: expected weight_map, found none"):
        find_weight_files(directory, vision=True)


@pytest.mark.parametrize(
    "name",
    [
        "../a.safetensors",
        "a/b.safetensors",
        "/a.safetensors",
        "model.bin",
        "a\0.safetensors",
        f"{'a' * 250}.safetensors",
    ],
    ids=lambda name: name[:20],
)  # fmt: skip
def test_an_index_names_weight_files_beside_it(directory: Path, name: str) -> None:
    write_index(directory, SINGLE, name)
    with pytest.raises(CheckpointError, match="expected names of safetensors files beside it, found "):
        find_weight_files(directory, vision=True)


@pytest.mark.parametrize("name", ["models--owner--Model-GGUF/snapshots/abc", "model-q4.gguf/.."])
def test_of_llama_cpp_s_format_it_is_said_that_it_is_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(parents=True, exist_ok=True)
    directory = (tmp_path / name).resolve()
    with pytest.raises(CheckpointError, match=r"found none; llama\.cpp's format \(GGUF\) is not read"):
        find_weight_files(directory, vision=False)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "qmodel.pt", "model.pth"])
def test_pickled_weights_are_named_where_there_are_no_others(directory: Path, name: str) -> None:
    """HQQ's `save_quantized` writes qmodel.pt."""
    (directory / SINGLE).rename(directory / name)
    with pytest.raises(CheckpointError, match=rf"found none \(only {name}; pickled weights are not read\)$"):
        find_weight_files(directory, vision=True)


def test_weights_of_another_name_are_named(directory: Path) -> None:
    (directory / SINGLE).rename(directory / "consolidated.safetensors")
    message = r"found none \(only consolidated.safetensors; rename it if it holds the weights of a whole checkpoint\)$"
    with pytest.raises(CheckpointError, match=message):
        find_weight_files(directory, vision=True)


def test_damaged_files_hold_nothing(directory: Path) -> None:
    assert parts_in(directory / SINGLE) == {"language_model", "vision_tower", "mtp"}
    (directory / "damaged.safetensors").write_bytes(b"vision")
    assert parts_in(directory / "damaged.safetensors") == parts_in(directory / "nowhere.safetensors") == set()
    assert files_with_vision(directory) == [directory / SINGLE]
    (directory / SINGLE).write_bytes(b"")
    assert find_weight_files(directory, vision=True) == [directory / SINGLE]
