"""Whole checkpoints in the formats of other programs: loaded, weighed, and computing what their weights stand for."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear
from mlx_lm.utils import load_model
from safetensors.numpy import load_file, save_file

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.checkpoints.dequantising import dequantise, plain_weight
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.formats import Settings, loaded_bytes, to_mlx
from mlx_qwen35.checkpoints.global_scales import ScaledLinear, ScaledSwitchLinear
from mlx_qwen35.checkpoints.headers import read_headers
from mlx_qwen35.checkpoints.mtp_heads import read_mtp_head
from mlx_qwen35.checkpoints.unpacking import NVFP4_RANGE
from mlx_qwen35.doctor import examine
from mlx_qwen35.errors import CheckpointError, InsufficientMemoryError
from mlx_qwen35.patches.qwen3_5 import Model
from mlx_qwen35.runtime.memory import MemoryGuard
from tests.parity.cases import CASES, SHORT_IDS, TOLERANCE
from tests.tiny import DENSE, MOE, Shape, config_of, tensors_of
from tools.checkpoints.kinds import KINDS, Kind, build, fp8_blocks, write

BY_NAME = {kind.name: kind for kind in KINDS}
# In float32, so that nothing is rounded but what the format rounds.
PRECISE = [dataclasses.replace(kind, half=False) for kind in KINDS]
TOKENS = mx.array([SHORT_IDS])

Foreign = Callable[[Kind, Shape], Path]


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory, checkpoint_dir: Callable[[Shape], Path]) -> Foreign:
    """From a format and a shape to a checkpoint in it; beside it, in `plain`, what its weights stand for."""
    root = tmp_path_factory.mktemp("formats")
    names: dict[tuple[Kind, Shape], Path] = {}

    def get(kind: Kind, shape: Shape) -> Path:
        key = (dataclasses.replace(kind, settings=()), shape)
        if key not in names:
            directory = names[key] = root / str(len(names))
            stored, meant = build(kind, tensors_of(shape))
            shutil.copytree(checkpoint_dir(shape), directory)
            shutil.copytree(checkpoint_dir(shape), directory / "plain")
            write(stored, directory / "model.safetensors")
            types = {"float32": "F32", "float16": "F16"}
            plain = {name: (types[str(value.dtype)], value) for name, value in meant.items()}
            write(plain, directory / "plain" / "model.safetensors")
            config = config_of(shape) | {"quantization_config": dict(kind.settings)}
            (directory / "config.json").write_text(json.dumps(config))
        return names[key]

    return get


def load(directory: Path, **options: Any) -> Model:
    return Model.from_checkpoint(Checkpoint.open(directory), **options)


def plain_parameters(model: Model) -> dict[str, mx.array]:
    """What the parameters of a model stand for."""
    dequantise(model, mx.float32)
    return dict(tree_flatten(model.parameters()))


@pytest.mark.some(7)
@pytest.mark.parametrize("kind", PRECISE, ids=lambda kind: kind.name)
def test_every_weight_is_what_it_stands_for(foreign: Foreign, dense_and_moe: Shape, kind: Kind) -> None:
    directory = foreign(kind, dense_and_moe)
    found = plain_parameters(load(directory))
    expected = dict(tree_flatten(load(directory / "plain").parameters()))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = mx.abs(value).max().item()
        np.testing.assert_allclose(np.array(found[name]), np.array(value), atol=1e-6 * scale, err_msg=name)


def test_stacked_experts_may_share_one_global_scale(foreign: Foreign) -> None:
    """Which gate and up projection then have both, and every expert."""
    directory = foreign(dataclasses.replace(BY_NAME["NVFP4 of ModelOpt"], stacked=True, half=False), MOE)
    found = plain_parameters(load(directory))
    for name, value in tree_flatten(load(directory / "plain").parameters()):
        np.testing.assert_allclose(np.array(found[name]), np.array(value), atol=1e-6 * mx.abs(value).max().item())


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
def test_sums_before_a_global_scale_may_be_beyond_half_precision(dtype: mx.Dtype) -> None:
    """A linear layer, and experts."""
    weight = mx.full((2, 32, 64), 0.02)
    largest = mx.array(0.02)
    packed, scales = mx.quantize(weight, 16, 4, mode="nvfp4", global_scale=largest)
    x = mx.full((1, 64), 4.0, dtype)
    expected = 64 * 4 * 0.02
    linear = nn.QuantizedLinear(64, 32, bias=True, group_size=16, bits=4, mode="nvfp4")
    linear.weight, linear.scales, linear.bias = packed[0], scales[0], mx.full(32, 1.0, dtype)
    layer = ScaledLinear(linear)
    layer.global_scale = largest
    assert layer(x).dtype == dtype
    np.testing.assert_allclose(np.array(layer(x).astype(mx.float32)), expected + 1, rtol=0.01)
    experts = QuantizedSwitchLinear(64, 32, 2, bias=False, group_size=16, bits=4, mode="nvfp4")
    experts.weight, experts.scales = packed, scales
    switch = ScaledSwitchLinear(experts)
    switch.global_scale = mx.array([0.02, 0.04])
    found = switch(x[None, None], mx.array([[[0, 1]]]))
    assert found.dtype == dtype
    shares = np.array(found.astype(mx.float32)).reshape(2, 32)
    np.testing.assert_allclose(shares, np.array([[expected], [2 * expected]]) * np.ones(32), rtol=0.01)


@pytest.mark.some(3)
@pytest.mark.parametrize("kind", PRECISE, ids=lambda kind: kind.name)
def test_the_guard_knows_what_a_checkpoint_becomes(foreign: Foreign, dense_and_moe: Shape, kind: Kind) -> None:
    checkpoint = Checkpoint.open(foreign(kind, dense_and_moe))
    model = Model.from_checkpoint(checkpoint)
    loaded = sum(value.nbytes for _, value in tree_flatten(model.parameters()))
    guard = MemoryGuard.of(checkpoint.config, checkpoint.weight_files(), 2**40)
    assert guard.weights == loaded
    hint = "restored from fewer bits; convert" if "FP8" in kind.name else "; take a smaller or a quantised one"
    with pytest.raises(InsufficientMemoryError, match=f"expected at most .*{hint}"):
        MemoryGuard.of(checkpoint.config, checkpoint.weight_files(), loaded)


@pytest.mark.some(2)
@pytest.mark.parametrize("name", ["FP8 in blocks", "FP8 in blocks, vision too", "NVFP4 of ModelOpt", "AWQ", "GPTQ"])
def test_a_kit_answers_with_the_logits_of_the_plain_weights(foreign: Foreign, dense_and_moe: Shape, name: str) -> None:
    directory = foreign(dataclasses.replace(BY_NAME[name], half=False), dense_and_moe)
    case, logits = CASES["image first"], []
    for path in (directory, directory / "plain"):
        with ModelKit.load(path) as kit:
            logits.append(np.array(kit.logits(kit.process_prompt(case.input_ids, images=case.images))))
    assert np.abs(logits[0] - logits[1]).max() <= TOLERANCE * np.abs(logits[1]).max()


@pytest.mark.some(2)
@pytest.mark.parametrize("name", ["NVFP4 of ModelOpt", "compressed-tensors, NVFP4"])
def test_nvfp4_computes_what_mlx_vlm_computes(foreign: Foreign, dense_and_moe: Shape, name: str) -> None:
    from mlx_vlm.utils import load_model as load_vlm

    directory = foreign(BY_NAME[name], dense_and_moe)
    expected = np.array(load_vlm(directory)(TOKENS).logits)
    assert np.abs(np.array(load(directory)(TOKENS)) - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_awq_computes_what_mlx_lm_computes(tmp_path: Path, foreign: Foreign) -> None:
    """To the last bit, in half precision; mlx-lm rounds the decay rates too, so they are stored rounded."""
    directory = shutil.copytree(foreign(BY_NAME["AWQ"], DENSE), tmp_path / "awq")
    tensors = dict(mx.load(str(directory / "model.safetensors")))
    tensors = {name: v.astype(mx.float16) if name.endswith("A_log") else v for name, v in tensors.items()}
    mx.eval(tensors)
    mx.save_safetensors(str(directory / "model.safetensors"), tensors)
    expected = load_model(directory)[0](TOKENS)
    assert expected.dtype == mx.float16
    assert mx.array_equal(load(directory, exact=True)(TOKENS), expected).item()


def test_fp8_in_groups_of_32_is_what_mlx_vlm_makes_of_it(foreign: Foreign) -> None:
    """mlx-vlm quantises the blocks again, to mxfp8; converted likewise, the weights here are the same."""
    from mlx_vlm.utils import load_model as load_vlm

    directory = foreign(BY_NAME["FP8 in blocks"], DENSE)
    theirs = dict(tree_flatten(load_vlm(directory).parameters()))
    ours = dict(tree_flatten(load(directory).parameters()))
    packed = [name.removesuffix(".scales") for name in theirs if name.endswith(".scales")]
    assert len(packed) > 20
    same = []
    for path in packed:
        # It restores them in bfloat16 first, which may round a value to the next.
        weight, scales = mx.quantize(ours[f"{path}.weight"], 32, 8, mode="mxfp8")
        assert mx.array_equal(scales, theirs[f"{path}.scales"]).item(), path
        same.append((weight.view(mx.uint8) == theirs[f"{path}.weight"].view(mx.uint8)).mean().item())
    assert min(same) > 0.9


def test_modelopt_may_mix_nvfp4_and_fp8(tmp_path: Path, foreign: Foreign) -> None:
    """Under a name of its own; each matrix is what its tensors are."""
    directory = shutil.copytree(foreign(BY_NAME["NVFP4 of ModelOpt"], DENSE), tmp_path / "mixed")
    tensors = tensors_of(DENSE)
    stored, _ = build(BY_NAME["NVFP4 of ModelOpt"], tensors)
    name = "model.language_model.layers.1.mlp.up_proj"
    for part in ("weight", "weight_scale", "weight_scale_2", "input_scale"):
        del stored[f"{name}.{part}"]
    codes = mx.to_fp8(mx.array(tensors[f"{name}.weight"]) / 0.001)
    stored |= {f"{name}.weight": ("F8_E4M3", np.array(codes)), f"{name}.weight_scale": ("F32", np.float32(0.001))}
    write(stored, directory / "model.safetensors")
    settings = {"quant_method": "modelopt_mixed", "quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": "FP8"}
    (directory / "config.json").write_text(json.dumps(config_of(DENSE) | {"quantization_config": settings}))
    layers = load(directory).language_model.model.layers
    expected = np.array(mx.from_fp8(codes, dtype=mx.float32)) * np.float32(0.001)
    np.testing.assert_array_equal(np.array(layers[1].mlp.up_proj.weight), expected)
    assert isinstance(layers[0].mlp.up_proj, ScaledLinear)


def test_settings_beside_plain_weights_say_nothing(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    """Whatever they are, and wherever; left over by somebody who restored the weights."""
    expected = load(checkpoint_dir(DENSE))(TOKENS)
    for number, settings in enumerate([{"quant_method": "fp8"}, {"quant_method": "bitsandbytes"}, {}, {"bits": 4}]):
        for section in ("quantization_config", "text_config"):
            directory = shutil.copytree(checkpoint_dir(DENSE), tmp_path / f"{number}-{section}")
            config = config_of(DENSE)
            inner = config if section == "quantization_config" else config[section]
            inner["quantization_config"] = settings
            (directory / "config.json").write_text(json.dumps(config))
            (directory / "hf_quant_config.json").write_text("{}")
            assert mx.array_equal(load(directory)(TOKENS), expected).item()


def test_a_format_that_nobody_reads_is_refused_by_name(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    directory = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "copy")
    tensors = {name: ("F32", value) for name, value in tensors_of(DENSE).items()}
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    tensors[name] = ("U8", np.zeros((4096, 1), np.uint8))
    tensors[f"{name}.absmax"] = ("F32", np.zeros(128, np.float32))
    write(tensors, directory / "model.safetensors")
    config = config_of(DENSE) | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError,
        match=r"copy: quantization_config: expected quant_method fp8, .*, found 'bitsandbytes', .*up_proj.*; take the "
        "original checkpoint, or a conversion to MLX",
    ):
        ModelKit.load(directory)


@pytest.mark.parametrize(
    ("part", "program"),
    [
        ("weight._data", "optimum-quanto"),
        ("weight._data._data", "optimum-quanto"),
        ("weight.absmax", "bitsandbytes"),
        ("SCB", "bitsandbytes"),
        ("W_q", "HQQ"),
    ],
)
def test_a_format_without_settings_is_refused_by_the_names_of_its_tensors(part: str, program: str) -> None:
    """optimum-quanto leaves config.json as it was."""
    name = f"model.layers.0.mlp.up_proj.{part}"
    with pytest.raises(
        CheckpointError, match=rf"^{name}: expected .*, found {program}'s; take the original checkpoint"
    ):
        to_mlx({name: mx.zeros((8, 8), mx.uint8)}, {})


@pytest.mark.parametrize(
    ("name", "packing"),
    [
        ("GPTQ", "auto_gptq"),
        ("AWQ", "auto_awq"),
        ("FP8 in blocks", "fp8"),
        ("compressed-tensors, NVFP4", "llm_compressor"),
    ],
)
def test_autoround_packs_as_others_do(tmp_path: Path, foreign: Foreign, name: str, packing: str) -> None:
    """And says as which, in its own settings."""
    directory = shutil.copytree(foreign(BY_NAME[name], DENSE), tmp_path / "copy")
    expected = load(directory)(TOKENS)
    settings = {"quant_method": "auto-round", "packing_format": f"auto_round:{packing}"}
    (directory / "config.json").write_text(json.dumps(config_of(DENSE) | {"quantization_config": settings}))
    assert mx.array_equal(load(directory)(TOKENS), expected).item()


@pytest.mark.parametrize("packing", ["auto_round", "auto_round:gptqmodel"])
def test_autoround_s_own_packing_is_gptq_s_second(tmp_path: Path, foreign: Foreign, packing: str) -> None:
    """In which it stores groups that are not symmetric: their zeros are not less one."""
    directory = shutil.copytree(foreign(BY_NAME["GPTQ"], DENSE), tmp_path / "copy")
    found = []
    for settings in (
        {"quant_method": "gptq", "checkpoint_format": "gptq_v2"},
        {"quant_method": "auto-round", "packing_format": packing, "data_type": "int", "sym": False},
    ):
        (directory / "config.json").write_text(json.dumps(config_of(DENSE) | {"quantization_config": settings}))
        found.append(load(directory)(TOKENS))
    assert mx.array_equal(*found).item()


@pytest.mark.parametrize(
    ("packing", "kind"),
    [("auto_round", "mx_int"), ("auto_round:llm_compressor_nvfp4_e5m3", "nv_fp"), (None, "int")],
)
def test_tensors_of_a_program_that_packs_otherwise_are_refused(
    tmp_path: Path, foreign: Foreign, packing: str | None, kind: str
) -> None:
    """Some of AutoRound's have the names of others'; the error says where they lie."""
    directory = shutil.copytree(foreign(BY_NAME["GPTQ"], DENSE), tmp_path / "copy")
    settings = {"quant_method": "auto-round", "packing_format": packing, "bits": 4, "data_type": kind}
    (directory / "config.json").write_text(json.dumps(config_of(DENSE) | {"quantization_config": settings}))
    for use in (load, ModelKit.load, examine):
        with pytest.raises(
            CheckpointError,
            match=rf"copy: quantization_config: expected packing_format auto_round:auto_gptq, .*, found packing_format "
            f"{packing!r}.*, and tensors such as",
        ):
            use(directory)


def quark(*dtypes: str) -> dict[str, Any]:
    weights = [{"dtype": dtype, "qscheme": "per_group", "group_size": 32} for dtype in dtypes]
    some = {"*self_attn*": {"weight": weights[1:]}} if len(weights) > 1 else {}
    return {"quant_method": "quark", "global_quant_config": {"weight": weights[0]}, "layer_quant_config": some}


def mxfp4_of(directory: Path, settings: dict[str, Any], further: dict[str, Any] | None = None) -> np.ndarray:
    """Make a matrix of a checkpoint MXFP4 as ModelOpt and Quark store it; gives what it stands for."""
    tensors = {name: ("F32", value) for name, value in tensors_of(DENSE).items()}
    path = "model.language_model.layers.0.mlp.up_proj"
    packed, scales = mx.quantize(mx.array(tensors.pop(f"{path}.weight")[1]), 32, 4, mode="mxfp4")
    stored = {"weight": ("U8", np.array(packed.view(mx.uint8))), "weight_scale": ("U8", np.array(scales))}
    named = {f"{path}.{name}": value for name, value in (stored | (further or {})).items()}
    write(tensors | named, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config_of(DENSE) | {"quantization_config": settings}))
    return np.array(mx.dequantize(packed, scales, None, 32, 4, "mxfp4", dtype=mx.float32))


@pytest.mark.parametrize("settings", [{"quant_method": "modelopt", "quant_algo": "mxfp4"}, quark("fp4", "fp8_e4m3")])
def test_mxfp4_may_have_the_names_of_fp8(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], settings: dict[str, Any]
) -> None:
    """As ModelOpt and AMD's Quark call its parts; there are half as many bytes."""
    directory = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "copy")
    expected = mxfp4_of(directory, settings)
    model = load(directory)
    assert model.language_model.model.layers[0].mlp.up_proj.mode == "mxfp4"
    found = plain_parameters(model)["language_model.model.layers.0.mlp.up_proj.weight"]
    np.testing.assert_array_equal(np.array(found), expected)


