"""Converting: everything is kept, and whatever reads the result computes the same."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_qwen35 import ModelKit
from mlx_qwen35.conversion import convert
from mlx_qwen35.errors import CheckpointError, OptionError
from tests.parity.cases import CASES, TOLERANCE
from tests.tiny import DENSE, MOE, WIDE_HEADS, Shape, config_of, write_checkpoint


def logits_of(directory: Path, name: str) -> np.ndarray:
    with ModelKit.load(directory, exact=True) as kit:
        case = CASES[name]
        return np.array(kit.logits(kit.process_prompt(case.input_ids, images=case.images)))


def tensors_of(directory: Path) -> dict[str, mx.array]:
    return dict(mx.load(str(directory / "model.safetensors")))


@pytest.mark.parametrize("shape", [DENSE, WIDE_HEADS, MOE], ids=lambda shape: shape.name)
def test_reading_it_back_gives_the_same_logits(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], shape: Shape
) -> None:
    out = convert(checkpoint_dir(shape), tmp_path / "out")
    for name in ("text", "two images"):
        np.testing.assert_array_equal(logits_of(out, name), logits_of(checkpoint_dir(shape), name))
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
    np.testing.assert_array_equal(logits_of(out, "text"), logits_of(checkpoint_dir(DENSE), "text"))


def test_mlx_lm_and_mlx_vlm_read_it_too(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], dense_and_moe: Shape
) -> None:
    from mlx_lm.utils import load_model
    from mlx_vlm.utils import load_model as load_vlm

    out = convert(checkpoint_dir(dense_and_moe), tmp_path / "out")
    expected = logits_of(out, "text")
    tokens = mx.array([CASES["text"].input_ids])
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
    assert config["quantization"] == settings | dict.fromkeys(gates, settings | {"bits": 8})
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
    assert np.isfinite(logits_of(out, "two images")).all()
    with pytest.raises(CheckpointError, match="expected unquantised weights"):
        convert(out, tmp_path / "twice", bits=4)


@pytest.mark.parametrize("group_size", [32, 128])
def test_groups_of_another_size(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], dense_and_moe: Shape, group_size: int
) -> None:
    """Gates keep groups of 64; rows that 128 does not divide stay as they are. mlx-lm reads it alike."""
    from mlx_lm.utils import load_model

    out = convert(checkpoint_dir(dense_and_moe), tmp_path / "out", bits=4, group_size=group_size)
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
    tokens = mx.array([CASES["text"].input_ids])
    np.testing.assert_array_equal(np.array(load_model(out)[0](tokens)[0]), logits_of(out, "text"))


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
    assert np.isfinite(logits_of(out, "two images")).all()


def test_what_lies_beside_the_weights_is_copied_if_it_is_data(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    """No program, no pickle, and no index of other files."""
    source = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "source")
    data = {"chat_template.jinja": "{{ messages }}", "merges.txt": "a b", "video_preprocessor_config.json": "{}"}
    junk = {"modeling_evil.py": "raise", "pytorch_model.bin": "x", "README.md": "y"}
    for name, text in (data | junk).items():
        (source / name).write_text(text)
    (source / "config.json").write_text(json.dumps(config_of(DENSE) | {"torch_dtype": "float32"}))
    out = convert(source, tmp_path / "out", dtype="bfloat16")
    assert {name: (out / name).read_text() for name in data} == data
    assert not {path.name for path in out.iterdir()} & set(junk)
    config = json.loads((out / "config.json").read_text())
    assert "torch_dtype" not in config
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
    tokens = mx.array([CASES["text"].input_ids])
    np.testing.assert_array_equal(np.array(load_model(out)[0](tokens)[0]), logits_of(out, "text"))


def test_casting_spares_the_decay_rates(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    out = convert(checkpoint_dir(DENSE), tmp_path / "out", dtype="bfloat16")
    for name, value in tensors_of(out).items():
        assert value.dtype == (mx.float32 if name.endswith("A_log") else mx.bfloat16), name
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == config["text_config"]["dtype"] == "bfloat16"
    assert np.isfinite(logits_of(out, "two images")).all()


def test_half_precision_experts_are_refused_on_the_cpu(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    """MLX's CPU backend would fail in the middle of an answer."""
    out = convert(checkpoint_dir(MOE), tmp_path / "out", dtype="bfloat16")
    if mx.metal.is_available():
        assert np.isfinite(logits_of(out, "text")).all()
    else:
        with pytest.raises(CheckpointError, match="expected float32 or quantised experts on the CPU backend"):
            ModelKit.load(out)


def test_bad_requests_change_nothing(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    existing = tmp_path / "existing"
    existing.mkdir()
    for options, message in [
        ({"out": existing}, "expected a directory that does not exist yet"),
        ({"out": tmp_path / "a", "bits": 5}, "bits: expected 4 or 8, found 5"),
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

    monkeypatch.setattr("mlx_qwen35.conversion._save_tensors", fail)
    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint_dir(DENSE), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_large_models_are_written_in_shards(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tensor per shard; what is written is let go of."""
    monkeypatch.setattr("mlx_qwen35.conversion.SHARD_GIGABYTES", 0)
    out = convert(checkpoint_dir(DENSE), tmp_path / "out")
    files = list(out.glob("model-*-of-*.safetensors"))
    assert len(files) > 50
    np.testing.assert_array_equal(logits_of(out, "two images"), logits_of(checkpoint_dir(DENSE), "two images"))


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
    tokens = mx.array([CASES["text"].input_ids])
    np.testing.assert_array_equal(np.array(load_model(out)[0](tokens)[0]), logits_of(out, "text"))
    np.testing.assert_array_equal(logits_of(out, "text"), logits_of(source, "text"))
