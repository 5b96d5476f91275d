"""Half-precision checkpoints on the CPU: computed in float32 where memory has room, else as they are."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model
from PIL import Image

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.conversion import convert
from mlx_qwen35.errors import CheckpointError, CheckpointWarning, SessionError
from mlx_qwen35.patches.cpu import on_cpu
from mlx_qwen35.patches.vision_tower import DeferredTower
from mlx_qwen35.patches.widening import widen, widened_bytes
from mlx_qwen35.runtime import loading
from tests.tiny import DENSE, MOE, Shape, config_of, tensors_of

pytestmark = pytest.mark.skipif(not on_cpu(), reason="needs MLX's CPU backend: elsewhere half precision stays")
IDS = [7, 30, 99, 4, 250, 61, 8, 15, 120, 77]
PICTURE = Image.new("RGB", (64, 64), "red")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, checkpoint_dir: Callable[[Shape], Path]) -> Callable[..., Path]:
    """A tiny checkpoint in bfloat16, its matrices in so many bits."""
    made: dict[int | None, Path] = {}

    def get(bits: int | None = None) -> Path:
        if bits not in made:
            out = tmp_path_factory.mktemp("half") / f"{bits}"
            made[bits] = convert(checkpoint_dir(DENSE), out, dtype="bfloat16", bits=bits)
        return made[bits]

    return get


@pytest.fixture(scope="module")
def kit(half: Callable[..., Path]) -> Iterator[ModelKit]:
    with ModelKit.load(half(), speculate="off") as kit:
        yield kit


def dtypes(kit: ModelKit) -> set[Any]:
    tower = kit.model.vision_tower
    later = [array for _, array in tower.weights]
    return {array.dtype for array in [*dict(tree_flatten(kit.model.parameters())).values(), *later]}


@pytest.mark.parametrize("bits", [None, 4])
def test_a_half_precision_model_computes_in_float32(half: Callable[..., Path], bits: int | None) -> None:
    """Oracle: mlx-lm with the same checkpoint in float32."""
    upstream, _ = load_model(half(bits), strict=False)
    upstream.set_dtype(mx.float32)
    expected = np.array(upstream(mx.array([IDS]))[0])
    with ModelKit.load(half(bits)) as kit:
        assert dtypes(kit) == ({mx.float32} if bits is None else {mx.float32, mx.uint32})
        found = np.array(kit.logits(kit.process_prompt(IDS)))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_its_memory_is_counted(kit: ModelKit) -> None:
    """Weights, the tower's too; and what requests take, whose caches are as wide."""
    kit.generate(kit.process_prompt(IDS), max_tokens=2, temperature=0.0)
    later = [array for _, array in kit.model.vision_tower.weights]
    held = [*dict(tree_flatten(kit.model.parameters())).values(), *later]
    assert kit.guard.weights == sum(array.nbytes for array in held)
    assert kit.guard.dtype_size == 4
    purposes = kit.ledger.by_purpose()
    assert purposes["weights"] + purposes["weights in float32"] == kit.guard.weights


def test_pictures_are_seen_in_float32(half: Callable[..., Path]) -> None:
    with ModelKit.load(half()) as kit:
        kit.generate(kit.process_prompt("<|vision_start|><|image_pad|><|vision_end|>", images=PICTURE), max_tokens=1)
        tower = kit.model.vision_tower._tower
        assert {array.dtype for array in dict(tree_flatten(tower.parameters())).values()} == {mx.float32}


def test_exact_models_stay_as_they_are(half: Callable[..., Path]) -> None:
    """To the bit. Oracle: mlx-lm."""
    upstream, _ = load_model(half(), strict=False)
    with ModelKit.load(half(), exact=True) as kit:
        assert mx.bfloat16 in dtypes(kit)
        assert kit.guard.dtype_size == 2
        found = kit.logits(kit.process_prompt(IDS))
    assert mx.array_equal(found, upstream(mx.array([IDS]))[0].astype(mx.float32)).item()


def experts(checkpoint_dir: Callable[[Shape], Path], directory: Path, *, decoder: bool) -> Path:
    """A model with experts whose MTP head, or all, is in bfloat16."""
    shutil.copytree(checkpoint_dir(MOE), directory)
    tensors = {
        name: mx.array(value).astype(mx.bfloat16 if decoder or name.startswith("mtp.") else mx.float32)
        for name, value in tensors_of(MOE).items()
    }
    mx.save_safetensors(str(directory / "model.safetensors"), tensors)
    return directory


def test_experts_in_half_precision_answer_where_there_is_room(
    checkpoint_dir: Callable[[Shape], Path], tmp_path: Path
) -> None:
    """The published ones are such. MLX's CPU backend does not multiply them as they are, and that is told at once."""
    published = experts(checkpoint_dir, tmp_path / "published", decoder=True)
    answers = []
    for mode in ("off", "mtp"):
        with ModelKit.load(published, speculate=mode) as kit:
            assert dtypes(kit) == {mx.float32}
            answers.append(kit.generate(IDS, max_tokens=8, temperature=0.0).tokens)
    assert answers[0] == answers[1]
    for options in ({"exact": True}, {"memory_limit": kit.guard.weights}):
        with pytest.raises(CheckpointError, match="expected float32 or quantised experts on the CPU backend"):
            ModelKit.load(published, speculate="off", **options)