@pytest.mark.parametrize("dtype", ["uint8", "int4"])
def test_quark_s_other_types_are_refused_by_name(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], dtype: str
) -> None:
    """Where they are some layers' alone, too: unsigned bytes would be read as E4M3."""
    directory = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "copy")
    mxfp4_of(directory, quark("fp4", dtype))
    with pytest.raises(
        CheckpointError,
        match=rf"copy: quantization_config: expected weights of dtype fp4 or fp8_e4m3, found fp4, {dtype} of Quark, "
        r"and tensors such as .*up_proj; take the original",
    ):
        load(directory)


def test_layers_with_a_scale_for_their_inputs_are_refused(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    """ModelOpt's AWQ: what is stored is a weight for other inputs than those that come."""
    directory = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "copy")
    scale = ("F32", np.ones(64, np.float32))
    mxfp4_of(directory, {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}, {"pre_quant_scale": scale})
    with pytest.raises(CheckpointError, match=r"up_proj.pre_quant_scale: expected layers whose inputs are taken as"):
        load(directory)


def test_a_missing_scale_is_missed(tmp_path: Path, foreign: Foreign) -> None:
    """A byte matrix without one stays what it is, and does not fit."""
    directory = shutil.copytree(foreign(BY_NAME["NVFP4 of ModelOpt"], DENSE), tmp_path / "copy")
    stored, _ = build(BY_NAME["NVFP4 of ModelOpt"], tensors_of(DENSE))
    path = "model.language_model.layers.0.mlp.up_proj"
    for part in ("weight_scale", "weight_scale_2"):
        without = {name: entry for name, entry in stored.items() if name != f"{path}.{part}"}
        write(without, directory / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"layers.0.mlp.up_proj"):
            load(directory)


