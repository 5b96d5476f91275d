"""config.json: every fact is read, none is guessed."""

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from mlx_qwen35.checkpoints.config import ModelConfig, token_ids
from mlx_qwen35.errors import ConfigError
from tests.tiny import DENSE, IDS, MOE, YARN, Shape, config_of


def changed(shape: Shape, path: str, value: Any) -> dict[str, Any]:
    """The shape's config with one field set, or removed for None."""
    raw = copy.deepcopy(config_of(shape))
    *parents, last = path.split(".")
    section = raw
    for name in parents:
        section = section[name]
    if value is None:
        del section[last]
    else:
        section[last] = value
    return raw


def test_a_dense_config() -> None:
    config = ModelConfig.from_dict(config_of(DENSE))
    assert config.text.layer_types == DENSE.layer_types
    assert config.text.rope.rotary_dims == 16
    assert config.text.rope.mrope_section == (3, 3, 2)
    assert config.text.moe is None
    assert config.media_tokens is not None
    assert config.media_tokens.vision_start_token_id == IDS["<|vision_start|>"]
    assert config.eos_token_ids == {IDS["<|endoftext|>"]}
    assert config.text.context_length == 4096


# Every size under its own name, no two alike, whatever model they would make.
TEXT_SIZES = {
    "vocab_size": 1009, "hidden_size": 101, "num_attention_heads": 15, "num_key_value_heads": 5,
    "linear_num_key_heads": 7, "linear_num_value_heads": 14, "linear_key_head_dim": 11, "linear_value_head_dim": 13,
    "linear_conv_kernel_dim": 17, "max_position_embeddings": 2**30,
}  # fmt: skip
MOE_SIZES = {
    "num_experts": 23, "num_experts_per_tok": 19, "moe_intermediate_size": 29, "shared_expert_intermediate_size": 31,
}  # fmt: skip
VISION_SIZES = {
    "depth": 37, "intermediate_size": 41, "num_heads": 2, "hidden_size": 86, "in_channels": 47, "patch_size": 53,
    "temporal_patch_size": 59, "spatial_merge_size": 61, "out_hidden_size": 67, "num_position_embeddings": 71,
}  # fmt: skip
MEDIA_IDS = {"image_token_id": 0, "video_token_id": 6, "vision_start_token_id": 8, "vision_end_token_id": 1008}


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=lambda shape: shape.name)
def test_every_number_is_read_from_its_own_field(shape: Shape) -> None:
    raw = config_of(shape)
    del raw["text_config"]["layer_types"]
    inner = {"intermediate_size": 73} if shape is DENSE else MOE_SIZES
    raw["text_config"] |= TEXT_SIZES | inner | {"num_hidden_layers": 1024, "rms_norm_eps": 0.5, "attention_bias": True}
    raw["vision_config"] |= VISION_SIZES
    config = ModelConfig.from_dict(raw | MEDIA_IDS)
    text, moe, vision, media = config.text, config.text.moe, config.vision, config.media_tokens
    assert {name: getattr(text, name) for name in TEXT_SIZES} == TEXT_SIZES
    assert (len(text.layer_types), text.rms_norm_eps, text.attention_bias) == (1024, 0.5, True)
    assert text.intermediate_size == inner.get("intermediate_size")
    assert (None if moe is None else asdict(moe)) == (None if shape is DENSE else MOE_SIZES)
    assert vision is not None
    assert asdict(vision) == VISION_SIZES
    assert media is not None
    assert asdict(media) == MEDIA_IDS


def test_patches_may_be_written_as_lists() -> None:
    raw = config_of(DENSE)
    raw["vision_config"] |= {"patch_size": [16, 16], "temporal_patch_size": [2]}
    vision = ModelConfig.from_dict(raw).vision
    assert vision is not None
    assert (vision.patch_size, vision.temporal_patch_size) == (16, 2)


