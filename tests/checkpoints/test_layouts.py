"""Names and values of the three layouts."""

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.checkpoints.layouts import (
    canonical_name,
    canonical_names,
    check_tensors,
    recognise_layout,
    to_canonical,
)
from mlx_qwen35.conversion import convert
from mlx_qwen35.errors import CheckpointError
from tests.parity.cases import SHORT_IDS
from tests.tiny import DENSE, MOE, Shape, config_of, tensors_of, write_checkpoint


def weights_of(shape: Shape) -> tuple[dict[str, mx.array], ModelConfig]:
    return {name: mx.array(value) for name, value in tensors_of(shape).items()}, ModelConfig.from_dict(config_of(shape))


def equal(one: dict[str, mx.array], other: dict[str, mx.array]) -> bool:
    return one.keys() == other.keys() and all(mx.array_equal(one[name], other[name]).item() for name in one)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.language_model.layers.0.mlp.gate.weight", "language_model.model.layers.0.mlp.gate.weight"),
        ("model.visual.merger.norm.bias", "vision_tower.merger.norm.bias"),
        ("lm_head.weight", "language_model.lm_head.weight"),
        ("model.norm.weight", "language_model.model.norm.weight"),
        ("language_model.model.norm.weight", "language_model.model.norm.weight"),
        ("vision_tower.pos_embed.weight", "vision_tower.pos_embed.weight"),
        ("mtp.fc.weight", "mtp.fc.weight"),
        ("language_model.mtp.fc.weight", "mtp.fc.weight"),
        ("model.mtp.norm.weight", "mtp.norm.weight"),
        # As mlx-lm renames the last, and as transformers names what lies in its text model; both parents drop them.
        ("language_model.model.mtp.norm.weight", "mtp.norm.weight"),
        ("model.language_model.mtp.layers.0.mlp.up_proj.weight", "mtp.layers.0.mlp.up_proj.weight"),
        ("visual.merger.norm.bias", "vision_tower.merger.norm.bias"),
        # As transformers' AutoModel saves the model without its head.
        ("language_model.layers.0.mlp.up_proj.weight", "language_model.model.layers.0.mlp.up_proj.weight"),
        ("language_model.embed_tokens.weight", "language_model.model.embed_tokens.weight"),
        ("language_model.norm.weight", "language_model.model.norm.weight"),
        ("model.language_model.visual.merger.norm.bias", "vision_tower.merger.norm.bias"),
        ("model.vision_tower.merger.norm.bias", "vision_tower.merger.norm.bias"),
        # Of a head in a file of its own.
        ("fc.weight", "mtp.fc.weight"),
        ("norm.weight", "mtp.norm.weight"),
        ("layers.0.mlp.up_proj.weight", "mtp.layers.0.mlp.up_proj.weight"),
        ("pre_fc_norm_embedding.weight", "mtp.pre_fc_norm_embedding.weight"),
        ("pre_fc_norm_hidden.weight", "mtp.pre_fc_norm_hidden.weight"),
    ],
)
def test_names(name: str, expected: str) -> None:
    assert canonical_name(name) == expected
    assert canonical_name(expected) == expected


def test_a_decoder_may_have_nothing_in_front_of_its_names_as_a_head_has() -> None:
    decoder = {name: canonical_name(f"model.{name}") for name in ("embed_tokens.weight", "layers.0.a", "norm.weight")}
    assert canonical_names(decoder) == decoder
    head = ("fc.weight", "layers.0.a", "norm.weight")
    assert canonical_names(head) == {name: f"mtp.{name}" for name in head}
    # A head that brings an embedding along stays one, and has a tensor too many.
    with pytest.raises(CheckpointError, match=r"tensor embed_tokens\.weight: expected a name that begins with"):
        canonical_names([*head, "embed_tokens.weight"])