@pytest.mark.some(2)
@pytest.mark.parametrize("name", ["FP8 in blocks", "NVFP4 of ModelOpt", "GPTQ"])
def test_a_head_may_be_stored_in_the_formats_too(
    tmp_path: Path, foreign: Foreign, dense_and_moe: Shape, name: str
) -> None:
    """As in Qwen's FP8 checkpoints, whose settings then hold for it."""
    kind = dataclasses.replace(BY_NAME[name], half=False)
    directory = shutil.copytree(foreign(kind, dense_and_moe), tmp_path / "copy")
    tensors = tensors_of(dense_and_moe)
    # The packers know layers by the decoder's names.
    mtp = {key.replace("mtp.", "model.language_model."): v for key, v in tensors.items() if key.startswith("mtp.")}
    stored, meant = build(kind, mtp)
    write({key.replace("model.language_model.", "mtp."): v for key, v in stored.items()}, directory / "mtp.safetensors")
    rest, _ = build(kind, {key: value for key, value in tensors.items() if not key.startswith("mtp.")})
    write(rest, directory / "model.safetensors")
    head = read_mtp_head(Checkpoint.open(directory))
    assert head is not None
    path = "layers.0.self_attn.q_proj"
    expected = meant[f"model.language_model.{path}.weight"]
    settings = head.quantisation.get(f"mtp.{path}")
    assert (settings is not None) == (name == "GPTQ")
    parts = {part: head.tensors.get(f"mtp.{path}.{part}") for part in ("weight", "scales", "biases")}
    found = parts["weight"] if settings is None else plain_weight(parts, settings, mx.float32)
    np.testing.assert_allclose(np.array(found), expected, atol=1e-6 * np.abs(expected).max())
    apart = read_mtp_head(Checkpoint.open(directory), directory / "mtp.safetensors")
    assert apart is not None
    assert apart.tensors.keys() == head.tensors.keys()