@pytest.mark.parametrize(
    ("value", "ids"),
    [(None, set()), (3, {3}), ([3, 0, 3], {0, 3}), (True, set()), ([False, "4", 5], {5}), ("6", set())],
)
def test_ids_are_whole_numbers(value: Any, ids: set[int]) -> None:
    assert token_ids(value) == ids


# Settings and values that mean nothing else than what is computed, and one that does.
SAME: list[tuple[str, list[Any], Any]] = [
    ("hidden_act", ["silu", "swish"], None), ("output_gate_type", ["swish", "silu"], None),
    ("attn_output_gate", [True], None), ("norm_topk_prob", [True], False), ("decoder_sparse_step", [1], 2),
    ("mlp_only_layers", [[], None], [1]), ("mlp_bias", [False, None], True), ("use_qk_norm", [True, None], False),
    ("use_sliding_window", [False, None], True), ("attn_logit_softcapping", [None], 50.0),
    ("final_logit_softcapping", [None], 30.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "same", "other"), SAME, ids=[name for name, _, _ in SAME])
def test_settings_of_neighbouring_families_are_read_where_they_mean_the_same(
    name: str, same: list[Any], other: Any
) -> None:
    raw = config_of(MOE)
    for value in same:
        raw["text_config"][name] = value
        assert ModelConfig.from_dict(raw).raw is raw
    raw["text_config"][name] = other
    with pytest.raises(ConfigError, match=rf"text_config\.{name}: only .* is supported, found"):
        ModelConfig.from_dict(raw)


@pytest.mark.parametrize(
    "rope", [{}, {"rope_theta": None}, {"rope_parameters": None}, {"rope_theta": 10000.0}], ids=str
)
def test_a_tower_s_angles_are_those_of_the_family(rope: dict[str, Any]) -> None:
    raw = config_of(DENSE)
    raw["vision_config"] |= {"deepstack_visual_indexes": None, "head_dim": None, **rope}
    assert ModelConfig.from_dict(raw).vision is not None


def test_a_flat_file_s_fields_are_named_without_a_section() -> None:
    raw = config_of(replace(DENSE, text_only=True)) | {"head_dim": 0}
    with pytest.raises(ConfigError, match=r"^config\.json: head_dim: expected 1 to"):
        ModelConfig.from_dict(raw)


def test_heads_of_values_are_told_only_where_those_of_keys_are_known() -> None:
    """A multiple of nothing is no number."""
    raw = changed(DENSE, "text_config.linear_num_key_heads", 0)
    raw["text_config"]["linear_num_value_heads"] = 3
    with pytest.raises(
        ConfigError, match=r"^config\.json: text_config\.linear_num_key_heads: expected 1 to \d+, found 0$"
    ):
        ModelConfig.from_dict(raw)


def test_a_moe_config() -> None:
    moe = ModelConfig.from_dict(config_of(MOE)).text.moe
    assert moe is not None
    assert (moe.num_experts, moe.num_experts_per_tok) == (6, 2)


@pytest.mark.parametrize(("positions", "context"), [(32, 128), (128, 128), (129, 129), (4096, 4096)])
def test_yarn_stretches_the_context(positions: int, context: int) -> None:
    """Four times 32, unless the config says more: some name the stretched number already."""
    raw = config_of(YARN)
    raw["text_config"]["max_position_embeddings"] = positions
    assert ModelConfig.from_dict(raw).text.context_length == context


@pytest.mark.parametrize(
    "field",
    [
        "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
        "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim",
        "linear_conv_kernel_dim", "num_hidden_layers",
    ],
)  # fmt: skip
def test_a_missing_size_is_an_error(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"text_config\.{field}"):
        ModelConfig.from_dict(changed(DENSE, f"text_config.{field}", None))


