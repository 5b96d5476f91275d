"""What other programs packed, read as they read it."""

import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen35.checkpoints import formats
from mlx_qwen35.checkpoints.formats import to_mlx
from mlx_qwen35.checkpoints.unpacking import (
    NVFP4_RANGE,
    fp8,
    gptq,
    gptq_bits,
    int8,
    nvfp4,
    packed_integers,
    unpack,
    unpack_columns,
)
from mlx_qwen35.errors import CheckpointError

# AutoGPTQ, AutoAWQ and compressed-tensors wrote it; see tools/checkpoints/foreign.py.
FOREIGN = dict(mx.load(str(Path(__file__).parent / "foreign.safetensors")))
CASES = sorted({name.split("/")[0] for name in FOREIGN})
PATH = "model.language_model.layers.0.mlp.up_proj"

# What each becomes: bits, group size and mode, or None for a plain weight.
BECOMES: dict[str, tuple[int, int, str] | None] = {
    **{f"gptq-{bits}": (bits, 32, "affine") for bits in (2, 3, 4, 8)},
    **{f"packed-{bits}": (bits, 32, "affine") for bits in (3, 4, 8)},
    "gptq-4-act-order": None,
    "awq-4": (4, 32, "affine"),
    "packed-4-zeros": (4, 32, "affine"),
    "packed-4-rows": (4, 64, "affine"),
    "packed-4-small-groups": None,
    "int-8-rows": (8, 64, "affine"),
    "int-8-zeros": (8, 64, "affine"),
    "float-8-rows": None,
    "float-8-tensor": None,
    "float-8-blocks": None,
    "nvfp4": (4, 16, "nvfp4"),
    "mxfp4": (4, 32, "mxfp4"),
    "mxfp8": (8, 32, "mxfp8"),
}


def parts_of(case: str) -> dict[str, mx.array]:
    return {name.split("/")[1]: value for name, value in FOREIGN.items() if name.startswith(f"{case}/")}


def read(parts: dict[str, mx.array], config: dict[str, Any], dtype: mx.Dtype = mx.float32) -> dict[str, mx.array]:
    """What one module becomes in a model that computes in `dtype`."""
    norm = {"model.language_model.layers.0.input_layernorm.weight": mx.ones(4, dtype)}
    out = to_mlx({f"{PATH}.{name}": value for name, value in parts.items()} | norm, config)
    assert {name for name in out if not name.startswith(f"{PATH}.")} == set(norm)
    return {name.removeprefix(f"{PATH}."): value for name, value in out.items() if name.startswith(f"{PATH}.")}


def config_of(case: str) -> dict[str, Any]:
    bits = int(case.split("-")[1]) if case.startswith("packed") else 4
    group = {"targets": ["Linear"], "weights": {"num_bits": bits, "type": "int"}}
    return {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}}


def plain(parts: dict[str, mx.array], becomes: tuple[int, int, str] | None) -> np.ndarray:
    if becomes is None:
        assert set(parts) == {"weight"}
        return np.array(parts["weight"].astype(mx.float32))
    bits, group_size, mode = becomes
    assert parts["weight"].dtype == mx.uint32
    into = parts["weight"].shape[-1] * 32 // bits
    assert into // parts["scales"].shape[-1] == group_size
    biases = parts.get("biases")
    assert (biases is not None) == (mode == "affine")
    factor = parts["global_scale"].item() / NVFP4_RANGE if "global_scale" in parts else 1.0
    values = mx.dequantize(parts["weight"], parts["scales"], biases, group_size, bits, mode, dtype=mx.float32)
    return np.array(values) * factor


@pytest.mark.parametrize("case", CASES)
def test_a_packed_matrix_is_what_the_program_that_packed_it_reads(case: str) -> None:
    parts = parts_of(case)
    expected = parts.pop("read")
    found = plain(read(parts, config_of(case)), BECOMES[case])
    expected, half = np.array(expected.astype(mx.float32)), expected.dtype == mx.bfloat16
    # What compressed-tensors decompresses to in half precision; else that integer x scale - zero x scale is rounded
    # more than once, in steps of the largest value's.
    tolerance = {"rtol": 2**-8} if half else {"rtol": 1e-6, "atol": 3e-7 * float(np.abs(expected).max())}
    np.testing.assert_allclose(found, expected, **tolerance)
    assert len(np.unique(found)) > 8


def test_every_case_has_a_result() -> None:
    assert set(CASES) == set(BECOMES)