def test_settings_are_those_of_a_method_wherever_they_stand() -> None:
    section = {"quantization_config": {"quant_method": "compressed-tensors"}}
    settings = Settings.of(section)
    assert settings.raw == section["quantization_config"]
    # Beside the decoder's settings too, and before those that MLX writes in front of them.
    for config in ({"text_config": section}, {"text_config": section, "quantization_config": {"bits": 4}}):
        assert Settings.of(config) == settings
    assert Settings.of({"text_config": {"quantization_config": {"quant_method": "gptq"}}, **section}) == settings
    assert Settings.of({"quantization_config": {"config_groups": {}}}).raw == {}


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_bits_of_compressed_tensors_are_those_of_the_packed_shape(bits: int) -> None:
    """Whatever config.json says, which may name this module in a later group than another."""
    integers = np.random.default_rng(bits).integers(0, 2**bits, (8, 128), dtype=np.uint32)
    stream = (integers[..., None] >> np.arange(bits, dtype=np.uint32) & 1).reshape(8, -1, 32)
    words = (stream << np.arange(32, dtype=np.uint32)).sum(axis=-1, dtype=np.uint32).view(np.int32)
    groups = {
        "group_0": {"targets": ["re:.*mlp.*"], "weights": {"num_bits": 2 if bits == 4 else 4}},
        "group_1": {"targets": ["Linear"], "weights": {"num_bits": bits}},
    }
    parts = {"weight_packed": words, "weight_scale": np.ones((8, 2), np.float32), "weight_shape": np.array([8, 128])}
    config = {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}}
    out = to_mlx({f"model.layers.0.self_attn.q_proj.{part}": mx.array(value) for part, value in parts.items()}, config)
    found = {name.rpartition(".")[2]: value for name, value in out.items()}
    weight = plain_weight(found, {"group_size": 64, "bits": bits, "mode": "affine"}, mx.float32)
    assert np.array_equal(np.array(weight), integers.astype(np.float32) - 2 ** (bits - 1))