@pytest.mark.parametrize("field", ["num_experts", "num_experts_per_tok", "moe_intermediate_size"])
def test_a_missing_size_of_experts_is_an_error(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        ModelConfig.from_dict(changed(MOE, f"text_config.{field}", None))


@pytest.mark.parametrize("field", ["depth", "hidden_size", "num_heads", "patch_size", "num_position_embeddings"])
def test_a_missing_size_of_vision_is_an_error(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"vision_config\.{field}"):
        ModelConfig.from_dict(changed(DENSE, f"vision_config.{field}", None))


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=lambda shape: shape.name)
@pytest.mark.parametrize("value", [..., None], ids=["missing", "null"])
@pytest.mark.parametrize(
    "field",
    [
        "attention_bias", "full_attention_interval", "layer_types", "rms_norm_eps", "max_position_embeddings",
        "hidden_act", "tie_word_embeddings", "eos_token_id",
    ],
)  # fmt: skip
def test_other_fields_take_the_default_of_transformers(shape: Shape, field: str, value: Any) -> None:
    """Which is asked for it, and refuses a null that it takes to mean something else."""
    from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
    from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeTextConfig

    raw = config_of(replace(shape, text_only=True))
    raw.pop(field, None)
    defaults = {name: value for name, value in raw.items() if name != "architectures"}
    if field == "full_attention_interval":
        raw.pop("layer_types"), defaults.pop("layer_types")
    expected = (Qwen3_5MoeTextConfig if shape.moe else Qwen3_5TextConfig)(**defaults)
    if value is None and field != "hidden_act":
        raw[field] = None
    config = ModelConfig.from_dict(raw)
    assert config.text.layer_types == tuple(expected.layer_types)
    assert config.tie_word_embeddings == expected.tie_word_embeddings
    names = ("attention_bias", "rms_norm_eps", "max_position_embeddings")
    assert [getattr(config.text, name) for name in names] == [getattr(expected, name) for name in names]


@pytest.mark.parametrize("field", ["image_token_id", "vision_start_token_id", "vision_end_token_id"])
def test_token_ids_are_those_of_transformers_where_the_vocabulary_has_them(field: str) -> None:
    """They stand for nothing in a smaller one."""
    from transformers import Qwen3_5Config

    raw = changed(DENSE, field, None)
    with pytest.raises(ConfigError, match=rf"{field}: expected 0 to 351, found 2480\d\d"):
        ModelConfig.from_dict(raw)
    raw["text_config"]["vocab_size"] = 248320
    tokens = ModelConfig.from_dict(raw).media_tokens
    assert getattr(tokens, field) == getattr(Qwen3_5Config(), field)


@pytest.mark.parametrize(
    "settings",
    [
        {"vision_config": None}, {"vision_config": {}}, {"image_token_id": None}, {"vision_start_token_id": None},
        {"vision_end_token_id": None}, {"image_token_id": None, "video_token_id": None, "vision_config": {}},
    ],
)  # fmt: skip
def test_an_empty_tower_and_null_ids_are_no_vision(settings: dict[str, Any]) -> None:
    config = ModelConfig.from_dict(config_of(DENSE) | settings)
    assert (config.vision, config.media_tokens) == (None, None)


def test_a_null_video_id_is_no_video() -> None:
    config = ModelConfig.from_dict(config_of(DENSE) | {"video_token_id": None})
    assert config.vision is not None
    assert config.media_tokens is not None
    assert config.media_tokens.video_token_id is None


