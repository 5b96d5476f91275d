"""MTP heads: found in every place, in one convention, and only if they fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen35.checkpoints.files import BOX, Checkpoint
from mlx_qwen35.checkpoints.mtp_heads import MtpHead, head_files, read_mtp_head
from mlx_qwen35.errors import CheckpointError
from tests.tiny import DENSE, MOE, WIDE_HEADS, Shape

NORMS = (
    "norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden", "layers.0.input_layernorm",
    "layers.0.post_attention_layernorm", "layers.0.self_attn.q_norm", "layers.0.self_attn.k_norm",
)  # fmt: skip
# Means of w, of transformers' (1 + w), as users of published heads reported them, and of the head in this package:
# youssofal/MTPLX 301 and 511, jundot/omlx 3750 (less 1).
PUBLISHED: dict[str, tuple[float, ...]] = {
    "a 27B": (1.25, -0.46, -0.16, 0.04, 0.21, 0.79, 0.78),
    "a 4B": (2.58, -0.44, -0.16, 0.303, 0.387, 0.746, 0.734),
    "a 35B-A3B": (1.25, -0.7266, -0.5063, 0.04, 0.21, 0.75, 0.75),
    "the box": (0.5625, -0.126, 0.0105, 0.242, -0.061, 0.338, 0.322),
}


@pytest.fixture
def source(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> Callable[[Shape], Path]:
    """From a shape to a copy of its checkpoint that a test may change."""

    def copy(shape: Shape) -> Path:
        return Path(shutil.copytree(checkpoint_dir(shape), tmp_path / f"{shape.name}-copy"))

    return copy


def load(path: Path) -> dict[str, mx.array]:
    return dict(mx.load(str(path)))


def read(directory: Path, mtp_path: Path | None = None) -> MtpHead:
    head = read_mtp_head(Checkpoint.open(directory), mtp_path)
    assert head is not None
    return head


def take_out(directory: Path) -> dict[str, mx.array]:
    """Remove a checkpoint's own head, and return it."""
    tensors = load(directory / "model.safetensors")
    head = {name: mx.array(value) for name, value in tensors.items() if name.startswith("mtp.")}
    rest = {name: mx.array(value) for name, value in tensors.items() if name not in head}
    mx.eval(head, rest)
    mx.save_safetensors(str(directory / "model.safetensors"), rest)
    return head


def gains(head: dict[str, mx.array], *names: str) -> dict[str, mx.array]:
    """The same with 1 added to some norms."""
    return head | {f"mtp.{name}.weight": head[f"mtp.{name}.weight"] + 1 for name in names}


def assert_equal(one: MtpHead, other: MtpHead) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    for name, value in one.tensors.items():
        np.testing.assert_array_equal(np.array(value), np.array(other.tensors[name]), err_msg=name)
    assert one.quantisation == other.quantisation


@pytest.mark.parametrize("shape", [DENSE, WIDE_HEADS, MOE], ids=lambda shape: shape.name)
def test_a_head_among_the_weights_is_that_of_transformers_with_gains(
    checkpoint_dir: Callable[[Shape], Path], shape: Shape
) -> None:
    directory = checkpoint_dir(shape)
    head, stored = read(directory), load(directory / "model.safetensors")
    for name in NORMS:
        full = f"mtp.{name}.weight"
        np.testing.assert_array_equal(np.array(head.tensors[full]), np.array(stored[full] + 1), err_msg=full)
    plain = {name for name in stored if name.startswith("mtp.") and name.removesuffix(".weight")[4:] not in NORMS}
    for name in plain - {name for name in plain if ".experts." in name}:
        np.testing.assert_array_equal(np.array(head.tensors[name]), np.array(stored[name]), err_msg=name)
    if shape.moe:
        packed = np.array(stored["mtp.layers.0.mlp.experts.gate_up_proj"])
        halves = [np.array(head.tensors[f"mtp.layers.0.mlp.switch_mlp.{n}_proj.weight"]) for n in ("gate", "up")]
        np.testing.assert_array_equal(np.concatenate(halves, axis=1), packed)
    assert head.quantisation == {}
    assert head.files == (directory / "model.safetensors",)


