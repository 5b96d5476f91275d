"""Putting the classes in mlx-lm's place, and taking them out again."""

import copy
import importlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import mlx_lm.models.cache
import mlx_lm.models.qwen3_5
import mlx_lm.models.qwen3_5_moe
import mlx_lm.utils
import numpy as np
import pytest
from mlx.utils import tree_map
from mlx_lm.models.cache import make_prompt_cache

from mlx_qwen35 import apply_patches, undo_patches
from mlx_qwen35.patches.qwen3_5 import Model, PatchedDecoderLayer, PatchedTextModel
from tests.parity.cases import CASES
from tests.tiny import DENSE, MOE, WIDE_HEADS, Shape, write_checkpoint

PLACES = (
    (mlx_lm.models.qwen3_5, "Model"),
    (mlx_lm.models.qwen3_5, "ModelArgs"),
    (mlx_lm.models.qwen3_5_moe, "Model"),
    (mlx_lm.models.qwen3_5_moe, "ModelArgs"),
    (mlx_lm.utils, "MODEL_REMAPPING"),
    (mlx_lm.utils, "save_config"),
)
ORIGINALS = [getattr(module, name) for module, name in PLACES]


def now() -> list[object]:
    return [getattr(module, name) for module, name in PLACES]


def test_imports_patch_nothing() -> None:
    assert now() == ORIGINALS
    assert not hasattr(mlx_lm.models.cache, "AttentionCache")


def test_patches_are_idempotent_and_reversible() -> None:
    apply_patches()
    once = now()
    assert all(one is not other for one, other in zip(once, ORIGINALS, strict=True))
    apply_patches()
    assert now() == once
    undo_patches()
    assert all(one is other for one, other in zip(now(), ORIGINALS, strict=True))
    assert not hasattr(mlx_lm.models.cache, "AttentionCache")
    undo_patches()
    assert now() == ORIGINALS


def test_a_context_undoes_only_what_it_did() -> None:
    with apply_patches():
        patched = now()
        with apply_patches():
            pass
        assert now() == patched
    assert now() == ORIGINALS
    with pytest.raises(ZeroDivisionError), apply_patches():
        raise ZeroDivisionError
    assert now() == ORIGINALS


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=lambda shape: shape.name)
def test_mlx_lm_builds_the_patched_model(checkpoint_dir: Callable[[Shape], Path], shape: Shape) -> None:
    """mlx_lm.load and generate, patched and unpatched side by side in one process."""
    directory = str(checkpoint_dir(shape))
    with apply_patches():
        patched, tokenizer = mlx_lm.load(directory)
    unpatched, _ = mlx_lm.load(directory)
    assert isinstance(patched, Model)
    assert isinstance(patched.model, PatchedTextModel)
    assert all(isinstance(layer, PatchedDecoderLayer) for layer in patched.layers)
    assert not isinstance(unpatched, Model)
    assert patched.vision_tower is not None
    prompt = list(CASES["text"].input_ids)
    texts = [mlx_lm.generate(model, tokenizer, prompt, max_tokens=12) for model in (patched, unpatched)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("moe", [False, True], ids=["qwen3_5_text", "qwen3_5_moe_text"])
def test_model_types_that_mlx_lm_does_not_know(tmp_path: Path, moe: bool) -> None:
    shape = replace(MOE if moe else DENSE, name="text-only", text_only=True)
    directory = str(write_checkpoint(tmp_path / "checkpoint", shape))
    with pytest.raises(ValueError, match="not supported"):
        mlx_lm.load(directory)
    with apply_patches():
        model, _ = mlx_lm.load(directory)
    assert isinstance(model, Model)


def test_the_folders_cannot_be_imported_under_their_short_names() -> None:
    """Every class would exist twice."""
    root = Path(__file__).parent.parent.parent
    for name in ("patches", "cli"):
        done = subprocess.run(
            [sys.executable, "-c", f"import {name}"], cwd=root, capture_output=True, text=True, check=False
        )
        assert f"import mlx_qwen35.{name}, not {name}" in done.stderr


def test_a_group_of_one_shards_and_pipelines(checkpoint_dir: Callable[[Shape], Path], dense_and_moe: Shape) -> None:
    """mlx-lm's hooks on the patched classes; two real processes are in test_distributed."""
    group = mx.distributed.init()
    tokens = mx.array([CASES["text"].input_ids])
    outs = []
    for hook in ("none", "shard", "pipeline"):
        with apply_patches():
            model, _ = mlx_lm.utils.load_model(checkpoint_dir(dense_and_moe))
        if hook == "shard":
            model.shard(group)
        elif hook == "pipeline":
            model.model.pipeline(group)
        outs.append(np.array(model(tokens, cache=model.make_cache())))
    np.testing.assert_allclose(outs[1], outs[0], atol=1e-4)
    np.testing.assert_array_equal(outs[2], outs[0])


def test_alternating_layers_pipeline_by_what_they_are(checkpoint_dir: Callable[[Shape], Path]) -> None:
    with apply_patches():
        model, _ = mlx_lm.utils.load_model(checkpoint_dir(WIDE_HEADS))
    assert (model.model.ssm_idx, model.model.fa_idx) == (0, 1)
    model.model.pipeline(mx.distributed.init())
    assert (model.model.ssm_idx, model.model.fa_idx) == (0, 1)


# As mlx-lm's own test_models.py::test_all_models writes them: flat, without what has a default.
SPARSE_CONFIG: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
    "linear_num_value_heads": 4, "linear_num_key_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 3, "rms_norm_eps": 1e-5, "head_dim": 64, "rope_theta": 1000.0,
    "partial_rotary_factor": 0.5, "max_position_embeddings": 1000,
}  # fmt: skip
FEED_FORWARD: dict[str, dict[str, Any]] = {
    "qwen3_5": {"intermediate_size": 64},
    "qwen3_5_moe": {
        "num_experts": 4, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 64,
        "moe_intermediate_size": 64,
    },
}  # fmt: skip


@pytest.mark.parametrize("model_type", FEED_FORWARD)
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16], ids=str)
def test_mlx_lm_builds_from_a_config_of_its_own_tests(model_type: str, dtype: mx.Dtype) -> None:
    """Shapes and dtypes with and without a cache and in a batch; the model can be copied."""
    with apply_patches():
        module = importlib.import_module(f"mlx_lm.models.{model_type}")
        config = {"model_type": model_type, **SPARSE_CONFIG, **FEED_FORWARD[model_type]}
        model: Any = module.Model(module.ModelArgs.from_dict(config))
    assert isinstance(model, Model)
    assert (model.model_type, len(model.layers)) == (model_type, 4)
    model.update(tree_map(lambda value: value.astype(dtype), model.parameters()))
    cache = make_prompt_cache(model)
    outs = [
        model(mx.array([[0, 1]])), model(mx.array([[0, 1]]), cache=cache), model(mx.array([[5]]), cache=cache),
        model(mx.array([[0, 1], [2, 3]])), copy.deepcopy(model)(mx.array([[0, 1]])),
    ]  # fmt: skip
    assert [out.shape for out in outs] == [(1, 2, 100), (1, 2, 100), (1, 1, 100), (2, 2, 100), (1, 2, 100)]
    assert {out.dtype for out in outs} == {dtype}
    # MLX's CPU backend multiplies experts in float32 only.
    if dtype == mx.float32 or model_type == "qwen3_5":
        assert mx.array_equal(outs[0], outs[4]).item()