def test_a_foreign_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"tensor transformer\.wte\.weight: expected a name that begins with"):
        canonical_name("transformer.wte.weight")


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=lambda shape: shape.name)
def test_converting_twice_changes_nothing(shape: Shape) -> None:
    weights, config = weights_of(shape)
    once = to_canonical(weights, config)
    assert equal(to_canonical(once, config), once)
    # Nor does it matter whether the vision tower or the MTP module is there: only the convolution decides.
    text = {name: value for name, value in once.items() if not name.startswith(("vision_tower.", "mtp."))}
    assert equal(to_canonical(text, config), text)


def test_norms_are_shifted_exactly_where_the_layer_multiplies_by_one_plus_w() -> None:
    weights, config = weights_of(DENSE)
    canonical = to_canonical(weights, config)
    shifted = set()
    for name, value in weights.items():
        new = canonical[canonical_name(name)]
        if new.shape == value.shape and not mx.array_equal(new, value):
            np.testing.assert_allclose(np.array(new), np.array(value) + 1, rtol=1e-6)
            shifted.add(name)
    layers = [f"model.language_model.layers.{index}." for index in range(4)] + ["mtp.layers.0."]
    expected = {f"{layer}{norm}.weight" for layer in layers for norm in ("input_layernorm", "post_attention_layernorm")}
    attention = [layers[3], layers[4]]
    expected |= {f"{layer}self_attn.{norm}.weight" for layer in attention for norm in ("q_norm", "k_norm")}
    expected |= {"model.language_model.norm.weight"}
    expected |= {f"mtp.{norm}.weight" for norm in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")}
    assert shifted == expected


def test_layouts_are_told_apart_by_their_values() -> None:
    weights, config = weights_of(DENSE)
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    assert recognise_layout(shapes) == "transformers"
    canonical = {name: tuple(value.shape) for name, value in to_canonical(weights, config).items()}
    assert recognise_layout(canonical) == "mlx-vlm"
    text = {name: shape for name, shape in canonical.items() if not name.startswith("vision_tower.")}
    assert recognise_layout(text) == "mlx-lm"


def test_a_decoder_without_gdn_is_told_by_its_names() -> None:
    assert recognise_layout({"model.language_model.norm.weight": (4,)}) == "transformers"
    assert recognise_layout({"language_model.model.norm.weight": (4,)}) == "mlx-lm"


@pytest.mark.parametrize("prefix", ["visual.", "model.language_model.visual.", "model.vision_tower."])
def test_a_tower_under_any_of_its_names_is_the_same(prefix: str) -> None:
    """And frequencies that config.json gives are not parameters."""
    weights, config = weights_of(DENSE)
    renamed = {
        prefix + name.removeprefix("model.visual.") if "visual" in name else name: v for name, v in weights.items()
    }
    for name in ("model.language_model.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.inv_freq"):
        renamed[name] = mx.ones(8)
    renamed[f"{prefix}rotary_pos_emb.inv_freq"] = mx.ones(8)
    assert equal(to_canonical(renamed, config), to_canonical(weights, config))


def test_mixed_layouts_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"conv1d.weight: expected one layout, found .* mixed"):
        recognise_layout({"a.conv1d.weight": (8, 1, 4), "b.conv1d.weight": (8, 4, 1)})


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_a_convolution_of_another_number_of_axes_stays_for_its_shape_to_be_refused(shape: tuple[int, ...]) -> None:
    weights, config = weights_of(DENSE)
    own = next(name for name in weights if name.endswith("conv1d.weight"))
    found = to_canonical(weights | {own: mx.zeros(shape)}, config)
    assert found[canonical_name(own)].shape == shape


def test_one_tensor_under_two_names_is_refused() -> None:
    weights, config = weights_of(DENSE)
    weights["language_model.model.norm.weight"] = weights["model.language_model.norm.weight"]
    with pytest.raises(CheckpointError, match=r"language_model.model.norm.weight: found twice"):
        to_canonical(weights, config)


