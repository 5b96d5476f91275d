"""Adapters that peft wrote: transformers' logits with them, and refused where they are not what they say."""

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
from safetensors.numpy import save_file

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.peft import FILE, load_peft
from mlx_qwen35.conversion import convert
from mlx_qwen35.errors import AdapterError
from mlx_qwen35.patches.cpu import on_cpu
from mlx_qwen35.patches.qwen3_5 import Model
from tests.parity.cases import CASES, SHORT_IDS, TOLERANCE
from tests.tiny import DENSE, MOE, WIDE_HEADS, Shape, tensors_of

# tools/checkpoints/peft_adapters.py made them, with the logits of transformers and peft.
ADAPTERS = Path(__file__).parent / "peft"
SHAPES = {"embedding": WIDE_HEADS, "experts": MOE, "stacks": MOE}


def last_logits(model: Path, adapter: Path | None, name: str) -> np.ndarray:
    with ModelKit.load(model, adapter_path=adapter) as kit:
        case = CASES[name]
        return np.array(kit.logits(kit.process_prompt(case.input_ids, images=case.images)))[-4:]


@pytest.mark.some(2)
@pytest.mark.parametrize("name", sorted(path.name for path in ADAPTERS.iterdir()))
def test_logits_are_those_of_transformers_with_peft(checkpoint_dir: Callable[[Shape], Path], name: str) -> None:
    model = checkpoint_dir(SHAPES.get(name, DENSE))
    with np.load(ADAPTERS / name / "logits.npz") as expected:
        for case in ("text", "two images"):
            found = last_logits(model, ADAPTERS / name, case)
            assert np.abs(found - expected[case]).max() <= TOLERANCE * np.abs(expected[case]).max()
    assert np.abs(found - last_logits(model, None, case)).max() > 0.01


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Path]:
    """A copy of an adapter with other settings and tensors."""

    def edit(name: str, change: Callable[[dict[str, mx.array]], Any] = len, **settings: Any) -> Path:
        directory = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(ADAPTERS / name, directory)
        config = json.loads((directory / "adapter_config.json").read_text())
        (directory / "adapter_config.json").write_text(json.dumps(config | settings))
        tensors = dict(mx.load(str(directory / "adapter_model.safetensors")))
        mx.eval(tensors)
        change(tensors)
        mx.save_safetensors(str(directory / "adapter_model.safetensors"), tensors)
        return directory

    return edit


@pytest.mark.parametrize("name", ["plain", "dora", "embedding"])
def test_a_quantised_model_gets_the_same_update(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], name: str
) -> None:
    """Around layers that stay quantised; an embedding's plain weights, which came along, are not put in their place."""
    source = checkpoint_dir(SHAPES.get(name, DENSE))
    quantised = convert(source, tmp_path / "quantised", bits=8)
    models = [
        Model.from_checkpoint(Checkpoint.open(path), adapter_path=ADAPTERS / name) for path in (source, quantised)
    ]
    plain, found = (dict(model.named_modules()) for model in models)
    adapted = [path for path, module in plain.items() if "lora_a" in module]
    assert adapted
    for path in adapted:
        base = found[path]["embedding" if name == "embedding" else "linear"]
        assert "scales" in base
        for part in {"lora_a", "lora_b", "m"} & set(plain[path]):
            assert mx.array_equal(found[path][part], plain[path][part]).item()
        assert found[path].scale == plain[path].scale
    tokens = mx.array([SHORT_IDS])
    assert np.isfinite(np.array(models[1](tokens))).all()


