"""Weights onto a model: in steps, all of them, and for good."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.build import check_backend, materialise, naming, read_tensors
from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.errors import CheckpointError, ConfigError
from mlx_qwen35.patches.qwen3_5 import Model
from tests.tiny import DENSE, MOE, Shape, config_of, tensors_of


def test_loading_can_be_interrupted(checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two steps of reading the weights; nothing is left running."""
    import threading

    def interrupted(model: Any, directory: Path) -> Any:
        yield
        raise KeyboardInterrupt

    monkeypatch.setattr("mlx_qwen35.runtime.loading.materialise", interrupted)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        ModelKit.load(checkpoint_dir(DENSE))
    assert threading.active_count() == before


def test_weights_are_read_in_steps(benches: Callable[[Shape], Any], checkpoint_dir: Callable[[Shape], Path]) -> None:
    model = Model.from_checkpoint(Checkpoint.open(checkpoint_dir(DENSE)))
    steps = list(materialise(model, checkpoint_dir(DENSE), chunk_bytes=200_000))
    total = sum(value.nbytes for _, value in tree_flatten(model.parameters()))
    assert 3 < len(steps) <= total // 200_000
    expected = dict(tree_flatten(benches(DENSE).model.parameters()))
    found = dict(tree_flatten(model.parameters()))
    assert all(mx.array_equal(found[name], value).item() for name, value in expected.items())


@pytest.mark.parametrize("chunk_bytes", [1, 200_000, 2**30])
def test_afterwards_nothing_is_left_on_disk(
    benches: Callable[[Shape], Any], checkpoint_dir: Callable[[Shape], Path], tmp_path: Path, chunk_bytes: int
) -> None:
    """However many steps it took: what the file holds later is not read, not even for the last tensor."""
    directory = tmp_path / "model"
    shutil.copytree(checkpoint_dir(DENSE), directory)
    model = Model.from_checkpoint(Checkpoint.open(directory))
    for _ in materialise(model, directory, chunk_bytes):
        pass
    weights = directory / "model.safetensors"
    with weights.open("r+b") as file:
        file.write(b"x" * weights.stat().st_size)
    found = dict(tree_flatten(model.parameters()))
    for name, value in tree_flatten(benches(DENSE).model.parameters()):
        assert mx.array_equal(found[name], value).item(), name


def test_a_loaded_model_does_not_train(checkpoint_dir: Callable[[Shape], Path]) -> None:
    """Which would turn dropout on, and every faster way off."""
    model = Model.from_checkpoint(Checkpoint.open(checkpoint_dir(DENSE)))
    assert not any(module.training for _, module in model.named_modules())


@pytest.mark.parametrize("name", ["model.language_model.norm.weight", "language_model.model.norm.weight"])
def test_a_tensor_in_two_files_is_refused_unless_an_index_tells_them_apart(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], name: str
) -> None:
    """Under whichever of its names; the last file would win otherwise."""
    directory = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "model")
    mx.save_safetensors(str(directory / "model-old.safetensors"), {name: mx.zeros(64)})
    with pytest.raises(
        CheckpointError,
        match=r"model: tensor .*norm.weight: .* found in model-old.safetensors and in model.safetensors",
    ):
        Model.from_checkpoint(Checkpoint.open(directory))
    expected = dict(mx.load(str(directory / "model.safetensors")))["model.language_model.norm.weight"] + 1
    weight_map = dict.fromkeys(tensors_of(DENSE), "model.safetensors")
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map | {"another": "model-old.safetensors"}}))
    model = Model.from_checkpoint(Checkpoint.open(directory))
    assert mx.array_equal(model.language_model.model.norm.weight, expected).item()
    del weight_map["model.language_model.norm.weight"]
    index.write_text(json.dumps({"weight_map": weight_map | {"another": "model-old.safetensors"}}))
    with pytest.raises(CheckpointError, match="let model.safetensors.index.json name the right one"):
        Model.from_checkpoint(Checkpoint.open(directory))
    index.write_text(json.dumps({"weight_map": weight_map | {name: "model-old.safetensors"}}))
    if name == "model.language_model.norm.weight":
        model = Model.from_checkpoint(Checkpoint.open(directory))
        assert mx.array_equal(model.language_model.model.norm.weight, mx.ones(64)).item()


def files_of(tmp_path: Path, *contents: dict[str, float]) -> list[Path]:
    """Weight files a, b, c, ... with tensors of one number each."""
    paths = [tmp_path / f"{letter}.safetensors" for letter in "abcd"[: len(contents)]]
    for path, content in zip(paths, contents, strict=True):
        mx.save_safetensors(str(path), {name: mx.array(value) for name, value in content.items()})
    return paths


LONG, SHORT = "model.language_model.norm.weight", "language_model.model.norm.weight"


@pytest.mark.parametrize(("right", "expected"), [("a", 1), ("b", 2)])
def test_of_several_files_with_a_tensor_the_index_names_one(tmp_path: Path, right: str, expected: int) -> None:
    """And what else each holds is read all the same."""
    files = files_of(tmp_path, {LONG: 1, "a": 5}, {LONG: 2, "b": 6}, {LONG: 3, "c": 7})
    found = read_tensors(files, {LONG: f"{right}.safetensors"})
    assert {name: value.item() for name, value in found.items()} == {LONG: expected, "a": 5, "b": 6, "c": 7}


@pytest.mark.parametrize(
    "weight_map",
    [
        None, {}, {LONG: "c.safetensors"}, {SHORT: "c.safetensors"}, {"a": "a.safetensors"},
        {LONG: "a.safetensors", SHORT: "b.safetensors"},
    ],
    ids=str,
)  # fmt: skip
def test_an_index_that_names_no_one_file_does_not_tell_two_apart(
    tmp_path: Path, weight_map: dict[str, Any] | None
) -> None:
    files = files_of(tmp_path, {LONG: 1}, {SHORT: 2})
    with pytest.raises(CheckpointError, match=f"^tensor {SHORT}: expected in one file, found in a.saf.* and in b.saf"):
        read_tensors(files, weight_map)


@pytest.mark.parametrize("named", [LONG, SHORT])
def test_a_tensor_s_other_name_names_its_file_too(tmp_path: Path, named: str) -> None:
    files = files_of(tmp_path, {LONG: 1}, {SHORT: 2})
    for path, expected in zip(files, ({LONG: 1}, {SHORT: 2}), strict=True):
        found = read_tensors(files, {named: path.name})
        assert {name: value.item() for name, value in found.items()} == expected


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError, IndexError, ZeroDivisionError])
def test_what_a_library_raises_is_about_a_place(error: type[Exception]) -> None:
    with pytest.raises(CheckpointError, match="^place: the weights cannot be loaded: .*no"), naming("place"):
        raise error("no")
    for own in (CheckpointError, ConfigError):
        with pytest.raises(own, match="^place: no$"), naming("place"):
            raise own("no")


@pytest.mark.skipif(mx.metal.is_available(), reason="on a GPU they are multiplied")
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_experts_of_either_half_precision_are_refused_on_the_cpu(dtype: mx.Dtype) -> None:
    model = Model(ModelConfig.from_dict(config_of(MOE)))
    check_backend(model, Path("half"))
    model.set_dtype(dtype)
    with pytest.raises(CheckpointError, match="half: expected float32 or quantised experts on the CPU backend"):
        check_backend(model, Path("half"))