def test_integers_keep_their_scales_in_half_precision() -> None:
    """As mlx-lm does: everything of the model then has the precision of the scales."""
    parts = parts_of("awq-4")
    del parts["read"]
    norms = {f"model.language_model.layers.{i}.input_layernorm.weight": mx.ones(4, mx.bfloat16) for i in range(2)}
    tower = {"model.visual.merger.norm.weight": mx.ones(4, mx.bfloat16)}
    decay = {"model.language_model.layers.0.linear_attn.A_log": mx.ones(4)}
    out = to_mlx({f"{PATH}.{name}": value for name, value in parts.items()} | norms | tower | decay, {})
    assert {out[name].dtype for name in norms} == {out[f"{PATH}.scales"].dtype} == {mx.float16}
    assert out["model.visual.merger.norm.weight"].dtype == mx.bfloat16
    assert out["model.language_model.layers.0.linear_attn.A_log"].dtype == mx.float32


def test_awq_is_what_mlx_lm_makes_of_it() -> None:
    from mlx_lm import utils

    parts = parts_of("awq-4")
    del parts["read"]
    theirs, settings = utils._transform_awq_weights(
        {f"{PATH}.{name}": value for name, value in parts.items()}, {"bits": 4, "group_size": 32}
    )
    ours = read(parts, {}, mx.float16)
    assert settings == {"bits": 4, "group_size": 32}
    assert {f"{PATH}.{name}" for name in ours} == set(theirs)
    for name, value in ours.items():
        assert mx.array_equal(value, theirs[f"{PATH}.{name}"]).item(), name