def test_all_problems_are_told_at_once() -> None:
    raw = changed(DENSE, "text_config.head_dim", None)
    del raw["vision_config"]["depth"]
    raw["tie_word_embeddings"] = "no"
    with pytest.raises(ConfigError, match=r"head_dim: .*found nothing.*depth: .*tie_word_embeddings"):
        ModelConfig.from_dict(raw)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model_type", "llama", r"model_type: expected one of qwen3_5, .*found 'llama'"),
        ("text_config.hidden_size", "64", r"hidden_size: expected an integer, found '64'"),
        ("text_config.hidden_act", "gelu", r"hidden_act: only 'silu' or 'swish' is supported, found 'gelu'"),
        ("text_config.output_gate_type", "sigmoid", r"output_gate_type: only 'swish' or 'silu' is .*'sigmoid'"),
        ("text_config.output_gate_type", "gelu", r"output_gate_type: only 'swish' or 'silu' is supported"),
        ("text_config.use_sliding_window", True, r"use_sliding_window: only False or None is supported, found True"),
        ("text_config.mlp_bias", True, r"mlp_bias: only False"),
        ("text_config.use_qk_norm", False, r"use_qk_norm: only True"),
        ("text_config.final_logit_softcapping", 30.0, r"final_logit_softcapping: only None"),
        ("text_config.rms_norm_eps", float("nan"), r"rms_norm_eps: expected a number above 0, .*found nan"),
        ("text_config.rms_norm_eps", 0, r"rms_norm_eps: expected a number above 0, at most 1, found 0"),
        ("text_config.attention_bias", "no", r"attention_bias: expected true or false, found 'no'"),
        ("text_config.attn_output_gate", False, r"attn_output_gate: only True"),
        ("text_config.linear_num_value_heads", 3, r"expected a multiple of linear_num_key_heads \(2\), found 3"),
        ("text_config.num_key_value_heads", 3, r"num_attention_heads: expected a multiple of .* \(3\), found 4"),
        ("vision_config.num_heads", 3, r"vision_config.hidden_size: expected a multiple of num_heads \(3\), found 32"),
        ("text_config.layer_types", ["full_attention"], r"layer_types: expected 4 entries"),
        ("text_config.layer_types", ["x"] * 4, r"layer_types: expected 4 entries of linear_attention or"),
        ("text_config.rope_parameters.rope_type", "dynamic", r"only 'default' and 'yarn' are supported"),
        ("text_config.rope_parameters.mrope_section", [3, 3, 3], r"mrope_section: .*sum to 8"),
        ("text_config.rope_parameters.mrope_interleaved", False, r"mrope_interleaved: only True"),
        ("text_config.rope_parameters.alpha", 2.0, r"rope_parameters\.alpha: expected one of .*an unknown setting"),
        ("text_config.rope_parameters.rope_theta", 1e-300, r"rope_theta: expected a number of at least 1e-12"),
        ("text_config.rope_parameters.rope_theta", float("nan"), r"rope_theta: expected a number above 0"),
        ("text_config.rope_parameters.partial_rotary_factor", 0.27, r"expected an even number of dim.*found 17 of 64"),
        ("text_config.rope_parameters", [1], r"rope_parameters: expected an object, found \[1\]"),
        ("vision_config.deepstack_visual_indexes", [1], r"deepstack_visual_indexes: only \[\] or None"),
        ("vision_config.rope_parameters", {"rope_theta": 5.0}, r"rope_theta: only None or 10000.0 is supported"),
        ("vision_config.head_dim", 8, r"vision_config\.head_dim: only None or 16 is supported, found 8"),
        ("vision_config", [1], r"vision_config: expected an object, found \[1\]"),
        ("text_config", 3, r"text_config: expected an object, found 3"),
        ("text_config.layer_types", ["full_attention"] * 5, r"layer_types: expected 4 entries"),
        ("text_config.layer_types", ["full_attention"] * 3 + ["x"], r"layer_types: expected 4 entries"),
        ("text_config.layer_types", "full", r"layer_types: expected 4 entries .*, found 'full'"),
        ("text_config.num_hidden_layers", 1025, r"num_hidden_layers: expected 1 to 1024, found 1025"),
        ("text_config.max_position_embeddings", 2**31, r"max_position_embeddings: expected 1 to 2147483647, found"),
        ("vision_config.depth", 1025, r"vision_config\.depth: expected 1 to 1024, found 1025"),
        ("vision_config.patch_size", 257, r"vision_config\.patch_size: expected 1 to 256, found 257"),
        ("vision_config.patch_size", [16, 14], r"vision_config\.patch_size: expected an integer, found \[16, 14\]"),
        ("vision_config.temporal_patch_size", 257, r"temporal_patch_size: expected 1 to 256, found 257"),
        ("vision_config.spatial_merge_size", 257, r"spatial_merge_size: expected 1 to 256, found 257"),
        ("vision_config.hidden_act", "silu", r"vision_config\.hidden_act: only 'gelu_pytorch_tanh' is supported"),
        ("vision_config.rope_theta", 5.0, r"vision_config\.rope_theta: only None or 10000.0 is supported, found 5.0"),
        ("image_token_id", 352, r"image_token_id: expected 0 to 351, found 352"),
        ("video_token_id", -1, r"video_token_id: expected 0 to 351, found -1"),
    ],
)
def test_what_would_change_answers_is_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(changed(DENSE, path, value))


