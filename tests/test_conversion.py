"""Converting: everything is kept, and whatever reads the result computes the same."""

import json
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.checkpoints.files import BOX, Checkpoint
from mlx_qwen35.checkpoints.mtp_heads import read_mtp_head
from mlx_qwen35.conversion import Quantisation, convert, spell_out
from mlx_qwen35.errors import CheckpointError, CheckpointWarning, OptionError
from tests.parity.cases import CASES, SHORT_IDS, TOLERANCE
from tests.tiny import DENSE, MOE, WIDE_HEADS, Shape, config_of, write_checkpoint
from tests.tiny import tensors_of as tensors_of_shape
from tools.checkpoints.kinds import KINDS, build, write


def logits_of(directory: Path, *, sees: bool = False) -> np.ndarray:
    with ModelKit.load(directory, exact=True) as kit:
        case = CASES["image first"]
        prompt = kit.process_prompt(case.input_ids, images=case.images) if sees else kit.process_prompt(SHORT_IDS)
        return np.array(kit.logits(prompt))


def tensors_of(directory: Path) -> dict[str, mx.array]:
    return dict(mx.load(str(directory / "model.safetensors")))


@pytest.mark.some(2)
@pytest.mark.parametrize("shape", [DENSE, WIDE_HEADS, MOE], ids=lambda shape: shape.name)
def test_reading_it_back_gives_the_same_logits(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], shape: Shape
) -> None:
    out = convert(checkpoint_dir(shape), tmp_path / "out")
    for sees in (False, True):
        np.testing.assert_array_equal(logits_of(out, sees=sees), logits_of(checkpoint_dir(shape), sees=sees))
    again = convert(out, tmp_path / "again")
    one, other = tensors_of(out), tensors_of(again)
    assert one.keys() == other.keys()
    assert all(mx.array_equal(one[name], other[name]).item() for name in one)


def test_vision_and_mtp_are_kept(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    for shape in (DENSE, MOE):
        source, out = checkpoint_dir(shape), convert(checkpoint_dir(shape), tmp_path / shape.name)
        kept = tensors_of(out)
        assert any(name.startswith("vision_tower.") for name in kept)
        assert {name for name in kept if name.startswith("mtp.fc")} == {"mtp.fc.weight"}
        elements = sum(value.size for value in tensors_of(source).values())
        assert sum(value.size for value in kept.values()) == elements
        assert {path.name for path in source.iterdir()} <= {path.name for path in out.iterdir()}
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"]) == set(kept)


def test_a_source_of_several_files_gets_an_index_that_fits_what_is_written(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkpoint_dir(DENSE), source)
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    parts = {f"model-0000{part + 1}-of-00002.safetensors": sorted(tensors)[part::2] for part in (0, 1)}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, source / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    out = convert(source, tmp_path / "out")
    kept, found = tensors_of(out), json.loads((out / "model.safetensors.index.json").read_text())
    assert found["weight_map"] == dict.fromkeys(sorted(kept), "model.safetensors")
    assert found["metadata"] == {"total_size": sum(value.nbytes for value in kept.values())}
    np.testing.assert_array_equal(logits_of(out), logits_of(checkpoint_dir(DENSE)))


def test_mlx_lm_and_mlx_vlm_read_it_too(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], dense_and_moe: Shape
) -> None:
    from mlx_lm.utils import load_model
    from mlx_vlm.utils import load_model as load_vlm

    out = convert(checkpoint_dir(dense_and_moe), tmp_path / "out")
    expected = logits_of(out)
    tokens = mx.array([SHORT_IDS])
    np.testing.assert_array_equal(np.array(load_model(out)[0](tokens)[0]), expected)
    found = np.array(load_vlm(out)(tokens).logits[0])
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def gates_of(shape: Shape) -> set[str]:
    """Every matrix that decides where tokens go, or how fast a GDN layer forgets and learns."""
    gates = set()
    for index, kind in enumerate(shape.layer_types):
        layer = f"language_model.model.layers.{index}"
        if kind == "linear_attention":
            gates |= {f"{layer}.linear_attn.in_proj_a", f"{layer}.linear_attn.in_proj_b"}
        if shape.moe:
            gates |= {f"{layer}.mlp.gate", f"{layer}.mlp.shared_expert_gate"}
    return gates