def test_a_head_beside_tied_embeddings_is_left_out() -> None:
    weights, config = weights_of(DENSE)
    tied = to_canonical(weights | {"lm_head.scales": mx.ones(1)}, replace(config, tie_word_embeddings=True))
    without = {name: value for name, value in weights.items() if not name.startswith("lm_head.")}
    assert equal(tied, to_canonical(without, config))


def test_of_tied_matrices_a_copy_is_left_out_and_whichever_is_there_is_both() -> None:
    weights, config = weights_of(replace(DENSE, tied=True))
    embedding = weights["model.language_model.embed_tokens.weight"]
    expected = to_canonical(weights, config)
    assert equal(to_canonical(weights | {"lm_head.weight": mx.array(embedding)}, config), expected)
    del weights["model.language_model.embed_tokens.weight"]
    assert equal(to_canonical(weights | {"lm_head.weight": embedding}, config), expected)


@pytest.mark.some(1)
@pytest.mark.parametrize("exact", [False, True])
def test_a_head_of_its_own_counts_whatever_config_says(tmp_path: Path, exact: bool) -> None:
    """As in transformers, which unties them: somebody trained one of them alone, and left config.json as it was."""
    found = []
    for tied in (False, True):
        directory = write_checkpoint(tmp_path / str(tied), DENSE)
        config = config_of(DENSE) | {"tie_word_embeddings": tied}
        (directory / "config.json").write_text(json.dumps(config))
        for path in (directory, convert(directory, tmp_path / f"{tied}-out", bits=8)):
            assert json.loads((path / "config.json").read_text())["tie_word_embeddings"] is (tied and path == directory)
            with ModelKit.load(path, exact=exact) as kit:
                found.append(np.array(kit.logits(kit.process_prompt(SHORT_IDS))))
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[3])


def test_patches_of_a_tower_that_is_not_described_stay_as_they_are() -> None:
    weights, config = weights_of(DENSE)
    stored = weights["model.visual.patch_embed.proj.weight"]
    found = to_canonical(weights, replace(config, vision=None))["vision_tower.patch_embed.proj.weight"]
    assert mx.array_equal(found, stored).item()


@pytest.mark.parametrize("per_expert", [False, True])
def test_a_scale_of_packed_experts_is_both_projections(per_expert: bool) -> None:
    """One of all experts is that of each."""
    weights, config = weights_of(MOE)
    name = "model.language_model.layers.0.mlp.experts"
    scale = mx.arange(6).astype(mx.float32) if per_expert else mx.array(3.0)
    for projection in ("gate_up_proj", "down_proj"):
        weights[f"{name}.{projection}.weight"] = weights.pop(f"{name}.{projection}")
        weights[f"{name}.{projection}.global_scale"] = scale
    found = to_canonical(weights, config)
    for projection in ("gate_proj", "up_proj", "down_proj"):
        value = found[f"language_model.model.layers.0.mlp.switch_mlp.{projection}.global_scale"]
        assert mx.array_equal(value, mx.broadcast_to(scale, (6,))).item()


@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 3, 1)])
def test_tensors_of_another_shape_are_listed_whatever_differs(shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match="^what: 1 misshapen: a "):
        check_tensors({"a": (2, 3)}, {"a": shape}, what="what")


def test_experts_may_be_packed_or_single() -> None:
    """The same stacks from `gate_up_proj` and from one tensor per expert."""
    weights, config = weights_of(MOE)
    single = {name: value for name, value in weights.items() if ".mlp.experts." not in name}
    for name, value in weights.items():
        if ".mlp.experts." not in name:
            continue
        prefix, projection = name.rsplit(".", 1)
        for index in range(value.shape[0]):
            if projection == "down_proj":
                single[f"{prefix}.{index}.down_proj.weight"] = value[index]
            else:
                gate, up = mx.split(value[index], 2, axis=0)
                single[f"{prefix}.{index}.gate_proj.weight"], single[f"{prefix}.{index}.up_proj.weight"] = gate, up
    # In whatever order they come: names sorted as text have expert 10 before expert 2.
    for ordered in (single, dict(reversed(single.items()))):
        assert equal(to_canonical(ordered, config), to_canonical(weights, config))
    missing = next(name for name in single if ".experts.2." in name)
    del single[missing]
    with pytest.raises(CheckpointError, match=r"expected experts 0 to 5, found \[0, 1, 3, 4, 5\]"):
        to_canonical(single, config)