DECODER, TOWER = "model.language_model", "model.visual"
# The checkpoint, and what peft saved whole (`modules_to_save`), in transformers' own layout.
WHOLE: dict[str, tuple[Shape, list[str]]] = {
    "a convolution": (DENSE, [f"{DECODER}.layers.0.linear_attn.conv1d.weight"]),
    "the tower's first layer": (DENSE, [f"{TOWER}.patch_embed.proj.weight", f"{TOWER}.patch_embed.proj.bias"]),
    "experts": (MOE, [f"{DECODER}.layers.3.mlp.experts.{stack}" for stack in ("gate_up_proj", "down_proj")]),
    "a head where it was the embedding": (WIDE_HEADS, ["lm_head.weight"]),
    "an embedding where it was the head": (WIDE_HEADS, [f"{DECODER}.embed_tokens.weight"]),
    "both of them": (WIDE_HEADS, ["lm_head.weight", f"{DECODER}.embed_tokens.weight"]),
}


@pytest.mark.some(4)
@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize(("shape", "names"), WHOLE.values(), ids=WHOLE)
def test_whole_weights_stand_in_place_of_the_checkpoint_s(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], shape: Shape, names: list[str], bits: int | None
) -> None:
    """As in a checkpoint that holds them; a head or an embedding alone leaves the other as it was, quantised or not."""
    stored = tensors_of(shape)
    embedding = stored[f"{DECODER}.embed_tokens.weight"]
    generator = np.random.default_rng(5)
    new = {name: generator.standard_normal(stored.get(name, embedding).shape).astype(np.float32) for name in names}
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps(SETTINGS | {"target_modules": []}))
    save_file({f"base_model.model.{name}": value for name, value in new.items()}, adapter / FILE)
    merged = shutil.copytree(checkpoint_dir(shape), tmp_path / "merged")
    save_file({**stored, **({"lm_head.weight": embedding} if shape.tied else {}), **new}, merged / "model.safetensors")
    source = checkpoint_dir(shape)
    if bits is not None:
        source, merged = (convert(path, tmp_path / f"{path.name}-8", bits=bits) for path in (source, merged))
    for case in ("text", "two images"):
        expected, found = last_logits(merged, None, case), last_logits(source, adapter, case)
        # The merged one quantises what the adapter has in full.
        assert np.abs(found - expected).max() <= (1e-5 if bits is None else 0.05) * np.abs(expected).max()
    assert np.abs(found - last_logits(source, None, case)).max() > 0.2 * np.abs(expected).max()


def test_whole_weights_have_the_model_s_precision(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    """And are what a checkpoint of that precision would hold, norms too: peft trains in float32, and loads them so."""
    names = [f"{DECODER}.layers.0.input_layernorm.weight", f"{DECODER}.layers.3.mlp.up_proj.weight"]
    stored = {name: mx.array(value).astype(mx.bfloat16) for name, value in tensors_of(DENSE).items()}
    generator = np.random.default_rng(5)
    new = {name: mx.array(generator.standard_normal(stored[name].shape).astype(np.float32)) for name in names}
    for name, tensors in (("base", stored), ("merged", stored | {n: v.astype(mx.bfloat16) for n, v in new.items()})):
        shutil.copytree(checkpoint_dir(DENSE), tmp_path / name)
        mx.save_safetensors(str(tmp_path / name / "model.safetensors"), tensors)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps(SETTINGS | {"target_modules": []}))
    mx.save_safetensors(str(adapter / FILE), {f"base_model.model.{name}": value for name, value in new.items()})
    model = Model.from_checkpoint(Checkpoint.open(tmp_path / "base"), adapter_path=adapter)
    assert {value.dtype for _, value in tree_flatten(model.parameters())} == {mx.bfloat16}
    expected, found = last_logits(tmp_path / "merged", None, "text"), last_logits(tmp_path / "base", adapter, "text")
    np.testing.assert_array_equal(found, expected)