@pytest.mark.some(2)
@pytest.mark.parametrize("bits", [4, 8])
def test_quantising_leaves_vision_and_gates_precise(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], dense_and_moe: Shape, bits: int
) -> None:
    """Every gate has 8 bits, every other matrix of the decoder `bits`, and everything else is as it was."""
    source, gates = checkpoint_dir(dense_and_moe), gates_of(dense_and_moe)
    out = convert(source, tmp_path / "out", bits=bits)
    quantised, original = tensors_of(out), tensors_of(convert(source, tmp_path / "plain"))
    config = json.loads((out / "config.json").read_text())
    settings = {"bits": bits, "group_size": 64, "mode": "affine"}
    assert config["quantization"] == settings | {gate: settings | {"bits": 8} for gate in gates if bits != 8}
    assert config["quantization_config"] == config["quantization"]
    names = set()
    for name, value in original.items():
        path = name.removesuffix(".weight")
        if not name.startswith("language_model.") or value.ndim == 1 or path.endswith("conv1d"):
            assert mx.array_equal(quantised[name], value).item(), name
            names.add(name)
            continue
        names |= {f"{path}.weight", f"{path}.scales", f"{path}.biases"}
        packed, scales, biases = (quantised[f"{path}.{kind}"] for kind in ("weight", "scales", "biases"))
        width = 32 * packed.shape[-1] // value.shape[-1]
        assert width == (8 if path in gates else bits), path
        groups = value.reshape(*value.shape[:-1], -1, 64)
        step = (groups.max(axis=-1) - groups.min(axis=-1)) / (2**width - 1)
        restored = mx.dequantize(packed, scales, biases, 64, width).reshape(groups.shape)
        assert mx.all(mx.abs(restored - groups) <= step[..., None]).item(), path
    assert set(quantised) == names
    assert np.isfinite(logits_of(out, sees=True)).all()
    with pytest.raises(CheckpointError, match="expected unquantised weights"):
        convert(out, tmp_path / "twice", bits=4)


@pytest.mark.some(2)
@pytest.mark.parametrize("group_size", [32, 128])
def test_groups_of_another_size(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], dense_and_moe: Shape, group_size: int
) -> None:
    """Gates keep groups of 64; rows that 128 does not divide stay as they are. mlx-lm reads it alike."""
    from mlx_lm.utils import load_model

    remarks: list[str] = []
    out = convert(checkpoint_dir(dense_and_moe), tmp_path / "out", bits=4, group_size=group_size, report=remarks.append)
    tensors, original = tensors_of(out), tensors_of(convert(checkpoint_dir(dense_and_moe), tmp_path / "plain"))
    for name, value in original.items():
        path = name.removesuffix(".weight")
        if not name.startswith("language_model.") or value.ndim == 1 or path.endswith("conv1d"):
            continue
        size = 64 if path in gates_of(dense_and_moe) else group_size
        if value.shape[-1] % size:
            assert mx.array_equal(tensors[name], value).item(), name
        else:
            assert value.shape[-1] // tensors[f"{path}.scales"].shape[-1] == size, path
    assert any(name.endswith("o_proj.scales") for name in tensors)
    left = sum(
        name.endswith(".weight") and value.ndim > 1 and "conv1d" not in name and bool(value.shape[-1] % group_size)
        for name, value in original.items()
        if name.startswith("language_model.") and name.removesuffix(".weight") not in gates_of(dense_and_moe)
    )
    assert [remark.split(":")[0] for remark in remarks] == (
        [f"{left} matrices stay as they are, because 128 does not divide their rows"] if left else []
    )
    assert bool(left) == (group_size == 128)
    tokens = mx.array([SHORT_IDS])
    np.testing.assert_array_equal(np.array(load_model(out)[0](tokens)[0]), logits_of(out))


@pytest.mark.some(1)
@pytest.mark.parametrize("bits", [4, 8])
def test_casting_leaves_quantised_weights_packed(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], bits: int
) -> None:
    """Only their scales and biases are floating-point numbers."""
    source = convert(checkpoint_dir(DENSE), tmp_path / "source", bits=bits)
    out = convert(source, tmp_path / "out", dtype="float16")
    before, after = tensors_of(source), tensors_of(out)
    assert before.keys() == after.keys()
    for name, value in before.items():
        if value.dtype == mx.uint32:
            assert mx.array_equal(after[name], value).item(), name
        else:
            assert after[name].dtype == (mx.float32 if name.endswith("A_log") else mx.float16), name
    assert np.isfinite(logits_of(out, sees=True)).all()