@pytest.mark.some(4)
@pytest.mark.parametrize(
    "name", ["mtp.safetensors", "model-mtp.safetensors", "mtp-00001-of-00001.safetensors", "optiq/mtp.safetensors"]
)
@pytest.mark.parametrize("prefix", ["mtp.", "language_model.mtp.", ""])
def test_a_head_in_a_file_beside_the_weights_is_found(
    checkpoint_dir: Callable[[Shape], Path], source: Callable[[Shape], Path], name: str, prefix: str
) -> None:
    directory = source(DENSE)
    tensors = {prefix + key.removeprefix("mtp."): value for key, value in take_out(directory).items()}
    (directory / name).parent.mkdir(exist_ok=True)
    mx.save_safetensors(str(directory / name), tensors)
    # Whether there is an index or not, and whether it knows of the file or not.
    for indexed in (None, ["model.safetensors"], ["model.safetensors", name]):
        if indexed is not None and "/" in indexed[-1]:
            continue
        if indexed is not None:
            weight_map = {f"of {file}": file for file in indexed}
            (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        head = read(directory)
        assert_equal(head, read(checkpoint_dir(DENSE)))
        assert head.files == (directory / name,)
        assert head_files(Checkpoint.open(directory)) == [directory / name]


@pytest.mark.parametrize("bits", [None, 4, 8])
@pytest.mark.parametrize("shape", [DENSE, MOE], ids=lambda shape: shape.name)
def test_a_repository_of_its_own_as_mlx_vlm_writes_it_holds_the_same_head(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], source: Callable[[Shape], Path], shape: Shape, bits: Any
) -> None:
    from mlx_vlm.split_mtp import split_mtp

    apart = split_mtp(str(checkpoint_dir(shape)), str(tmp_path / "mtp"), q_bits=bits, q_group_size=64 if bits else None)
    directory = source(shape)
    take_out(directory)
    head, whole = read(directory, apart), read(checkpoint_dir(shape))
    assert head.files == (apart / "model.safetensors",)
    assert_equal(head, read(directory, apart / "model.safetensors"))
    if bits is None:
        assert_equal(head, whole)
        return
    matrices = {name.removesuffix(".weight") for name, value in whole.tensors.items() if value.ndim > 1}
    matrices.discard("mtp.layers.0.mlp.gate")  # mlx-vlm leaves the router as it is
    assert head.quantisation == {path: {"group_size": 64, "bits": bits, "mode": "affine"} for path in matrices}
    for path in matrices:
        parts = (head.tensors[f"{path}.{kind}"] for kind in ("weight", "scales", "biases"))
        want = mx.dequantize(*mx.quantize(whole.tensors[f"{path}.weight"], 64, bits), 64, bits)
        np.testing.assert_array_equal(np.array(mx.dequantize(*parts, 64, bits)), np.array(want), err_msg=path)


def test_every_module_may_be_quantised_in_its_own_way(source: Callable[[Shape], Path]) -> None:
    directory = source(DENSE)
    tensors = take_out(directory)
    ways = {
        "fc": ("affine", 32, 3), "layers.0.self_attn.q_proj": ("affine", 64, 6),
        "layers.0.mlp.up_proj": ("mxfp4", 32, 4), "layers.0.mlp.down_proj": ("nvfp4", 16, 4),
        "layers.0.mlp.gate_proj": ("mxfp8", 32, 8),
    }  # fmt: skip
    for name, (mode, group_size, bits) in ways.items():
        parts = mx.quantize(tensors.pop(f"mtp.{name}.weight"), group_size, bits, mode=mode)
        kinds = ("weight", "scales", "biases")
        tensors |= {f"mtp.{name}.{kind}": part for kind, part in zip(kinds, parts, strict=False)}
    mx.save_safetensors(str(directory / "mtp.safetensors"), tensors)
    head = read(directory)
    want = {f"mtp.{name}": {"mode": m, "group_size": g, "bits": b} for name, (m, g, b) in ways.items()}
    assert head.quantisation == want