def test_a_head_that_cannot_be_multiplied_is_left_out(
    checkpoint_dir: Callable[[Shape], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it was asked for: an answer that breaks off is worse than one without guesses."""
    published = experts(checkpoint_dir, tmp_path / "published", decoder=False)
    monkeypatch.setattr(loading, "widen", lambda module: None)
    with pytest.warns(CheckpointWarning, match=r"published: expected float32 or quantised experts.*; it is left out"):
        kit = ModelKit.load(published)
    with kit:
        assert not kit.speculation.uses_module
        assert len(kit.generate(IDS, max_tokens=3, temperature=0.0).tokens) == 3
    with pytest.raises(CheckpointError, match="expected float32 or quantised experts on the CPU backend"):
        ModelKit.load(published, speculate="mtp")


@pytest.mark.parametrize("enough", [True, False])
def test_it_needs_half_of_the_memory_free(kit: ModelKit, half: Callable[..., Path], enough: bool) -> None:
    """A model that fits as it is is never refused for it."""
    limit = 2 * kit.guard.weights - (0 if enough else 2)
    with ModelKit.load(half(), memory_limit=limit, speculate="off") as other:
        assert (mx.bfloat16 in dtypes(other)) is not enough
        assert (other.guard.dtype_size == 4) is enough
        tokens = other.generate(other.process_prompt(IDS), max_tokens=2, temperature=0.0).tokens
    assert len(tokens) == 2


def test_states_of_other_arithmetic_are_not_gone_on_from(half: Callable[..., Path], tmp_path: Path) -> None:
    """What a kit in float32 kept on disk is nothing to one in half precision."""
    options: dict[str, Any] = {"max_tokens": 1, "temperature": 0.0}
    load = partial(ModelKit.load, half(), speculate="off")
    with load(prompt_cache_dir=tmp_path) as kit:
        limit = 2 * kit.guard.weights
        kit.generate(IDS, **options)
        kit.save_session(tmp_path / "wide.safetensors")
    with load(memory_limit=limit) as same:
        same.load_session(tmp_path / "wide.safetensors")
        assert same.generate(IDS, **options).stats.cached_tokens == len(IDS) - 1
    with load(memory_limit=limit - 2) as other, pytest.raises(SessionError, match="found another's"):
        other.load_session(tmp_path / "wide.safetensors")


def test_the_model_in_the_package_is_such_a_one() -> None:
    with ModelKit.load(BOX) as kit:
        assert dtypes(kit) == {mx.float32}
        assert kit.logits(kit.process_prompt(IDS)).dtype == mx.float32


@pytest.mark.parametrize("later", [False, True])
def test_all_that_is_in_half_precision_is_widened_and_counted(later: bool) -> None:
    """Both kinds of it, a tower's too that is not built yet; packed numbers and what is wide already stay."""
    arrays = {
        "a": mx.zeros((4, 4), mx.bfloat16), "b": mx.zeros((4,), mx.float16), "c": mx.zeros((2,), mx.float32),
        "d": mx.zeros((8,), mx.uint32),
    }  # fmt: skip
    model: Any = nn.Module()
    for name, array in arrays.items():
        setattr(model, name, array)
    if later:
        model.vision_tower = DeferredTower(ModelConfig.from_dict(config_of(DENSE)))
        model.vision_tower.weights = list(arrays.items())
    half = 2 * (16 + 4)
    assert widened_bytes(model) == (2 * half if later else half)
    widen(model)
    wide = {"a": mx.float32, "b": mx.float32, "c": mx.float32, "d": mx.uint32}
    assert {name: array.dtype for name, array in model.parameters().items() if name in arrays} == wide
    if later:
        assert {name: array.dtype for name, array in model.vision_tower.weights} == wide
    assert widened_bytes(model) == 0


@pytest.mark.some(2)
@pytest.mark.parametrize("shape", [DENSE, MOE], ids=str)
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=str)
def test_norms_are_added_to_one_in_float32(
    checkpoint_dir: Callable[[Shape], Path], tmp_path: Path, shape: Shape, dtype: mx.Dtype
) -> None:
    """Of a checkpoint in half precision as transformers writes it, its MTP head and its conversion to float32 too.

    Oracle: the same numbers stored in float32, to the bit.
    """
    tensors = {
        name: value.astype(mx.float32) if name.endswith("A_log") else value.astype(dtype)
        for name, value in mx.load(str(checkpoint_dir(shape) / "model.safetensors")).items()  # type: ignore[union-attr]
    }
    stored = {"half": tensors, "wide": {name: value.astype(mx.float32) for name, value in tensors.items()}}
    for name, found in stored.items():
        shutil.copytree(checkpoint_dir(shape), tmp_path / name)
        mx.save_safetensors(str(tmp_path / name / "model.safetensors"), found, metadata={"format": "pt"})
    convert(tmp_path / "half", tmp_path / "converted", dtype="float32")
    results = []
    for name in ("wide", "half", "converted"):
        with ModelKit.load(tmp_path / name, speculate="mtp") as kit:
            module = kit._loop._executor._decoder.module
            parameters = dict(tree_flatten(module.parameters()))
            results.append([kit.logits(kit.process_prompt(IDS)), *(parameters[key] for key in sorted(parameters))])
    for found in results[1:]:
        assert all(mx.array_equal(one, other).item() for one, other in zip(found, results[0], strict=True))