def test_of_few_experts_not_more_are_chosen() -> None:
    with pytest.raises(ConfigError, match=r"num_experts_per_tok: expected at most num_experts \(6\), found 7"):
        ModelConfig.from_dict(changed(MOE, "text_config.num_experts_per_tok", 7))


def test_a_section_that_is_null_is_none() -> None:
    with pytest.raises(ConfigError, match="text_config: expected an object, found None"):
        ModelConfig.from_dict(config_of(DENSE) | {"text_config": None})


@pytest.mark.parametrize("name", ["swish", "silu"])
def test_both_names_of_the_output_gate_are_read(name: str) -> None:
    assert ModelConfig.from_dict(changed(DENSE, "text_config.output_gate_type", name)).text.layer_types


def test_the_interval_decides_only_without_layer_types() -> None:
    raw = changed(DENSE, "text_config.layer_types", None)
    raw["text_config"]["full_attention_interval"] = 2
    kinds = ("linear_attention", "full_attention")
    assert ModelConfig.from_dict(raw).text.layer_types == kinds * 2
    both = changed(DENSE, "text_config.full_attention_interval", 2)
    assert ModelConfig.from_dict(both).text.layer_types == DENSE.layer_types


@pytest.mark.parametrize("inner", [None, False, True])
@pytest.mark.parametrize("outer", [None, False, True])
def test_tied_embeddings_are_read_at_the_top_and_below_where_nothing_stands_there(
    outer: bool | None, inner: bool | None
) -> None:
    """Null is nothing, as is a field that is not there."""
    raw = config_of(DENSE) | {"tie_word_embeddings": outer}
    raw["text_config"] = raw["text_config"] | {"tie_word_embeddings": inner}
    expected = bool(inner if outer is None else outer)
    assert ModelConfig.from_dict(raw).tie_word_embeddings is expected
    for level in (raw, raw["text_config"]):
        if level["tie_word_embeddings"] is None:
            del level["tie_word_embeddings"]
    assert ModelConfig.from_dict(raw).tie_word_embeddings is expected


def test_eos_ids_of_every_level_count() -> None:
    raw = changed(DENSE, "eos_token_id", [3, 4])
    assert ModelConfig.from_dict(raw).eos_token_ids == {3, 4, IDS["<|endoftext|>"]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_a_byte_order_mark_is_read(tmp_path: Path, encoding: str) -> None:
    """Editors on Windows write one, and PowerShell writes UTF-16."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_of(DENSE) | {"name": "Zürich"}, ensure_ascii=False), encoding=encoding)
    assert ModelConfig.from_file(path).raw["name"] == "Zürich"


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "expected JSON"), ("[1]", "expected a JSON object, found list"), (None, "cannot be read")],
)
def test_unreadable_files_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_file(path)


def test_a_file_is_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match=str(path)):
        ModelConfig.from_file(path)


def test_only_yarn_stretches_the_context() -> None:
    raw = changed(DENSE, "text_config.rope_parameters.factor", 4.0)
    raw["text_config"]["rope_parameters"]["original_max_position_embeddings"] = 4096
    assert ModelConfig.from_dict(raw).text.context_length == 4096