@pytest.mark.parametrize("kind", PUBLISHED)
@pytest.mark.parametrize("stored", ["w", "1 + w", "layers 1 + w", "the others 1 + w"])
def test_norms_are_judged_one_by_one(source: Callable[[Shape], Path], kind: str, stored: str) -> None:
    """With the means of real heads; programs that forget some norms forget those of one group."""
    directory = source(DENSE)
    tensors = take_out(directory)
    for name, mean in zip(NORMS, PUBLISHED[kind], strict=True):
        value = tensors[f"mtp.{name}.weight"]
        tensors[f"mtp.{name}.weight"] = (value - value.mean()) * 0.1 + mean
    groups = {"w": (), "1 + w": NORMS, "layers 1 + w": NORMS[3:], "the others 1 + w": NORMS[:3]}
    for dtype in (mx.float32, mx.bfloat16):
        written = {name: value.astype(dtype) for name, value in gains(tensors, *groups[stored]).items()}
        mx.save_safetensors(str(directory / "mtp.safetensors"), written)
        head = read(directory)
        for name in NORMS:
            full = f"mtp.{name}.weight"
            want, tolerance = np.array(tensors[full] + 1), 0.02 if dtype == mx.bfloat16 else 1e-6
            found = np.array(head.tensors[full].astype(mx.float32))
            np.testing.assert_allclose(found, want, atol=tolerance, err_msg=name)
            assert head.tensors[full].dtype == dtype


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("others", [False, True])
def test_one_norm_unlike_the_others_is_seen(
    checkpoint_dir: Callable[[Shape], Path], source: Callable[[Shape], Path], name: str, others: bool
) -> None:
    directory = source(DENSE)
    tensors = take_out(directory)
    converted = [norm for norm in NORMS if norm != name] if others else [name]
    mx.save_safetensors(str(directory / "mtp.safetensors"), gains(tensors, *converted))
    assert_equal(read(directory), read(checkpoint_dir(DENSE)))


def test_the_head_in_the_package_has_gains_around_one() -> None:
    """The w of its last norm has a mean above a half."""
    head, stored = read(BOX), load(BOX / "model.safetensors")
    for name in NORMS:
        np.testing.assert_array_equal(
            np.array(head.tensors[f"mtp.{name}.weight"].astype(mx.float32)),
            np.array((stored[f"mtp.{name}.weight"] + 1).astype(mx.float32)),
            err_msg=name,
        )


@pytest.mark.parametrize(("mean", "gain"), [(0.7, False), (0.9, True), (1.1, True), (1.3, False)])
def test_who_wrote_the_decoder_decides_where_the_last_norm_s_mean_does_not(
    source: Callable[[Shape], Path], mean: float, gain: bool
) -> None:
    """Near 1, between two published values of w, it is a gain, unless transformers wrote it."""
    directory, name = source(DENSE), "mtp.norm.weight"
    tensors = load(directory / "model.safetensors")
    tensors[name] = (tensors[name] - tensors[name].mean()) * 0.1 + mean
    mx.eval(tensors)
    mx.save_safetensors(str(directory / "model.safetensors"), tensors)
    np.testing.assert_array_equal(np.array(read(directory).tensors[name]), np.array(tensors[name] + 1))
    mx.save_safetensors(str(directory / "mtp.safetensors"), take_out(directory))
    found = read(directory).tensors[name]
    np.testing.assert_array_equal(np.array(found), np.array(tensors[name] if gain else tensors[name] + 1))