_PACKED = {"weight_packed": np.zeros((8, 16), np.int32), "weight_scale": np.ones((8, 2)), "weight_shape": [8, 128]}
_GPTQ = {"qweight": np.zeros((16, 8), np.int32), "scales": np.ones((2, 8)), "qzeros": np.zeros((2, 1), np.int32)}
_AWQ = {"qweight": np.zeros((128, 1), np.int32), "scales": np.ones((2, 8)), "qzeros": np.zeros((2, 1), np.int32)}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        # MLX would read whatever lies beyond the scales.
        (_PACKED | {"weight_g_idx": np.full(128, 10**9)}, "weight_g_idx: expected 0 to 1, found 1000000000 to"),
        (_PACKED | {"weight_g_idx": np.full(128, -5)}, "weight_g_idx: expected 0 to 1, found -5 to -5"),
        (_GPTQ | {"g_idx": np.full(128, 2)}, "g_idx: expected 0 to 1, found 2 to 2"),
        (_PACKED | {"weight_scale": np.ones((8, 3))}, "expected groups of one size, found 3 for 128 inputs"),
        (_PACKED | {"weight_g_idx": np.array([1, 0])}, "expected a group for each of 128 inputs"),
        (_AWQ | {"qzeros": np.zeros((1, 1), np.int32)}, "expected as many zeros as scales"),
        (_PACKED | {"weight_scale": np.ones((8, 0))}, "by zero"),
        (_PACKED | {"weight_shape": [8, 0]}, "by zero"),
        (_PACKED | {"weight_shape": [8, 8]}, "expected 1 to 8 bits for each of 8 inputs"),
        (_PACKED | {"weight_shape": [8, 200]}, "expected 1 to 8 bits for each of 200 inputs"),
        ({name: part for name, part in _PACKED.items() if name != "weight_shape"}, "weight_shape"),
        (_GPTQ | {"qzeros": np.zeros((2, 0), np.int32)}, "expected the zeros of .* found 0 words"),
        (
            {"qweight": np.zeros(128), "scales": np.ones((2, 128)), "qzeros": np.zeros((2, 16), np.int32)},
            "Invalid axis",
        ),
        ({"weight": np.zeros((8, 128), np.uint8), "weight_scale_inv": np.ones((0, 0))}, "by zero"),
        ({"weight_scale": np.zeros((8, 8), np.uint8), "weight_scale_2": np.array(1.0)}, "'weight'"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(parts: dict[str, Any], message: str) -> None:
    arrays = {name: np.asarray(part) for name, part in parts.items()}
    halves = {name: part.astype(np.float16) if part.dtype == np.float64 else part for name, part in arrays.items()}
    weights = {f"model.layers.0.mlp.up_proj.{name}": mx.array(part) for name, part in halves.items()}
    with pytest.raises(CheckpointError, match=f"^model.layers.0.mlp.up_proj.*{message}"):
        to_mlx(weights, {})


def test_scales_of_activations_and_caches_are_left_out() -> None:
    stored, _ = fp8_blocks(np.ones((32, 32), np.float32))
    weights = {f"model.layers.0.mlp.up_proj.{part}": mx.array(value) for part, (_, value) in stored.items()}
    unused = ("input_scale", "input_global_scale", "input_zero_point", "activation_scale", "output_scale")
    for part in (*(f"mlp.up_proj.{name}" for name in unused), *(f"self_attn.{name}_scale" for name in "qkv")):
        weights[f"model.layers.0.{part}"] = mx.array(1.0)
    assert set(to_mlx(weights, {})) == {"model.layers.0.mlp.up_proj.weight"}


def test_a_config_with_settings_of_another_program_is_read() -> None:
    raw = config_of(DENSE) | {"quantization_config": {"quant_method": "fp8"}}
    assert ModelConfig.from_dict(raw).raw == raw


def test_mlx_lm_quantises_experts_with_a_scale_of_their_own(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    """nvfp4 with `global_scale`, which MLX multiplies by on a GPU only: as plain weights of those values here."""
    from mlx_lm.utils import quantize_model, save_model

    model, config = load_model(checkpoint_dir(MOE))
    experts = {name: value for name, value in tree_flatten(model.parameters()) if "switch_mlp" in name}
    model, config = quantize_model(
        model, config, 16, 4, mode="nvfp4", global_scale=True, quant_predicate=lambda path, _: "switch_mlp" in path
    )
    directory = shutil.copytree(checkpoint_dir(MOE), tmp_path / "out")
    (directory / "model.safetensors").unlink()
    save_model(directory, model)
    (directory / "config.json").write_text(json.dumps(config))
    parameters = plain_parameters(load(directory))
    for name, value in experts.items():
        for expert in range(value.shape[0]):
            largest = mx.abs(value[expert]).max()
            packed = mx.quantize(value[expert], 16, 4, mode="nvfp4", global_scale=largest)
            expected = mx.dequantize(*packed, None, 16, 4, "nvfp4", dtype=mx.float32) * (largest / NVFP4_RANGE)
            np.testing.assert_allclose(np.array(parameters[name][expert]), np.array(expected), rtol=1e-5, err_msg=name)
    assert np.isfinite(np.array(load(directory)(TOKENS))).all()


def test_the_doctor_weighs_what_a_checkpoint_becomes_and_finds_a_head_beside_it(
    tmp_path: Path, foreign: Foreign
) -> None:
    directory = shutil.copytree(
        foreign(dataclasses.replace(BY_NAME["FP8 in blocks"], half=False), DENSE), tmp_path / "a"
    )
    plain = examine(directory / "plain").parameters_bytes
    assert examine(directory).parameters_bytes == plain
    tensors = load_file(directory / "plain" / "model.safetensors")
    head = {name: tensors.pop(name) for name in list(tensors) if name.startswith("mtp.")}
    save_file(tensors, directory / "plain" / "model.safetensors")
    assert not examine(directory / "plain").mtp
    save_file(head, directory / "plain" / "mtp.safetensors")
    report = examine(directory / "plain")
    assert (report.mtp, report.parameters_bytes) == (True, plain)


@pytest.mark.parametrize("everything", [False, True])
def test_what_was_cast_to_fp8_without_a_scale_is_no_integers(everything: bool, tmp_path: Path) -> None:
    values = {
        "model.layers.0.input_layernorm.weight": np.array([0.5, 1.5]),
        "model.layers.0.mlp.up_proj.weight": np.array([[1.0, -0.25]]),
        "model.layers.0.linear_attn.dt_bias": np.array([-2.0]),
    }
    stored = {}
    for name, value in values.items():
        matrix = everything or value.ndim == 2
        codes = np.array(mx.to_fp8(mx.array(value.astype(np.float32))))
        stored[name] = ("F8_E4M3", codes) if matrix else ("F32", value.astype(np.float32))
    write(stored, tmp_path / "model.safetensors")
    headers = list(read_headers([tmp_path / "model.safetensors"]))
    found = to_mlx(mx.load(str(tmp_path / "model.safetensors")), {})  # type: ignore[arg-type]
    assert {value.dtype for value in found.values()} == {mx.bfloat16 if everything else mx.float32}
    assert all(np.array_equal(found[name].astype(mx.float32), value) for name, value in values.items())
    assert loaded_bytes(headers, {}, lambda: found) == sum(value.nbytes for value in found.values())