def test_a_head_and_an_embedding_that_were_trained_as_one_stay_one(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    name = f"base_model.model.{DECODER}.embed_tokens.weight"
    weight = np.random.default_rng(5).standard_normal((352, 64)).astype(np.float32)
    settings = SETTINGS | {"target_modules": [], "ensure_weight_tying": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    save_file({name: weight, "base_model.model.lm_head.weight": weight.copy()}, tmp_path / FILE)
    model = loaded(checkpoint_dir, tmp_path, WIDE_HEADS)
    assert "lm_head" not in model.language_model
    assert mx.array_equal(model.language_model.model.embed_tokens.weight, mx.array(weight)).item()


def test_a_head_may_be_adapted_where_it_was_the_embedding(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    generator = np.random.default_rng(5)
    down, up = (generator.standard_normal(shape).astype(np.float32) for shape in ((4, 64), (352, 4)))
    (tmp_path / "adapter_config.json").write_text(json.dumps(SETTINGS | {"target_modules": ["lm_head"]}))
    names = (f"base_model.model.lm_head.{part}.weight" for part in ("lora_A", "lora_B"))
    save_file(dict(zip(names, (down, up), strict=True)), tmp_path / FILE)
    model, hidden = loaded(checkpoint_dir, tmp_path, WIDE_HEADS).language_model, mx.random.normal((1, 64))
    expected = model.model.embed_tokens.as_linear(hidden) + hidden @ mx.array(down).T @ mx.array(up).T
    assert mx.allclose(model.project(hidden), expected, rtol=1e-4, atol=1e-4).item()
    assert model.model.embed_tokens(mx.array([3])).shape == (1, 64)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda tensors: drop("layers.2.mlp.experts.lora_A")(tensors), {}, "halves of .*layers.2.mlp.experts"),
        (lambda tensors: [drop("2.mlp.experts.lora")(tensors) for _ in "ab"], {}, "no tensors for .*2.mlp.experts"),
        (len, {"r": 3, "rank_pattern": {"q_proj": 2}}, "expected updates of rank 3 for 6 experts, found"),
        (lambda tensors: [tensors.pop(name) for name in list(tensors) if "experts" in name], {}, "no tensors for"),
    ],
)  # fmt: skip
def test_updates_of_stacked_experts_that_do_not_fit_are_refused(
    checkpoint_dir: Callable[[Shape], Path],
    edited: Callable[..., Path],
    change: Callable[[dict[str, mx.array]], Any],
    settings: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(AdapterError, match=message):
        loaded(checkpoint_dir, edited("stacks", change, **settings), MOE)


def test_updates_of_stacked_experts_are_none_of_a_dense_model_s(checkpoint_dir: Callable[[Shape], Path]) -> None:
    with pytest.raises(AdapterError, match=r"experts.*: expected experts in this layer of the model, found none"):
        loaded(checkpoint_dir, ADAPTERS / "stacks")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type: expected 'LORA', found 'LOHA'"),
        ({"bias": "all"}, "bias: expected 'none' or None, found 'all'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights: expected the checkpoint's own weights"),
        ({"r": 0}, "r: expected a number above 0, found 0"),
        ({"lora_alpha": None}, "lora_alpha: expected a number above 0, found None"),
        ({"r": True, "lora_alpha": "4"}, "r: .*; lora_alpha: expected a number above 0, found '4'"),
        ({"r": 8}, r"v_proj: expected lora_A \(8, 64\) and lora_B \(64, 8\), found \(4, 64\) and \(64, 4\)"),
        ({"rank_pattern": {"v_proj": 2}}, r"v_proj: expected lora_A \(2, 64\)"),
        ({"target_modules": ["q_proj", "k_proj", "v_proj", "out_proj"]}, "no tensors for .*layers.3.self_attn.k_proj"),
        ({"use_dora": True}, "expected a magnitude where use_dora is set"),
    ],
)  # fmt: skip
def test_what_is_not_computed_is_refused(
    checkpoint_dir: Callable[[Shape], Path], edited: Callable[..., Path], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(AdapterError, match=message):
        ModelKit.load(checkpoint_dir(DENSE), adapter_path=edited("plain", **settings))


def test_the_first_pattern_that_fits_the_end_of_a_layer_s_name_counts(
    checkpoint_dir: Callable[[Shape], Path], edited: Callable[..., Path]
) -> None:
    """As peft's get_pattern_key: alternatives, expressions, whole parts of a name."""
    patterns = {"proj": 40, "k_proj|v_proj": 8, r"layers\.\d+\.self_attn\.q_proj": 12, "q_proj|v_proj": 20}
    adapter = edited("plain", lora_alpha=4, alpha_pattern=patterns)
    model = Model.from_checkpoint(Checkpoint.open(checkpoint_dir(DENSE)), adapter_path=adapter)
    scales = {path.rsplit(".", 1)[-1]: module.scale for path, module in model.named_modules() if "lora_a" in module}
    assert scales == {"q_proj": 3.0, "v_proj": 2.0, "out_proj": 1.0}


def drop(part: str) -> Callable[[dict[str, mx.array]], Any]:
    return lambda tensors: tensors.pop(next(name for name in tensors if part in name))


def add(name: str, *shape: int) -> Callable[[dict[str, mx.array]], Any]:
    return lambda tensors: tensors.update({f"base_model.model.{name}": mx.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("lora_B"), "halves of language_model.model.layers"),
        (lambda tensors: [drop("layers.3.self_attn.q_proj")(tensors) for _ in "ab"], "no tensors for .*attn.q_proj"),
        (add("model.language_model.layers.9.mlp.up_proj.lora_A.weight", 4, 64), "no such layers .*9.mlp.up_proj"),
        (add("model.language_model.norm.weight", 4), "expected plain weights of the same shape .*model.norm.weight"),
        (add("transformer.h.0.weight", 4), "tensor transformer.h.0.weight: expected a name"),
        (add("model.language_model.layers.0.mlp.up_proj.lora_diag", 4), "same shape for .*up_proj.lora_diag"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(
    checkpoint_dir: Callable[[Shape], Path],
    edited: Callable[..., Path],
    change: Callable[[dict[str, mx.array]], Any],
    message: str,
) -> None:
    with pytest.raises(AdapterError, match=message):
        ModelKit.load(checkpoint_dir(DENSE), adapter_path=edited("plain", change))


def loaded(checkpoint_dir: Callable[[Shape], Path], adapter: Path, shape: Shape = DENSE) -> Model:
    """A model with an adapter, whose weights are not read."""
    return Model.from_checkpoint(Checkpoint.open(checkpoint_dir(shape)), adapter_path=adapter)


# Each with a value that is not plain LoRA or DoRA, and those that are.
NOT_COMPUTED: list[tuple[str, Any, list[Any]]] = [
    ("peft_type", "LOHA", ["LORA"]), ("bias", "lora_only", ["none", None]), ("fan_in_fan_out", True, [False, None]),
    ("lora_bias", True, [False, None]), ("megatron_config", {}, [None]), ("layer_replication", [[0, 1]], [None, []]),
    ("trainable_token_indices", [5], [None, [], {}]),
    ("alora_invocation_tokens", [5], [None, []]), ("use_qalora", True, [False, None]), ("arrow_config", {}, [None]),
    ("use_bdlora", True, [False, None]), ("kasa_config", {}, [None]), ("monteclora_config", {}, [None]),
]  # fmt: skip
SETTINGS = {"peft_type": "LORA", "r": 4, "lora_alpha": 4}


@pytest.mark.parametrize(("name", "other", "plain"), NOT_COMPUTED, ids=[name for name, _, _ in NOT_COMPUTED])
def test_every_setting_that_changes_what_is_computed_is_looked_at(
    tmp_path: Path, name: str, other: Any, plain: list[Any]
) -> None:
    """Before the tensors are read, of which there are none here."""
    with pytest.raises(AdapterError, match=rf"adapter_config.json: {name}: expected .*, found "):
        load_peft(nn.Module(), tmp_path, SETTINGS | {name: other})
    for value in plain:
        with pytest.raises(RuntimeError, match=r"adapter_model\.safetensors"):
            load_peft(nn.Module(), tmp_path, SETTINGS | {name: value})


@pytest.mark.parametrize("name", ["pissa", "PiSSA_niter_4", "olora", "CorDA", "loftq", "lora_ga"])
def test_adapters_that_start_from_weights_of_their_own_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(AdapterError, match=f"init_lora_weights: expected the checkpoint's own .*, found '{name}'"):
        load_peft(nn.Module(), tmp_path, SETTINGS | {"init_lora_weights": name})
    for own in (True, False, None, "gaussian", "eva", "orthogonal"):
        with pytest.raises(RuntimeError, match=r"adapter_model\.safetensors"):
            load_peft(nn.Module(), tmp_path, SETTINGS | {"init_lora_weights": own})


@pytest.mark.parametrize("name", ["r", "lora_alpha"])
@pytest.mark.parametrize("value", [None, 0, -1, True, "4", float("inf")])
def test_ranks_and_scales_are_numbers_above_zero(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(AdapterError, match=f"{name}: expected a number above 0, found {value!r}"):
        load_peft(nn.Module(), tmp_path, SETTINGS | {name: value})


def test_the_name_that_an_adapter_had_in_its_program_says_nothing(
    checkpoint_dir: Callable[[Shape], Path], edited: Callable[..., Path]
) -> None:
    """peft leaves it out when it saves; others keep it."""

    def rename(tensors: dict[str, mx.array]) -> None:
        for name in list(tensors):
            tensors[name.replace(".weight", ".default.weight")] = tensors.pop(name)

    expected, found = (
        dict(tree_flatten(loaded(checkpoint_dir, path).parameters()))
        for path in (ADAPTERS / "plain", edited("plain", rename))
    )
    assert expected.keys() == found.keys()
    adapted = [name for name in expected if "lora_" in name]
    assert adapted
    assert all(mx.array_equal(expected[name], found[name]).item() for name in adapted)


@pytest.mark.parametrize(
    "settings",
    [
        {"exclude_modules": ["k_proj"]}, {"layers_to_transform": [0]}, {"layers_pattern": "layers"},
        {"target_modules": ["q_proj", "v_proj", "out_proj", "linear_fc1"]}, {"target_modules": "all-linear"},
    ],
    ids=str,
)  # fmt: skip
def test_what_settings_leave_out_in_other_words_is_not_missed(
    checkpoint_dir: Callable[[Shape], Path], edited: Callable[..., Path], settings: dict[str, Any]
) -> None:
    """Nor a tower's layers, for an adapter that was trained without one."""
    more = {"target_modules": ["q_proj", "v_proj", "out_proj", "k_proj"]} | settings
    model = loaded(checkpoint_dir, edited("plain", **more))
    assert sum("lora_a" in module for _, module in model.named_modules()) > 4


def test_magnitudes_without_dora_are_refused(
    checkpoint_dir: Callable[[Shape], Path], edited: Callable[..., Path]
) -> None:
    with pytest.raises(AdapterError, match=r"layers.*_proj: expected a magnitude where use_dora is set"):
        loaded(checkpoint_dir, edited("dora", use_dora=False))


def test_an_embedding_has_no_magnitude(checkpoint_dir: Callable[[Shape], Path], edited: Callable[..., Path]) -> None:
    name = "base_model.model.model.language_model.embed_tokens.lora_magnitude_vector"
    adapter = edited("embedding", lambda tensors: tensors.update({name: mx.ones(64)}), use_dora=True)
    with pytest.raises(AdapterError, match="embed_tokens: expected a magnitude where .*, in a linear layer, found"):
        loaded(checkpoint_dir, adapter, WIDE_HEADS)


@pytest.mark.parametrize("tied", [False, True])
def test_an_embedding_s_update_counts_in_the_head_only_if_they_are_tied_in_training(
    checkpoint_dir: Callable[[Shape], Path], edited: Callable[..., Path], tied: bool
) -> None:
    model = loaded(checkpoint_dir, edited("embedding", ensure_weight_tying=tied), WIDE_HEADS)
    embedding, hidden = model.language_model.model.embed_tokens, mx.ones((1, 64))
    plain = embedding.embedding.as_linear(hidden)
    assert mx.array_equal(embedding.as_linear(hidden), plain).item() is not tied
    assert not mx.array_equal(embedding(mx.array([3])), embedding.embedding(mx.array([3]))).item()


@pytest.mark.parametrize(("part", "size"), [("lora_A", (4, 63)), ("lora_B", (63, 4)), ("lora_B", (64, 3))])
def test_either_half_is_of_the_layer_s_size(
    checkpoint_dir: Callable[[Shape], Path], edited: Callable[..., Path], part: str, size: tuple[int, int]
) -> None:
    def change(tensors: dict[str, mx.array]) -> None:
        tensors[next(name for name in tensors if f"v_proj.{part}" in name)] = mx.zeros(size)

    with pytest.raises(AdapterError, match=r"v_proj: expected lora_A \(4, 64\) and lora_B \(64, 4\), found"):
        loaded(checkpoint_dir, edited("plain", change))


@pytest.mark.parametrize("shape", [(128,), (1, 128), (128, 1)])
def test_magnitudes_are_one_for_each_output_however_they_lie(
    checkpoint_dir: Callable[[Shape], Path], edited: Callable[..., Path], shape: tuple[int, ...]
) -> None:
    def turn(tensors: dict[str, mx.array]) -> None:
        for name in tensors:
            if "gate_proj.lora_magnitude" in name:
                tensors[name] = tensors[name].reshape(shape)

    model = loaded(checkpoint_dir, edited("dora", turn))
    assert model.language_model.model.layers[0].mlp.gate_proj.m.shape == (128,)


def test_whole_weights_in_place_of_quantised_ones_are_refused(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], edited: Callable[..., Path]
) -> None:
    """Even of the shape that the packed ones have."""
    directory = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "quantised")
    tensors = dict(mx.load(str(directory / "model.safetensors")))
    path = "model.language_model.layers.0.mlp.up_proj"
    packed, scales, biases = mx.quantize(tensors[f"{path}.weight"], 32, 8)
    tensors |= {f"{path}.weight": packed, f"{path}.scales": scales, f"{path}.biases": biases}
    mx.eval(tensors)
    mx.save_safetensors(str(directory / "model.safetensors"), tensors)
    adapter = edited("plain", add(f"{path}.weight", *packed.shape))
    with pytest.raises(AdapterError, match=r"expected plain weights of the same shape for .*layers.0.mlp.up_proj"):
        Model.from_checkpoint(Checkpoint.open(directory), adapter_path=adapter)


@pytest.mark.skipif(not on_cpu(), reason="needs MLX's CPU backend: elsewhere half precision stays")
def test_whole_norms_stay_where_a_half_precision_model_is_widened(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], edited: Callable[..., Path]
) -> None:
    directory = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "half")
    tensors = {name: value.astype(mx.bfloat16) for name, value in mx.load(str(directory / "model.safetensors")).items()}
    mx.save_safetensors(str(directory / "model.safetensors"), tensors, metadata={"format": "pt"})
    adapter = edited("plain", add("model.language_model.norm.weight", 64))
    with ModelKit.load(directory, adapter_path=adapter) as kit:
        assert mx.array_equal(kit.model.language_model.model.norm.weight, mx.ones(64)).item()


def test_pickled_adapters_are_refused(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    directory = shutil.copytree(ADAPTERS / "plain", tmp_path / "adapter")
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    with pytest.raises(AdapterError, match="found none .only adapter_model.bin; pickled weights are not read"):
        ModelKit.load(checkpoint_dir(DENSE), adapter_path=directory)