@pytest.mark.parametrize("place", ["model.safetensors", "mtp.safetensors"])
def test_a_head_in_a_folder_counts_only_where_there_is_no_other(source: Callable[[Shape], Path], place: str) -> None:
    directory = source(DENSE)
    (directory / "optiq").mkdir()
    mx.save_safetensors(str(directory / "optiq" / "mtp.safetensors"), {"mtp.fc.weight": mx.zeros((64, 128))})
    if place == "mtp.safetensors":
        mx.save_safetensors(str(directory / place), take_out(directory))
    assert read(directory).files == (directory / place,)
    assert head_files(Checkpoint.open(directory)) == [directory / place]


def test_no_head_is_no_error(source: Callable[[Shape], Path]) -> None:
    """Even if config.json announces one."""
    directory = source(DENSE)
    take_out(directory)
    assert Checkpoint.open(directory).config.raw["text_config"]["mtp_num_hidden_layers"] == 1
    assert read_mtp_head(Checkpoint.open(directory)) is None
    assert head_files(Checkpoint.open(directory)) == []
    with pytest.raises(CheckpointError, match="expected the tensors of an MTP head, found none"):
        read(directory, directory)
    with pytest.raises(CheckpointError, match="expected an existing directory"):
        read(directory, directory / "nowhere")


def test_a_named_head_stands_in_place_of_the_checkpoints_own(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], source: Callable[[Shape], Path]
) -> None:
    tensors = take_out(source(DENSE))
    tensors["mtp.fc.weight"] = tensors["mtp.fc.weight"] * 2
    mx.save_safetensors(str(tmp_path / "other.safetensors"), tensors)
    head = read(checkpoint_dir(DENSE), tmp_path / "other.safetensors")
    np.testing.assert_array_equal(np.array(head.tensors["mtp.fc.weight"]), np.array(tensors["mtp.fc.weight"]))


def test_more_than_a_head_in_a_repository_of_its_own_is_refused(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], source: Callable[[Shape], Path]
) -> None:
    """Such as embeddings of its own, which nothing here computes with."""
    tensors = {name.removeprefix("mtp."): value for name, value in take_out(source(DENSE)).items()}
    mx.save_safetensors(str(tmp_path / "head.safetensors"), tensors | {"embed_tokens.weight": mx.zeros((4, 64))})
    with pytest.raises(CheckpointError, match="1 surplus: mtp.embed_tokens.weight"):
        read(checkpoint_dir(DENSE), tmp_path / "head.safetensors")


def test_a_head_elsewhere_may_lie_in_several_files_of_any_name(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], source: Callable[[Shape], Path]
) -> None:
    """Beside files without any of it."""
    tensors = take_out(source(DENSE))
    place = tmp_path / "apart"
    place.mkdir()
    for number, letter in enumerate("abc"):
        part = dict(list(tensors.items())[number::3])
        mx.save_safetensors(str(place / f"{letter}.safetensors"), part)
    mx.save_safetensors(str(place / "other.safetensors"), {"model.embed_tokens.weight": mx.zeros(4)})
    (place / "folder.safetensors").mkdir()
    head = read(checkpoint_dir(DENSE), place)
    assert_equal(head, read(checkpoint_dir(DENSE)))
    assert head.files == tuple(place / f"{letter}.safetensors" for letter in "abc")


