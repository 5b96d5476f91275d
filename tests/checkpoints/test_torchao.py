"""torchao's tensors, as transformers saves them for `TorchAoConfig`; torchao 0.18 wrote files with these names."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.dequantising import plain_weight
from mlx_qwen35.checkpoints.formats import is_foreign, to_mlx
from mlx_qwen35.errors import CheckpointError
from tests.parity.cases import CASES, TOLERANCE
from tests.tiny import DENSE, MOE, Shape, config_of, tensors_of
from tools.checkpoints.kinds import Stored, write

PATH = "model.language_model.layers.0.mlp.up_proj"
RNG = np.random.Generator(np.random.PCG64(5))


def integers(*shape: int, groups: int, bits: int = 8) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Parts of an Int8Tensor or an IntxUnpackedToInt8Tensor, and what they stand for."""
    half = 2 ** (bits - 1)
    data = RNG.integers(-half, half, shape, dtype=np.int8)
    scale = RNG.uniform(0.01, 0.02, (*shape[:-1], groups)).astype(np.float32)
    zero = RNG.integers(-3, 4, scale.shape, dtype=np.int8)
    wide = [np.repeat(part.astype(np.float32), shape[-1] // groups, axis=-1) for part in (scale, zero)]
    return {"qdata": data, "scale": scale, "zero_point": zero}, (data - wide[1]) * wide[0]


def flat(parts: dict[str, Any], prefix: str = f"{PATH}._weight_") -> dict[str, mx.array]:
    return {
        f"{prefix}{part}": value if isinstance(value, mx.array) else mx.array(value) for part, value in parts.items()
    }


@pytest.mark.parametrize(("groups", "bits", "size"), [(1, 8, 128), (2, 8, 64), (4, 4, 32)])
def test_signed_bytes_stay_packed(groups: int, bits: int, size: int) -> None:
    """Of four bits, too, which torchao leaves in a byte each."""
    parts, expected = integers(8, 128, groups=groups, bits=bits)
    weights = flat(parts)
    assert is_foreign(list(weights))
    out = to_mlx(weights | {"model.language_model.layers.0.input_layernorm.weight": mx.ones(4)}, {})
    found = {name.removeprefix(f"{PATH}."): value for name, value in out.items() if name.startswith(PATH)}
    assert set(found) == {"weight", "scales", "biases"}
    restored = plain_weight(found, {"group_size": size, "bits": 8, "mode": "affine"}, mx.float32)
    np.testing.assert_allclose(np.array(restored), expected, atol=1e-5)


@pytest.mark.parametrize("inputs", [48, 4304])
def test_any_number_of_inputs_becomes_a_plain_weight(inputs: int) -> None:
    """A tower's layers are quantised too, and 4304 is no multiple of 32."""
    parts, expected = integers(8, inputs, groups=1)
    norm = {"model.language_model.layers.0.input_layernorm.weight": mx.ones(4)}
    found = to_mlx(flat(parts, "model.visual.blocks.0.mlp.linear_fc2._weight_") | norm, {})
    restored = np.array(found["model.visual.blocks.0.mlp.linear_fc2.weight"])
    np.testing.assert_allclose(restored, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scales", [(1, 1), (64, 1)])
def test_e4m3_becomes_a_plain_weight(scales: tuple[int, int]) -> None:
    codes = mx.to_fp8(mx.array(RNG.standard_normal((64, 96)).astype(np.float32)))
    scale = RNG.uniform(0.01, 0.02, scales).astype(np.float32)
    norm = {"model.language_model.layers.0.input_layernorm.weight": mx.ones(4)}
    found = to_mlx(flat({"qdata": codes, "scale": scale}) | norm, {})
    expected = np.array(mx.from_fp8(codes, dtype=mx.float32)) * scale
    np.testing.assert_allclose(np.array(found[f"{PATH}.weight"]), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=lambda shape: shape.name)
def test_a_whole_checkpoint_answers_as_its_plain_weights(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], shape: Shape
) -> None:
    """Experts too, which are parameters and not modules, and the tower."""
    stored: Stored = {}
    meant: Stored = {}
    for name, value in tensors_of(shape).items():
        path, _, parameter = name.rpartition(".")
        stacked = parameter in ("gate_up_proj", "down_proj")
        whole = value.ndim == 2 and value.shape[0] % 8 == 0 and "embed" not in name
        if not (stacked or whole):
            stored[name] = meant[name] = ("F32", value)
            continue
        scale = np.abs(value).max(axis=-1, keepdims=True) / 127
        data = np.rint(value / scale).astype(np.int8)
        meant[name] = ("F32", (data * scale).astype(np.float32))
        prefix = f"{path}._{parameter}_"
        stored |= {f"{prefix}qdata": ("I8", data), f"{prefix}scale": ("F32", scale)}
        stored[f"{prefix}zero_point"] = ("I8", np.zeros(scale.shape, np.int8))
    settings = {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}}
    case, logits = CASES["image first"], []
    for number, tensors in enumerate((stored, meant)):
        directory = shutil.copytree(checkpoint_dir(shape), tmp_path / str(number))
        write(tensors, directory / "model.safetensors")
        (directory / "config.json").write_text(json.dumps(config_of(shape) | {"quantization_config": settings}))
        with ModelKit.load(directory) as kit:
            logits.append(np.array(kit.logits(kit.process_prompt(case.input_ids, images=case.images))))
    assert np.abs(logits[0] - logits[1]).max() <= TOLERANCE * np.abs(logits[1]).max()


INT8 = integers(8, 128, groups=1)[0]
FLOATS, BYTES, WORDS = np.ones((8, 1), np.float32), np.zeros((8, 64), np.uint8), np.zeros((8, 16), np.int32)


@pytest.mark.parametrize(
    ("kind", "parts", "name"),
    [
        ("Int4WeightOnlyConfig", {"qdata": BYTES, "scale": FLOATS, "zero_point": FLOATS}, "qdata"),
        ("Int4WeightOnlyConfig", {"qdata": WORDS, "scale_and_zero": np.ones((2, 8, 2), np.float32)}, "qdata"),
        ("Int4WeightOnlyConfig", {"qdata": WORDS, "scale": FLOATS, "zero_point": np.zeros((8, 1), np.int8)}, "qdata"),
        ("NVFP4WeightOnlyConfig", {"qdata": BYTES, "scale": np.zeros((8, 8), np.uint8)}, "qdata"),
        ("Int8WeightOnlyConfig", INT8 | {"act_pre_scale": np.ones(128, np.float32)}, "act_pre_scale"),
        (None, {"qdata": BYTES}, "qdata"),
    ],
)
def test_other_packings_are_refused_by_the_settings_that_made_them(
    kind: str | None, parts: dict[str, np.ndarray], name: str
) -> None:
    """Halves of bytes, tiles for a GPU's kernels, FP4, and weights for inputs of another scale."""
    settings = {"quant_method": "torchao", "quant_type": {"default": {"_type": kind}} if kind else None}
    with pytest.raises(
        CheckpointError,
        match=rf"^{PATH}._weight_{name}: expected signed bytes or E4M3 of torchao, .* found "
        rf"{kind or 'another packing'}; take the original checkpoint",
    ):
        to_mlx(flat(parts), {"quantization_config": settings})


def test_scales_of_inputs_are_left_out() -> None:
    parts = INT8 | {name: np.ones(1, np.float32) for name in ("act_quant_scale", "act_quant_zero_point")}
    out = to_mlx(flat(parts), {"quantization_config": {"quant_method": "torchao", "quant_type": "int8_weight_only"}})
    assert set(out) == {f"{PATH}.{part}" for part in ("weight", "scales", "biases")}


def test_settings_may_be_a_name_alone() -> None:
    """As transformers wrote them before torchao had classes for them."""
    settings = {"quant_method": "torchao", "quant_type": "int4_weight_only"}
    with pytest.raises(CheckpointError, match="found int4_weight_only; take"):
        to_mlx(flat({"qdata": BYTES}), {"quantization_config": settings})