@pytest.mark.parametrize("cuda", [False, True])
def test_halves_of_packed_experts_are_copied_for_cuda_alone(monkeypatch: pytest.MonkeyPatch, cuda: bool) -> None:
    """Elsewhere they stay views of what was stored, and take no time and no memory."""
    weights, config = weights_of(MOE)
    plain = to_canonical(weights, config)
    monkeypatch.setattr(mx.cuda, "is_available", lambda: cuda)
    found = to_canonical(weights, config)
    assert equal(found, plain)
    for projection in ("gate_proj", "up_proj"):
        half = found[f"language_model.model.layers.0.mlp.switch_mlp.{projection}.weight"]
        assert memoryview(half).contiguous is cuda


def test_every_difference_is_listed() -> None:
    expected = {"a": (1,), "b": (2,), "c": (3, 3)}
    check_tensors(expected, dict(expected))
    with pytest.raises(
        CheckpointError, match=r"1 missing: a; 2 surplus: x, y; 1 misshapen: c \(expected \(3, 3\), found \(3,\)\)"
    ):
        check_tensors(expected, {"b": (2,), "c": (3,), "y": (1,), "x": (1,)})


@pytest.mark.parametrize("single", [False, True], ids=["packed", "single"])
def test_quantised_experts_are_unpacked_with_their_scales(single: bool) -> None:
    """In 8 bits and groups of 32: the stacks are those of experts that were quantised after unpacking."""
    weights, config = weights_of(MOE)
    plain = to_canonical(weights, config)
    for name in [name for name in weights if ".mlp.experts." in name]:
        parts = dict(zip(("weight", "scales", "biases"), mx.quantize(weights.pop(name), 32, 8), strict=True))
        prefix, projection = name.rsplit(".", 1)
        for kind, value in parts.items():
            if not single:
                weights[f"{name}.{kind}"] = value
                continue
            for index, expert in enumerate(value):
                halves = {"gate_proj": expert[:64], "up_proj": expert[64:]}
                named = halves if projection == "gate_up_proj" else {"down_proj": expert}
                weights |= {f"{prefix}.{index}.{half}.{kind}": part for half, part in named.items()}
    found = to_canonical(weights, config)
    for name in [name for name in plain if ".switch_mlp." in name]:
        parts = dict(zip(("weight", "scales", "biases"), mx.quantize(plain.pop(name), 32, 8), strict=True))
        plain |= {f"{name.removesuffix('weight')}{kind}": value for kind, value in parts.items()}
    assert any(name.endswith("switch_mlp.up_proj.scales") for name in found)
    assert equal(found, plain)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_patches_are_turned_by_their_shape(frames: int) -> None:
    """From (out, C, T, P, P) to (out, T, P, P, C), once; also where there are as many frames as colours."""
    raw = config_of(DENSE)
    raw["vision_config"] |= {"temporal_patch_size": frames}
    config, name = ModelConfig.from_dict(raw), "patch_embed.proj.weight"
    value = mx.arange(8 * 3 * frames * 16 * 16).reshape(8, 3, frames, 16, 16)
    turned = to_canonical({f"model.visual.{name}": value}, config)[f"vision_tower.{name}"]
    assert mx.array_equal(turned, value.transpose(0, 2, 3, 4, 1)).item()
    again = to_canonical({f"vision_tower.{name}": turned}, config)[f"vision_tower.{name}"]
    assert mx.array_equal(again, turned).item()