def test_what_lies_beside_the_weights_is_copied_if_it_is_data(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    """No program, no pickle, and no index of other files."""
    source = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "source")
    data = {"chat_template.jinja": "{{ messages }}", "merges.txt": "a b", "video_preprocessor_config.json": "{}"}
    junk = {"modeling_evil.py": "raise", "pytorch_model.bin": "x", "README.md": "y"}
    for name, text in (data | junk).items():
        (source / name).write_text(text)
    raw = config_of(DENSE) | {"torch_dtype": "float32"}
    for section in ("text_config", "vision_config"):
        raw[section] |= {"torch_dtype": "float32"}
    (source / "config.json").write_text(json.dumps(raw))
    out = convert(source, tmp_path / "out", dtype="bfloat16")
    assert {name: (out / name).read_text() for name in data} == data
    assert not {path.name for path in out.iterdir()} & set(junk)
    config = json.loads((out / "config.json").read_text())
    assert "torch_dtype" not in config
    assert not any("torch_dtype" in config[section] for section in ("text_config", "vision_config"))
    assert (
        {config[section]["dtype"] for section in ("text_config", "vision_config")} == {config["dtype"]} == {"bfloat16"}
    )
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors_of(out).values())
    _, metadata = mx.load(str(out / "model.safetensors"), return_metadata=True)
    assert metadata["format"] == "mlx", "transformers and mlx-lm look for it"