def test_a_named_place_without_a_head_is_refused_whatever_the_checkpoint_has(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    mx.save_safetensors(str(tmp_path / "a.safetensors"), {"model.norm.weight": mx.zeros(4)})
    for path in (tmp_path, tmp_path / "a.safetensors"):
        with pytest.raises(CheckpointError, match=f"{path}: expected the tensors of an MTP head, found none"):
            read(checkpoint_dir(DENSE), path)


def test_a_head_may_have_several_layers(source: Callable[[Shape], Path]) -> None:
    directory = source(DENSE)
    tensors = take_out(directory)
    more = {name.replace("layers.0", "layers.1"): value for name, value in tensors.items() if "layers.0" in name}
    mx.save_safetensors(str(directory / "mtp.safetensors"), tensors | more)
    assert read(directory).tensors.keys() == (tensors | more).keys()
    missing = next(name for name in more if "q_proj" in name)
    del more[missing]
    mx.save_safetensors(str(directory / "mtp.safetensors"), tensors | more)
    with pytest.raises(CheckpointError, match=f"1 missing: {missing}"):
        read(directory)


def test_attention_with_biases_has_them_in_the_head_too(source: Callable[[Shape], Path]) -> None:
    """One for each output, plain or quantised."""
    directory = source(DENSE)
    config = json.loads((directory / "config.json").read_text())
    config["text_config"]["attention_bias"] = True
    (directory / "config.json").write_text(json.dumps(config))
    tensors = take_out(directory)
    attention = "mtp.layers.0.self_attn"
    names = {name for name in tensors if name.startswith(attention) and name.endswith("_proj.weight")}
    biases = {f"{name.removesuffix('weight')}bias": mx.zeros(tensors[name].shape[0]) for name in names}
    assert len(biases) == 4
    mx.save_safetensors(str(directory / "mtp.safetensors"), tensors | biases)
    assert biases.keys() < read(directory).tensors.keys()
    for name in biases:
        mx.save_safetensors(
            str(directory / "mtp.safetensors"), tensors | {key: value for key, value in biases.items() if key != name}
        )
        with pytest.raises(CheckpointError, match=f"1 missing: {name}"):
            read(directory)


def test_a_quantised_matrix_may_have_a_bias_of_its_own(source: Callable[[Shape], Path]) -> None:
    """As some programs write it; of one number for each output."""
    directory = source(DENSE)
    tensors = take_out(directory)
    weight, scales, biases = mx.quantize(tensors.pop("mtp.fc.weight"), 32, 8)
    tensors |= {"mtp.fc.weight": weight, "mtp.fc.scales": scales, "mtp.fc.biases": biases}
    mx.save_safetensors(str(directory / "mtp.safetensors"), tensors | {"mtp.fc.bias": mx.zeros(64)})
    assert read(directory).tensors["mtp.fc.bias"].shape == (64,)
    mx.save_safetensors(str(directory / "mtp.safetensors"), tensors | {"mtp.fc.bias": mx.zeros(128)})
    with pytest.raises(CheckpointError, match=r"misshapen: mtp.fc.bias \(expected \(64,\), found \(128,\)\)"):
        read(directory)


def test_a_shared_expert_has_a_size_of_its_own(source: Callable[[Shape], Path]) -> None:
    directory = source(MOE)
    config = json.loads((directory / "config.json").read_text())
    config["text_config"]["shared_expert_intermediate_size"] = 32
    (directory / "config.json").write_text(json.dumps(config))
    tensors = take_out(directory)
    for name in [name for name in tensors if ".shared_expert." in name]:
        tensors[name] = tensors[name][:, :32] if "down_proj" in name else tensors[name][:32]
    mx.save_safetensors(str(directory / "mtp.safetensors"), tensors)
    head = read(directory).tensors
    assert head["mtp.layers.0.mlp.shared_expert.down_proj.weight"].shape == (64, 32)
    assert head["mtp.layers.0.mlp.switch_mlp.down_proj.weight"].shape == (6, 64, 64)


def test_two_heads_are_refused(source: Callable[[Shape], Path]) -> None:
    directory = source(DENSE)
    mx.save_safetensors(str(directory / "mtp.safetensors"), {"mtp.fc.weight": mx.zeros((64, 128))})
    with pytest.raises(
        CheckpointError, match=r"tensor mtp.fc.weight: .* found in .*model.safetensors and in .*mtp.safetensors"
    ):
        read(directory)


def test_a_head_of_another_decoder_is_refused(
    checkpoint_dir: Callable[[Shape], Path], source: Callable[[Shape], Path]
) -> None:
    """Every tensor that is missing, surplus or of another shape is listed."""
    directory, other = source(DENSE), checkpoint_dir(MOE)
    with pytest.raises(
        CheckpointError,
        match=r"MTP head do not fit the decoder: 3 missing: mtp.layers.0.mlp.down_proj.weight, .*; 8 surplus: "
        r"mtp.layers.0.mlp.gate.weight, ",
    ):
        read(directory, other)
    with pytest.raises(CheckpointError, match=r"misshapen: .*q_norm.weight \(expected \(64,\), found \(256,\)\)"):
        read(directory, checkpoint_dir(WIDE_HEADS))
    tensors = take_out(directory)
    fc = mx.zeros((128, 256))
    weight, scales, biases = mx.quantize(fc, 64, 4)
    del tensors["mtp.fc.weight"], tensors["mtp.norm.weight"]
    quantised = tensors | {"mtp.fc.weight": weight, "mtp.fc.scales": scales, "mtp.fc.biases": biases}
    mx.save_safetensors(str(directory / "mtp.safetensors"), quantised | {"mtp.embed_tokens.weight": fc})
    with pytest.raises(CheckpointError, match=r"1 missing: mtp.norm.weight; 1 surplus: mtp.embed_tokens.weight; .*fc"):
        read(directory)


def test_a_quantisation_that_mlx_lacks_is_refused(source: Callable[[Shape], Path]) -> None:
    directory = source(DENSE)
    tensors = take_out(directory)
    tensors |= {"mtp.fc.weight": mx.zeros((64, 4), mx.uint32), "mtp.fc.scales": mx.zeros((64, 2))}
    mx.save_safetensors(str(directory / "mtp.safetensors"), tensors)
    with pytest.raises(CheckpointError, match=r"mtp.fc: expected \(64, 128\) quantised, found"):
        read(directory)


def test_a_damaged_file_is_named(source: Callable[[Shape], Path]) -> None:
    directory = source(DENSE)
    (directory / "mtp.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"mtp.safetensors: expected a safetensors file"):
        read(directory)


@pytest.mark.parametrize(
    ("decoder", "own", "zero"),
    [("gptq_v2", None, 8), ("gptq", None, 9), ("gptq", "gptq_v2", 8), ("gptq_v2", "gptq", 9), ("gptq_v2", "", 9)],
)
def test_a_head_is_read_with_the_settings_that_lie_beside_it(
    source: Callable[[Shape], Path], tmp_path: Path, decoder: str, own: str | None, zero: int
) -> None:
    """Those of the checkpoint for its own head; for one elsewhere those that are there, if any. GPTQ has two zeros."""
    directory = source(DENSE)
    head = take_out(directory)
    del head["mtp.fc.weight"]
    head["mtp.fc.qweight"] = mx.full((16, 64), 0x12345678, mx.uint32).view(mx.int32)
    head["mtp.fc.scales"] = mx.full((1, 64), 0.5, mx.float16)
    head["mtp.fc.qzeros"] = mx.full((1, 8), 0x88888888, mx.uint32).view(mx.int32)

    def settings(form: str) -> dict[str, Any]:
        return {"quantization_config": {"quant_method": "gptq", "bits": 4, "checkpoint_format": form}}

    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | settings(decoder)))
    place = directory if own is None else tmp_path / "apart"
    place.mkdir(exist_ok=True)
    if own:
        (place / "config.json").write_text(json.dumps(settings(own)))
    mx.save_safetensors(str(place / "mtp.safetensors"), head)
    for path in [None] if own is None else [place, place / "mtp.safetensors"]:
        found = read(directory, path).tensors["mtp.fc.biases"]
        np.testing.assert_array_equal(np.array(found), np.full((64, 1), -0.5 * zero))