def test_group_indices_that_say_nothing_change_nothing() -> None:
    """compressed-tensors writes -1 where groups follow one another."""
    parts = parts_of("packed-4")
    del parts["read"]
    expected = read(parts, config_of("packed-4"))
    for order in (mx.full(64, -1, mx.int32), (mx.arange(64) // 32).astype(mx.int32)):
        found = read(parts | {"weight_g_idx": order}, config_of("packed-4"))
        assert found.keys() == expected.keys()
        assert mx.array_equal(found["scales"], expected["scales"]).item()
    turned = read(parts | {"weight_g_idx": (mx.arange(64) // 32).astype(mx.int32)[::-1]}, config_of("packed-4"))
    halves = [np.array(mx.dequantize(*expected.values(), 32, 4)), np.array(turned["weight"])]
    assert np.abs(halves[0] - halves[1]).max() > 0.001


def test_awq_without_zeros_is_symmetric() -> None:
    parts = parts_of("awq-4")
    del parts["read"], parts["qzeros"]
    found = read(parts, {})
    np.testing.assert_array_equal(np.array(found["biases"]), -8 * np.array(found["scales"]))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_zero_of_nothing_was_stored_as_the_largest(bits: int) -> None:
    """Less one, as GPTQ's first format stores all of them; in the second it is what it says."""
    weight, scales = mx.zeros((2 * bits, 32), mx.int32), mx.full((1, 32), 0.5)
    zeros = mx.full((1, bits), -1, mx.int32)
    first = gptq(weight, scales, zeros, None, bits, 1, mx.float32)
    second = gptq(weight, scales, zeros, None, bits, 0, mx.float32)
    assert (np.array(first["biases"]) == 0).all()
    assert (np.array(second["biases"]) == -0.5 * (2**bits - 1)).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_zeros_of_a_few_outputs_need_not_fill_a_word(bits: int) -> None:
    """As AutoRound stores GDN's rates, of which there is one for each head; words alone do not say then how wide."""
    whole = parts_of(f"gptq-{bits}")
    del whole["read"]
    settings = {"quantization_config": {"quant_method": "gptq", "bits": bits}}
    expected = read(dict(whole), settings)
    few = {"qweight": whole["qweight"][:, :4], "scales": whole["scales"][:, :4], "qzeros": whole["qzeros"][:, :1]}
    found = read({name: mx.contiguous(value) for name, value in few.items()}, settings)
    for name, value in found.items():
        assert mx.array_equal(value, expected[name][:4]).item(), name


def test_zeros_that_no_number_of_bits_fits_are_refused() -> None:
    scales = mx.ones((2, 64))
    with pytest.raises(ValueError, match="expected the zeros of 64 outputs in words of 32 bits, found 40 words"):
        gptq_bits(scales, mx.zeros((2, 40), mx.int32), 4)
    with pytest.raises(ValueError, match="expected the zeros of 4 outputs in words of 32 bits, found 1 words"):
        gptq_bits(scales[:, :4], mx.zeros((2, 1), mx.int32), None)


def test_zeros_of_the_second_gptq_format_are_not_less_one() -> None:
    parts = parts_of("gptq-4")
    del parts["read"]
    first = read(parts, {"quantization_config": {"quant_method": "gptq", "checkpoint_format": "gptq"}})
    second = read(parts, {"quantization_config": {"quant_method": "gptq", "checkpoint_format": "gptq_v2"}})
    steps = np.array((second["biases"] - first["biases"]) / first["scales"])
    # A zero of 15 plus one is a zero of none.
    np.testing.assert_allclose(np.abs(np.where(steps < -1.5, steps + 16, steps)), 1.0, atol=1e-4)


def test_scales_of_blocks_may_have_axes_of_one() -> None:
    """(rows, 1, columns, 1), as ModelOpt leaves them."""
    weight, scale = mx.full((256, 384), 56, mx.uint8), mx.arange(1, 7).reshape(2, 3).astype(mx.float32)
    expected = fp8(weight, scale, mx.float32)["weight"]
    assert mx.array_equal(fp8(weight, scale[:, None, :, None], mx.float32)["weight"], expected).item()


@pytest.mark.parametrize("size", [(64, 64), (192, 128), (130, 257), (300, 200), (4304, 40)])
@pytest.mark.parametrize("block", [(1, 512), (128, 128), (64, 32), (8192, 8192)])
def test_blocks_are_told_from_the_number_of_scales(size: tuple[int, int], block: tuple[int, int]) -> None:
    """They need not divide the weight."""
    rows, columns = (math.ceil(length / step) for length, step in zip(size, block, strict=True))
    scale = mx.arange(1, rows * columns + 1).reshape(rows, columns).astype(mx.float32)
    ones = mx.to_fp8(mx.ones(size))
    found = np.array(fp8(ones, scale, mx.float32)["weight"])
    wide = np.repeat(np.repeat(np.array(scale), block[0], axis=0), block[1], axis=1)
    np.testing.assert_array_equal(found, wide[: size[0], : size[1]])


def test_blocks_of_32_with_powers_of_two_stay_packed() -> None:
    """Over 32 rows as well as in each; as in checkpoints that announce scale_fmt ue8m0."""
    weight = mx.random.normal((64, 64), key=mx.random.key(1))
    for rows in (64, 2):
        exponents = mx.arange(120, 120 + rows * 2).reshape(rows, 2).astype(mx.uint8)
        parts = fp8(mx.to_fp8(weight), exponents, mx.float32)
        spread = np.repeat(2.0 ** (np.repeat(np.array(exponents), 64 // rows, axis=0).astype(float) - 127), 32, axis=1)
        expected = np.array(mx.from_fp8(mx.to_fp8(weight), dtype=mx.float32)) * spread
        np.testing.assert_allclose(plain(parts, (8, 32, "mxfp8")), expected, rtol=1e-6)


def test_blocks_of_32_need_not_divide_the_rows() -> None:
    codes = mx.to_fp8(mx.random.normal((40, 64), key=mx.random.key(1)))
    exponents = mx.array([[120, 121], [122, 123]], mx.uint8)
    parts = fp8(codes, exponents, mx.float32)
    assert parts["scales"].shape == (40, 2)
    expected = np.repeat(np.repeat(2.0 ** (np.array(exponents).astype(float) - 127), 32, axis=0)[:40], 32, axis=1)
    values = np.array(mx.from_fp8(codes, dtype=mx.float32)) * expected
    np.testing.assert_allclose(plain(parts, (8, 32, "mxfp8")), values, rtol=1e-6)


def test_powers_of_two_for_larger_blocks_are_multiplied_out() -> None:
    codes = mx.to_fp8(mx.random.normal((64, 128), key=mx.random.key(1)))
    exponents = mx.array([[120, 127], [128, 130]], mx.uint8)
    wide = np.repeat(np.repeat([[2.0**-7, 1.0], [2.0, 8.0]], 32, axis=0), 64, axis=1)
    expected = np.array(mx.from_fp8(codes, dtype=mx.float32)) * wide
    np.testing.assert_allclose(np.array(fp8(codes, exponents, mx.float32)["weight"]), expected, rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("length", [32, 64, 17, 41])
def test_zeros_are_packed_along_the_outputs(bits: int, length: int) -> None:
    """With whatever fills the last word up."""
    values = np.random.default_rng(1).integers(0, 2**bits, (length, 3))
    each = 32 // bits
    filled = np.pad(values, [(0, -length % each), (0, 0)], constant_values=1).reshape(-1, each, 3)
    words = (filled.astype(np.uint64) << (np.arange(each, dtype=np.uint64) * bits)[None, :, None]).sum(axis=1)
    packed = mx.array(words.astype(np.uint32)).view(mx.int32)
    np.testing.assert_array_equal(np.array(unpack_columns(packed, bits, length)), values)
    weight, scale = mx.zeros((length, bits * 3), mx.int32), mx.full((length, 3), 0.5)
    parts = packed_integers(weight, scale, packed, None, bits, mx.float32)
    np.testing.assert_array_equal(np.array(parts["biases"]), -0.5 * values)


def test_a_row_of_no_whole_number_of_words_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a multiple of 32 columns, found 24"):
        unpack(mx.zeros((2, 3), mx.uint32), 4)


def test_scales_and_zeros_of_rows_may_be_a_list() -> None:
    weight = mx.random.randint(-128, 128, (8, 64), mx.int8, key=mx.random.key(1))
    scale, zero = mx.arange(1, 9).astype(mx.float32), mx.arange(8).astype(mx.int8)
    listed, column = int8(weight, scale, zero, mx.float32), int8(weight, scale[:, None], zero[:, None], mx.float32)
    assert {name: value.tolist() for name, value in listed.items()} == {
        name: value.tolist() for name, value in column.items()
    }
    expected = (np.array(weight).astype(float) - np.array(zero)[:, None]) * np.array(scale)[:, None]
    np.testing.assert_allclose(plain(listed, (8, 64, "affine")), expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_what_a_tensor_is_multiplied_by_is_one_number(shape: tuple[int, ...]) -> None:
    parts = nvfp4(mx.zeros((4, 8), mx.uint8), mx.zeros((4, 1), mx.uint8), mx.full(shape, 0.5, mx.bfloat16))
    assert parts["global_scale"].shape == ()
    assert parts["global_scale"].dtype == mx.float32
    assert parts["global_scale"].item() == 0.5 * NVFP4_RANGE


def test_bytes_have_the_precision_of_the_norms_whatever_their_scales_have() -> None:
    """Which is bfloat16 where there are none."""
    weight = {"weight": mx.to_fp8(mx.ones((4, 32))), "weight_scale": mx.ones((4, 1), mx.float16)}
    assert read(weight, {}, mx.bfloat16)["weight"].dtype == mx.bfloat16
    assert read(weight, {}, mx.float32)["weight"].dtype == mx.float32
    assert (
        to_mlx({f"{PATH}.{name}": value for name, value in weight.items()}, {})[f"{PATH}.weight"].dtype == mx.bfloat16
    )


def test_half_precision_beside_float32_stays_as_it_is() -> None:
    """Only two kinds of half precision are made one."""
    norm = {"model.language_model.layers.0.input_layernorm.weight": mx.ones(4)}
    other = {"model.language_model.layers.0.linear_attn.dt_bias": mx.ones(4, mx.bfloat16)}
    packed = {f"{PATH}.weight": mx.to_fp8(mx.ones((4, 32))), f"{PATH}.weight_scale": mx.ones((4, 1))}
    out = to_mlx(norm | other | packed, {})
    assert [out[name].dtype for name in [*other, *norm]] == [mx.bfloat16, mx.float32]


def test_orders_of_many_matrices_are_all_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few at a time."""
    monkeypatch.setattr(formats, "_SMALL_AT_ONCE", 2)
    parts = parts_of("packed-4")
    del parts["read"]
    parts["weight_g_idx"] = (mx.arange(64) // 32).astype(mx.int32)
    paths = [f"model.language_model.layers.{number}.mlp.up_proj" for number in range(5)]
    out = to_mlx({f"{path}.{name}": value for path in paths for name, value in parts.items()}, config_of("packed-4"))
    assert all(f"{path}.scales" in out for path in paths)


def test_settings_of_another_program_say_nothing_beside_mlx_s_own_modes() -> None:
    """Left over from what was converted; other integers are that program's."""
    config = {"quantization_config": {"quant_method": "another"}}
    own = {f"{PATH}.weight": mx.zeros((4, 4), mx.uint32), f"{PATH}.scales": mx.zeros((4, 1), mx.uint8)}
    norm = {"model.language_model.norm.weight": mx.ones(4)}
    assert to_mlx(own | norm, config).keys() == (own | norm).keys()
    for name, dtype in ((f"{PATH}.weight", mx.uint8), (f"{PATH}.scales", mx.uint32), (f"{PATH}.codes", mx.uint32)):
        with pytest.raises(CheckpointError, match=rf"found 'another', and tensors such as {name};"):
            to_mlx(own | norm | {name: mx.zeros((4, 4), dtype)}, config)


def test_scales_of_another_matrix_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"expected 32 outputs in words of 8, found 32"):
        read({"qweight": mx.zeros((4, 32), mx.int32), "scales": mx.ones((1, 32))}, {})
    with pytest.raises(CheckpointError, match=r"up_proj: expected quantised weights, found .* one scale for every 32"):
        read({"weight": mx.to_fp8(mx.ones((64, 64))), "weight_scale_inv": mx.ones((3, 1))}, {})
    with pytest.raises(CheckpointError, match=r"up_proj: expected quantised weights, found .*no scale"):
        read({"weight_packed": mx.zeros((4, 4), mx.uint8)}, {})
    with pytest.raises(CheckpointError, match=r"up_proj: expected quantised weights, found .*expected bytes"):
        read({"weight": mx.zeros((4, 4)), "weight_scale": mx.ones((4, 1))}, {})