def test_a_quantised_conversion_is_read_by_mlx_lm(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    from mlx_lm.utils import load_model

    out = convert(checkpoint_dir(DENSE), tmp_path / "out", bits=4)
    tokens = mx.array([SHORT_IDS])
    np.testing.assert_array_equal(np.array(load_model(out)[0](tokens)[0]), logits_of(out))


def test_casting_spares_the_decay_rates(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    out = convert(checkpoint_dir(DENSE), tmp_path / "out", dtype="bfloat16")
    for name, value in tensors_of(out).items():
        assert value.dtype == (mx.float32 if name.endswith("A_log") else mx.bfloat16), name
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == config["text_config"]["dtype"] == "bfloat16"
    assert np.isfinite(logits_of(out, sees=True)).all()


def test_half_precision_experts_are_converted_on_any_machine(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    """MLX's CPU backend does not multiply them, but every way out of that begins with converting them."""
    half = convert(checkpoint_dir(MOE), tmp_path / "half", dtype="bfloat16")
    stored = tensors_of(half)
    assert stored["mtp.layers.0.mlp.switch_mlp.up_proj.weight"].dtype == mx.bfloat16
    wide = tensors_of(convert(half, tmp_path / "wide", dtype="float32"))
    assert {value.dtype for value in wide.values()} == {mx.float32}
    assert all(mx.array_equal(wide[name], value).item() for name, value in stored.items())
    assert np.isfinite(logits_of(convert(half, tmp_path / "quantised", bits=8))).all()


def test_bad_requests_change_nothing(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    existing = tmp_path / "existing"
    existing.mkdir()
    for options, message in [
        ({"out": existing}, "expected a directory that does not exist yet"),
        ({"out": tmp_path / "a", "bits": 7}, "bits: expected 2, 3, 4, 5, 6 or 8, found 7"),
        ({"out": tmp_path / "a", "bits": 8, "mode": "mxfp4"}, "bits: expected 4, found 8"),
        ({"out": tmp_path / "a", "mode": "affine"}, "bits: expected .* for mode affine, found none"),
        ({"out": tmp_path / "a", "mode": "int4"}, "mode: expected affine, mxfp4, mxfp8, nvfp4, found int4"),
        ({"out": tmp_path / "a", "mode": "nvfp4", "group_size": 32}, "group_size: expected 16, found 32"),
        ({"out": tmp_path / "a", "recipe": "mixed"}, "recipe: expected mixed_2_6, .*, found mixed"),
        ({"out": tmp_path / "a", "recipe": "mixed_2_6", "bits": 4}, "recipe: expected no bits and no mode beside it"),
        ({"out": tmp_path / "a", "bits": 4, "group_size": 7}, "group_size: expected 32, 64 or 128, found 7"),
        ({"out": tmp_path / "a", "dtype": "int8"}, "dtype: expected float16, bfloat16, float32, found int8"),
    ]:
        with pytest.raises(OptionError, match=message):
            convert(checkpoint_dir(DENSE), **options)
    with pytest.raises(CheckpointError):
        convert(tmp_path / "nowhere", tmp_path / "a")
    assert list(tmp_path.iterdir()) == [existing]


def test_an_interrupted_conversion_leaves_nothing(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlx_qwen35.conversion._Writer._save", fail)
    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint_dir(DENSE), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    checkpoint, before = checkpoint_dir(DENSE), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OptionError, match=r"out: .* GB cannot be written, with .* GB free \(.*rite"):
            convert(checkpoint, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_large_models_are_written_in_shards(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tensor per shard; what is written is let go of."""
    monkeypatch.setattr("mlx_qwen35.conversion.SHARD_GIGABYTES", 0)
    out = convert(checkpoint_dir(DENSE), tmp_path / "out")
    files = list(out.glob("model-*-of-*.safetensors"))
    assert len(files) > 50
    np.testing.assert_array_equal(logits_of(out, sees=True), logits_of(checkpoint_dir(DENSE), sees=True))


def test_what_lies_beside_the_target_is_left_alone(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    keep = tmp_path / "out.incomplete" / "thesis.txt"
    keep.parent.mkdir()
    keep.write_text("years of work")
    convert(checkpoint_dir(DENSE), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.incomplete"}
    assert keep.read_text() == "years of work"


def test_an_mtp_module_in_a_file_of_its_own_is_kept(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    source = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    mtp = {name: value for name, value in tensors.items() if name.startswith("mtp.")}
    save_file(mtp, source / "mtp.safetensors")
    save_file({n: v for n, v in tensors.items() if n not in mtp}, source / "model.safetensors")
    apart, together = convert(source, tmp_path / "apart"), convert(checkpoint_dir(DENSE), tmp_path / "together")
    assert tensors_of(apart).keys() == tensors_of(together).keys()


def test_a_text_only_conversion_is_read_by_mlx_lm(tmp_path: Path) -> None:
    """Which does not know qwen3_5_text, so the config is written in its nested form."""
    from mlx_lm.utils import load_model

    source = write_checkpoint(tmp_path / "source", replace(DENSE, name="text-only", text_only=True))
    out = convert(source, tmp_path / "out")
    tokens = mx.array([SHORT_IDS])
    np.testing.assert_array_equal(np.array(load_model(out)[0](tokens)[0]), logits_of(out))
    np.testing.assert_array_equal(logits_of(out), logits_of(source))


@pytest.mark.parametrize("tied", [False, True])
def test_a_text_only_conversion_says_at_the_top_what_programs_look_for_there(tmp_path: Path, tied: bool) -> None:
    """Where its answers end, whether its embedding is the head, and its type; as its own config.json says it."""
    from mlx_lm.utils import load_config

    source = write_checkpoint(tmp_path / "source", replace(DENSE, name="text-only", text_only=True, tied=tied))
    raw = config_of(replace(DENSE, text_only=True, tied=tied)) | {"eos_token_id": [5, 6]}
    (source / "config.json").write_text(json.dumps(raw))
    (source / "generation_config.json").unlink()  # mlx-lm puts its ends in their place
    config = load_config(convert(source, tmp_path / "out"))
    assert config["model_type"] == "qwen3_5"
    assert {name: config[name] for name in ("eos_token_id", "tie_word_embeddings", "dtype")} == {
        "eos_token_id": [5, 6], "tie_word_embeddings": tied, "dtype": "float32",
    }  # fmt: skip


def test_a_flat_config_keeps_its_tower(tmp_path: Path) -> None:
    """Some write all fields at one level; programs look for the tower and its tokens at the top, and so does this."""
    source = write_checkpoint(tmp_path / "source", DENSE)
    nested = config_of(DENSE)
    (source / "config.json").write_text(json.dumps(nested.pop("text_config") | nested))
    out = convert(source, tmp_path / "out")
    np.testing.assert_array_equal(logits_of(out, sees=True), logits_of(source, sees=True))
    assert_parents_read(out)


def assert_parents_read(out: Path) -> None:
    """mlx-lm computes the same to the last bit, mlx-vlm within the usual tolerance.

    In modes other than affine MLX looks embeddings up in bfloat16, and the two parents round differently from there.
    """
    from mlx_lm.utils import load_model
    from mlx_vlm.utils import load_model as load_vlm

    tokens = mx.array([SHORT_IDS])
    expected = logits_of(out)
    np.testing.assert_array_equal(np.array(load_model(out)[0](tokens)[0]), expected)
    settings = json.loads((out / "config.json").read_text()).get("quantization", {})
    tolerance = TOLERANCE if settings.get("mode", "affine") == "affine" else 1e-3
    assert np.abs(np.array(load_vlm(out)(tokens).logits[0]) - expected).max() <= tolerance * np.abs(expected).max()


QUANTISATIONS: list[dict[str, Any]] = [
    *({"bits": bits} for bits in (2, 3, 4, 5, 6, 8)),
    *({"mode": mode} for mode in ("mxfp4", "mxfp8", "nvfp4")),
    {"bits": 3, "group_size": 32, "mode": "affine"},
]


# Each for a dense model; for experts, one of each mode.
FOR_EXPERTS: list[dict[str, Any]] = [{"bits": 4}, {"mode": "mxfp4"}, {"mode": "mxfp8"}, {"mode": "nvfp4"}]


@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("shape", "options"),
    [*((DENSE, options) for options in QUANTISATIONS), *((MOE, options) for options in FOR_EXPERTS)],
    ids=lambda value: value.name if isinstance(value, Shape) else " ".join(map(str, value.values())),
)
def test_every_quantisation_is_read_by_mlx_lm_and_mlx_vlm(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], shape: Shape, options: dict[str, Any]
) -> None:
    out = convert(checkpoint_dir(shape), tmp_path / "out", **options)
    assert_parents_read(out)
    tensors, quantization = tensors_of(out), json.loads((out / "config.json").read_text())["quantization"]
    path = "language_model.model.layers.3.self_attn.o_proj"
    width = 32 * tensors[f"{path}.weight"].shape[-1] // 256
    assert width == options.get("bits", 8 if options.get("mode") == "mxfp8" else 4) == quantization["bits"]
    assert quantization["mode"] == options.get("mode", "affine")


@pytest.mark.some(2)
@pytest.mark.parametrize("recipe", ["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"])
def test_recipes_are_mlx_lm_s_except_for_gates(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], recipe: str
) -> None:
    from mlx_lm.convert import mixed_quant_predicate_builder
    from mlx_lm.utils import load_model, quantize_model

    out = convert(checkpoint_dir(DENSE), tmp_path / "out", recipe=recipe)
    assert_parents_read(out)
    model, config = load_model(checkpoint_dir(DENSE))
    _, config = quantize_model(model, config, 64, 4, quant_predicate=mixed_quant_predicate_builder(recipe, model, 64))
    theirs = {path: value for path, value in config["quantization"].items() if isinstance(value, dict)}
    found = json.loads((out / "config.json").read_text())["quantization"]
    default = {name: found[name] for name in ("group_size", "bits", "mode")}
    gates = gates_of(DENSE)
    assert len({value["bits"] for value in theirs.values()}) == 2
    for path, value in theirs.items():
        assert found.get(path, default) == ({**value, "bits": 8} if path in gates else value), path


def test_what_cannot_be_quantised_is_said(tmp_path: Path) -> None:
    """The rows of the model in the package are multiples of 32 only."""
    with pytest.warns(
        CheckpointWarning, match=r"\d\d matrices stay as they are, because 64 does not .*; group_size 32 divides"
    ):
        half = convert(BOX, tmp_path / "half", bits=4)
    whole = convert(BOX, tmp_path / "whole", bits=4, group_size=32)
    sizes = [(path / "model.safetensors").stat().st_size for path in (BOX, half, whole)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.7 * sizes[0]


def test_nothing_to_quantise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gates alone, which always have 8 bits, do not count."""
    monkeypatch.setattr("tests.tiny.FFN", 96)
    shape = replace(DENSE, name="narrow", layer_types=("linear_attention",) * 2, value_heads=2)
    source = write_checkpoint(tmp_path / "source", shape)
    with pytest.raises(OptionError, match="group_size: expected one that divides the rows of some matrix, found 128"):
        convert(source, tmp_path / "out", bits=4, group_size=128)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ((None, None, None, None), None),
        ((None, 32, None, None), None),
        ((4, None, None, None), (4, 64, "affine", None)),
        ((3, 128, "affine", None), (3, 128, "affine", None)),
        ((None, None, "mxfp4", None), (4, 32, "mxfp4", None)),
        ((None, 32, "mxfp8", None), (8, 32, "mxfp8", None)),
        ((4, 16, "nvfp4", None), (4, 16, "nvfp4", None)),
        ((None, None, None, "mixed_2_6"), (0, 64, "affine", "mixed_2_6")),
        ((None, 32, "affine", "mixed_4_6"), (0, 32, "affine", "mixed_4_6")),
    ],
    ids=str,
)
def test_a_mode_has_bits_and_groups_of_its_own(
    asked: tuple[Any, ...], meant: tuple[int, int, str, str | None] | None
) -> None:
    assert Quantisation.of(*asked) == (None if meant is None else Quantisation(*meant))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((None, 7, None, None), "group_size: expected 32, 64 or 128, found 7"),
        ((None, 16, None, "mixed_2_6"), "group_size: expected 32, 64 or 128, found 16"),
        ((None, 64, "mxfp4", None), "group_size: expected 32, found 64"),
        ((None, None, "mxfp4", "mixed_2_6"), "recipe: expected no bits and no mode beside it"),
        ((4, None, "mxfp8", None), "bits: expected 8, found 4"),
        ((7, None, None, None), "bits: expected 2, 3, 4, 5, 6 or 8, found 7"),
        ((0, None, None, None), "bits: expected 2, 3, 4, 5, 6 or 8, found 0"),
        (("4", None, None, None), "bits: expected 2, 3, 4, 5, 6 or 8, found '4'"),
        ((4, "64", None, None), "group_size: expected 32, 64 or 128, found '64'"),
    ],
    ids=str,
)
def test_what_mlx_cannot_quantise_to_is_refused(asked: tuple[Any, ...], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Quantisation.of(*asked)


def test_a_group_size_that_says_nothing_is_told(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    """As mlx-lm, it is no error; but who gave it expects a smaller model."""
    said: list[str] = []
    convert(checkpoint_dir(DENSE), tmp_path / "out", group_size=64, report=said.append)
    assert len([text for text in said if text.startswith("group_size says nothing without bits")]) == 1
    assert "quantization" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_a_decoder_without_full_attention_has_an_interval_beyond_its_end(tmp_path: Path) -> None:
    """So that mlx-lm and mlx-vlm make none of its layers one of full attention."""
    source = write_checkpoint(tmp_path / "source", replace(DENSE, name="all", layer_types=("linear_attention",) * 2))
    out = convert(source, tmp_path / "out", report=lambda remark: pytest.fail(remark))
    assert json.loads((out / "config.json").read_text())["text_config"]["full_attention_interval"] == 3


def test_progress_ends_with_everything_written(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    calls: list[tuple[int, int]] = []
    target = tmp_path / "in folders" / "that are new" / "out"
    out = convert(checkpoint_dir(DENSE), target, bits=4, on_progress=lambda *call: calls.append(call))
    assert out == target
    total = sum(value.nbytes for value in tensors_of(out).values())
    assert {call[1] for call in calls} == {total}
    assert [call[0] for call in calls] == sorted({call[0] for call in calls})
    assert calls[-1] == (total, total)


SPARSE = {
    "as in old files": {"rope_theta": 5e5, "partial_rotary_factor": 0.25, "rope_scaling": {"type": "mrope"}},
    "stretched": {"rope_theta": 5e5, "rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 32},
    "nowhere": {},
}


@pytest.mark.some(1)
@pytest.mark.parametrize(("rope", "tied_at"), [("as in old files", "text"), ("stretched", "top"), ("nowhere", "top")])
def test_what_the_source_leaves_out_is_written_where_mlx_lm_and_mlx_vlm_look(
    tmp_path: Path, rope: str, tied_at: str
) -> None:
    """Their defaults are others than transformers', and neither looks at the top for tied embeddings."""
    source = write_checkpoint(tmp_path / "source", WIDE_HEADS)
    config = config_of(WIDE_HEADS)
    text = config["text_config"]
    for name in ("rope_parameters", "rms_norm_eps", "max_position_embeddings", "attention_bias"):
        del text[name]
    text |= SPARSE[rope]
    if tied_at == "text":
        text["tie_word_embeddings"] = config.pop("tie_word_embeddings")
    (source / "config.json").write_text(json.dumps(config))
    out = convert(source, tmp_path / "out")
    np.testing.assert_array_equal(logits_of(out, sees=True), logits_of(source, sees=True))
    if rope == "stretched":
        from mlx_lm.utils import load_model

        # mlx-vlm knows no YaRN.
        np.testing.assert_array_equal(np.array(load_model(out)[0](mx.array([SHORT_IDS]))[0]), logits_of(out))
    else:
        assert_parents_read(out)


def test_ids_of_media_that_the_source_leaves_out_are_not_mlx_vlm_s_defaults() -> None:
    """Which are those of other tokens."""
    config = config_of(DENSE) | {"text_config": config_of(DENSE)["text_config"] | {"vocab_size": 248320}}
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    for name in names:
        del config[name]
    spell_out(config, ModelConfig.from_dict(config))
    assert {name: config.get(name) for name in names} == {
        "image_token_id": 248056, "video_token_id": None, "vision_start_token_id": 248053,
        "vision_end_token_id": 248054,
    }  # fmt: skip


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_another_interval_is_written_where_mlx_lm_and_mlx_vlm_look(tmp_path: Path, interval: int) -> None:
    """They do not know layer_types."""
    kinds = tuple("full_attention" if (i + 1) % interval == 0 else "linear_attention" for i in range(4))
    source = write_checkpoint(tmp_path / "source", replace(DENSE, name="interval", layer_types=kinds))
    out = convert(source, tmp_path / "out", bits=8)
    assert_parents_read(out)
    assert json.loads((out / "config.json").read_text())["text_config"]["full_attention_interval"] == interval


def test_layers_without_an_interval_are_kept_and_the_parents_said_to_fail(tmp_path: Path) -> None:
    kinds = ("full_attention", "linear_attention", "linear_attention", "full_attention")
    source = write_checkpoint(tmp_path / "source", replace(DENSE, name="irregular", layer_types=kinds))
    remarks: list[str] = []
    out = convert(source, tmp_path / "out", report=remarks.append)
    assert remarks == ["mlx-lm and mlx-vlm will not load it: its full attention layers do not come at one interval"]
    np.testing.assert_array_equal(logits_of(out), logits_of(source))


def foreign(tmp_path: Path, base: Path, shape: Shape, name: str) -> Path:
    """A checkpoint in the format of another program."""
    kind = replace(next(kind for kind in KINDS if kind.name == name), half=False)
    source = shutil.copytree(base, tmp_path / "foreign")
    write(build(kind, tensors_of_shape(shape))[0], source / "model.safetensors")
    settings = {"quantization_config": dict(kind.settings)}
    config = config_of(shape)
    config["text_config"] |= settings
    (source / "config.json").write_text(json.dumps(config | settings))
    (source / "hf_quant_config.json").write_text("{}")
    return source


FOREIGN = ("FP8 in blocks", "AWQ", "GPTQ", "compressed-tensors, 4 bits", "NVFP4 of ModelOpt")


@pytest.mark.some(3)
@pytest.mark.parametrize(
    ("shape", "name"),
    [
        pytest.param(shape, name, marks=[] if shape is DENSE or name in FOREIGN[:2] else [pytest.mark.thorough])
        for shape in (DENSE, MOE)
        for name in FOREIGN
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_other_programs_formats_become_mlx_s(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], shape: Shape, name: str
) -> None:
    source = foreign(tmp_path, checkpoint_dir(shape), shape, name)
    remarks: list[str] = []
    out = convert(source, tmp_path / "out", report=remarks.append)
    assert_parents_read(out)
    expected = logits_of(source, sees=True)
    assert np.abs(logits_of(out, sees=True) - expected).max() <= TOLERANCE * np.abs(expected).max()
    config = json.loads((out / "config.json").read_text())
    packed = name not in ("FP8 in blocks", "NVFP4 of ModelOpt")
    assert ("quantization" in config) == packed
    assert "quantization_config" not in config["text_config"]
    assert not (out / "hf_quant_config.json").exists()
    assert [remark.split(":")[0].split(" ", 1)[1] for remark in remarks] == (
        ["layers in nvfp4 became plain"] if name.startswith("NVFP4") else []
    )


@pytest.mark.thorough
def test_fp8_may_be_quantised_again_and_integers_only_if_asked(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    fp8 = foreign(tmp_path, checkpoint_dir(DENSE), DENSE, "FP8 in blocks")
    assert_parents_read(convert(fp8, tmp_path / "mxfp8", mode="mxfp8"))
    shutil.rmtree(fp8)
    awq = foreign(tmp_path, checkpoint_dir(DENSE), DENSE, "AWQ")
    with pytest.raises(
        CheckpointError, match=r"expected unquantised weights, found 4 bits \(affine\) in .*; dequantize"
    ):
        convert(awq, tmp_path / "no", bits=8)
    again = convert(awq, tmp_path / "again", bits=8, dequantize=True)
    assert_parents_read(again)
    plain = convert(awq, tmp_path / "plain", dequantize=True)
    assert not any(name.endswith(".scales") for name in tensors_of(plain))
    expected = logits_of(awq)
    assert np.abs(logits_of(plain) - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_a_head_from_elsewhere_is_written_instead_of_its_own(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    """Quantised as it is, with settings by its path."""
    from mlx_vlm.split_mtp import split_mtp

    apart = split_mtp(str(checkpoint_dir(DENSE)), str(tmp_path / "mtp"), q_bits=8, q_group_size=32)
    out = convert(checkpoint_dir(DENSE), tmp_path / "out", bits=4, mtp_path=apart)
    assert_parents_read(out)
    head = read_mtp_head(Checkpoint.open(out))
    assert head is not None
    assert head.quantisation["mtp.fc"] == {"group_size": 32, "bits": 8, "mode": "affine"}
    quantization = json.loads((out / "config.json").read_text())["quantization"]
    assert quantization["mtp.fc"] == head.quantisation["mtp.fc"]
    assert (quantization["bits"], quantization["group_size"]) == (4, 64)


def test_a_head_that_nothing_could_use_is_left_out_unless_it_was_named(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    """A model that loads can be converted: there it is left out, too."""
    source = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    del tensors["mtp.fc.weight"]
    save_file(tensors, source / "model.safetensors")
    remarks: list[str] = []
    out = convert(source, tmp_path / "out", report=remarks.append)
    assert len(remarks) == 1
    assert remarks[0].startswith(f"the MTP head is left out: {source}")
    assert remarks[0].endswith("1 missing: mtp.fc.weight")
    assert not any("mtp" in name for name in tensors_of(out))
    with pytest.raises(CheckpointError, match="1 missing: mtp.fc.weight"):
        convert(source, tmp_path / "named", mtp_path=source)


def test_heads_beside_the_weights_are_kept_with_gains(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    source = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    save_file({n: v for n, v in tensors.items() if not n.startswith("mtp.")}, source / "model.safetensors")
    mtp = {name.removeprefix("mtp."): value for name, value in tensors.items() if name.startswith("mtp.")}
    save_file(mtp, source / "model-mtp.safetensors")
    kept = tensors_of(convert(source, tmp_path / "out"))
    np.testing.assert_array_equal(np.array(kept["mtp.norm.weight"]), mtp["norm.weight"] + 1)
    np.testing.assert_array_equal(np.array(kept["mtp.fc.weight"]), mtp["fc.weight"])


@pytest.mark.parametrize("bits", [None, 8])
def test_how_a_head_is_quantised_is_written_beside_how_the_decoder_is(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], bits: int | None
) -> None:
    """Module by module, in the words of mlx-lm and mlx-vlm; it is read back as it was."""
    source = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "source")
    tensors = dict(mx.load(str(source / "model.safetensors")))
    head = {name: tensors.pop(name) for name in list(tensors) if name.startswith("mtp.")}
    mx.eval(tensors, head)
    ways = {"mtp.fc": (32, 3), "mtp.layers.0.mlp.up_proj": (64, 4), "mtp.layers.0.mlp.down_proj": (64, 4)}
    for path, (group_size, width) in ways.items():
        parts = mx.quantize(head.pop(f"{path}.weight"), group_size, width)
        head |= {f"{path}.{kind}": part for kind, part in zip(("weight", "scales", "biases"), parts, strict=True)}
    mx.save_safetensors(str(source / "model.safetensors"), tensors)
    mx.save_safetensors(str(source / "mtp.safetensors"), head)
    out = convert(source, tmp_path / "out", bits=bits)
    written = json.loads((out / "config.json").read_text())["quantization"]
    default = {name: written[name] for name in ("group_size", "bits", "mode")}
    wanted = {path: {"group_size": group, "bits": width, "mode": "affine"} for path, (group, width) in ways.items()}
    assert {path: written.get(path, default) for path in ways} == wanted
    assert default["bits"] == (bits or 4)
    again = read_mtp_head(Checkpoint.open(out))
    assert again is not None
    assert again.quantisation == wanted
