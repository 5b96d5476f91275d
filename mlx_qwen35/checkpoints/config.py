"""config.json as frozen dataclasses.

What transformers' config classes have a default for has that default here, except sizes: a wrong guess of one of
those gives wrong answers without a sign, or none at all. Every problem of a file is reported at once.

Defaults: transformers 5.24, models/qwen3_5/configuration_qwen3_5.py and qwen3_5_moe likewise.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from mlx_qwen35.checkpoints.fields import Fields, shown
from mlx_qwen35.checkpoints.reading import read_json
from mlx_qwen35.checkpoints.rope import MAX_POSITIONS, RopeConfig, read_rope
from mlx_qwen35.errors import ConfigError

LayerType = Literal["linear_attention", "full_attention"]

DENSE_TYPES = ("qwen3_5", "qwen3_5_text")
MOE_TYPES = ("qwen3_5_moe", "qwen3_5_moe_text")
MODEL_TYPES = DENSE_TYPES + MOE_TYPES

# Beyond what any model has, as `MAX_SIZE`.
MAX_LAYERS = 1024
MAX_PATCH = 256

_FULL_ATTENTION_INTERVAL = 4
_RMS_NORM_EPS = 1e-6
_MAX_POSITION_EMBEDDINGS = 32768
MEDIA_TOKENS = {
    "image_token_id": 248056, "video_token_id": 248057, "vision_start_token_id": 248053, "vision_end_token_id": 248054,
}  # fmt: skip
_VISION_IDS = ("image_token_id", "vision_start_token_id", "vision_end_token_id")
_VISION_THETA = 10_000.0

# Settings of this and neighbouring families with the values that mean what Qwen3.5 computes; others would be ignored.
_TEXT_ARITHMETIC: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu", "swish"),
    "output_gate_type": ("swish", "silu"),
    "attn_output_gate": (True,),
    "norm_topk_prob": (True,),
    "decoder_sparse_step": (1,),
    "mlp_only_layers": ([], None),
    "mlp_bias": (False, None),
    "use_qk_norm": (True, None),
    "use_sliding_window": (False, None),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
}


@dataclass(frozen=True)
class MoeConfig:
    """Routed experts of one layer, all layers alike; sizes in features."""

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    shared_expert_intermediate_size: int


@dataclass(frozen=True)
class TextConfig:
    """The decoder. Field names are the checkpoint's; sizes in features, positions in tokens."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int | None
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    attention_bias: bool
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    layer_types: tuple[LayerType, ...]
    rope: RopeConfig
    moe: MoeConfig | None

    @property
    def context_length(self) -> int:
        """Tokens that a sequence may have; YaRN stretches what the model was trained on."""
        yarn = self.rope.yarn
        if yarn is None:
            return self.max_position_embeddings
        return max(self.max_position_embeddings, int(yarn.factor * yarn.original_max_position_embeddings))


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower; sizes in features, pixels (patches) or frames (temporal_patch_size)."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    in_channels: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    out_hidden_size: int
    num_position_embeddings: int


@dataclass(frozen=True)
class MediaTokens:
    """Ids that stand for media in a prompt, as the checkpoint names them."""

    image_token_id: int
    video_token_id: int | None
    vision_start_token_id: int
    vision_end_token_id: int


@dataclass(frozen=True)
class ModelConfig:
    """One checkpoint's config.json.

    Args:
        vision, media_tokens: None for a text-only checkpoint.
        eos_token_ids: Every id that any part of config.json calls the end of a sequence.
        raw: The dict it was read from, unchanged.
    """

    model_type: str
    text: TextConfig
    vision: VisionConfig | None
    media_tokens: MediaTokens | None
    tie_word_embeddings: bool
    eos_token_ids: frozenset[int]
    raw: dict[str, Any]

    @classmethod
    def from_file(cls, path: Path) -> "ModelConfig":
        """Read `config.json`.

        Raises:
            ConfigError: The file is missing or is not JSON, or see `from_dict`.
        """
        return cls.from_dict(read_json(path), place=str(path))

    @classmethod
    def from_dict(cls, raw: dict[str, Any], place: str = "config.json") -> "ModelConfig":
        """Validate a parsed `config.json`.

        Raises:
            ConfigError: Fields are missing or have the wrong type, or the checkpoint asks for
                something that would change the answers if it were ignored. Lists all of them.
        """
        model_type = raw.get("model_type")
        if model_type not in MODEL_TYPES:
            raise ConfigError(
                f"{place}: model_type: expected one of {', '.join(MODEL_TYPES)}, found {shown(model_type)}"
            )
        fields = Fields(place)
        text_raw = raw.get("text_config", raw)
        if not isinstance(text_raw, dict):
            raise ConfigError(f"{place}: text_config: expected an object, found {shown(text_raw)}")
        text = _text(fields, text_raw, "text_config." if "text_config" in raw else "", model_type)
        vision, media_tokens = None, None
        if _has_vision(raw):
            vision = _vision(fields, raw["vision_config"])
            media_tokens = _media_tokens(fields, raw, text.vocab_size)
        # Both levels exist in the wild; the top one is what transformers obeys.
        tie_source = raw if raw.get("tie_word_embeddings") is not None else text_raw
        tied = fields.boolean(tie_source, "", "tie_word_embeddings", default=False)
        fields.raise_if_any()
        return cls(
            model_type=cast(str, model_type),
            text=text,
            vision=vision,
            media_tokens=media_tokens,
            tie_word_embeddings=tied,
            eos_token_ids=token_ids(raw.get("eos_token_id")) | token_ids(text_raw.get("eos_token_id")),
            raw=raw,
        )


def token_ids(value: object) -> frozenset[int]:
    """The ids in a field that holds None, one id or a list of ids."""
    items = value if isinstance(value, list) else [value]
    return frozenset(item for item in items if isinstance(item, int) and not isinstance(item, bool))


def _text(fields: Fields, raw: dict[str, Any], prefix: str, model_type: str) -> TextConfig:
    for name, allowed in _TEXT_ARITHMETIC.items():
        fields.only(raw, prefix, name, allowed)
    moe = None
    if model_type in MOE_TYPES:
        moe = MoeConfig(
            num_experts=fields.integer(raw, prefix, "num_experts"),
            num_experts_per_tok=fields.integer(raw, prefix, "num_experts_per_tok"),
            moe_intermediate_size=fields.integer(raw, prefix, "moe_intermediate_size"),
            shared_expert_intermediate_size=fields.integer(raw, prefix, "shared_expert_intermediate_size"),
        )
        if moe.num_experts_per_tok > moe.num_experts:
            fields.problem(
                f"{prefix}num_experts_per_tok: expected at most num_experts ({moe.num_experts}), "
                f"found {moe.num_experts_per_tok}"
            )
    head_dim = fields.integer(raw, prefix, "head_dim")
    positions = fields.integer(
        raw, prefix, "max_position_embeddings", default=_MAX_POSITION_EMBEDDINGS, most=MAX_POSITIONS
    )
    value_heads = fields.integer(raw, prefix, "linear_num_value_heads")
    key_heads = fields.integer(raw, prefix, "linear_num_key_heads")
    _multiple(fields, f"{prefix}linear_num_value_heads", value_heads, "linear_num_key_heads", key_heads)
    heads, kv_heads = (fields.integer(raw, prefix, f"num_{kind}_heads") for kind in ("attention", "key_value"))
    _multiple(fields, f"{prefix}num_attention_heads", heads, "num_key_value_heads", kv_heads)
    return TextConfig(
        vocab_size=fields.integer(raw, prefix, "vocab_size"),
        hidden_size=fields.integer(raw, prefix, "hidden_size"),
        intermediate_size=None if moe else fields.integer(raw, prefix, "intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        attention_bias=fields.boolean(raw, prefix, "attention_bias", default=False),
        linear_num_key_heads=key_heads,
        linear_num_value_heads=value_heads,
        linear_key_head_dim=fields.integer(raw, prefix, "linear_key_head_dim"),
        linear_value_head_dim=fields.integer(raw, prefix, "linear_value_head_dim"),
        linear_conv_kernel_dim=fields.integer(raw, prefix, "linear_conv_kernel_dim"),
        rms_norm_eps=fields.number(raw, prefix, "rms_norm_eps", default=_RMS_NORM_EPS, most=1.0),
        max_position_embeddings=positions,
        layer_types=_layer_types(fields, raw, prefix),
        rope=read_rope(fields, raw, prefix, head_dim, positions),
        moe=moe,
    )


def _multiple(fields: Fields, name: str, value: int, of: str, unit: int) -> None:
    """What the tensors' shapes do not tell: they have only the product of heads and their size."""
    if value % unit:
        fields.problem(f"{name}: expected a multiple of {of} ({unit}), found {value}")


def _layer_types(fields: Fields, raw: dict[str, Any], prefix: str) -> tuple[LayerType, ...]:
    """The kind of each layer: `layer_types` decides; older files give only the interval."""
    layers = fields.integer(raw, prefix, "num_hidden_layers", most=MAX_LAYERS)
    kinds: tuple[LayerType, ...] = ("linear_attention", "full_attention")
    found = raw.get("layer_types")
    if found is None:
        interval = fields.integer(raw, prefix, "full_attention_interval", default=_FULL_ATTENTION_INTERVAL)
        return tuple(kinds[(index + 1) % interval == 0] for index in range(layers))
    if not isinstance(found, list) or len(found) != layers or not all(kind in kinds for kind in found):
        fields.problem(f"{prefix}layer_types: expected {layers} entries of {' or '.join(kinds)}, found {shown(found)}")
        return ()
    return tuple(found)


def _has_vision(raw: dict[str, Any]) -> bool:
    """Whether a tower is described, and no id of its tokens is null: text-only conversions write that, or `{}`."""
    return bool(raw.get("vision_config")) and not any(name in raw and raw[name] is None for name in _VISION_IDS)


def _media_tokens(fields: Fields, raw: dict[str, Any], vocab_size: int) -> MediaTokens:
    # Below the vocabulary's size, as none of the defaults is for a model with a smaller one.
    ids = {
        name: fields.integer(raw, "", name, default=default, least=0, most=vocab_size - 1)
        for name, default in MEDIA_TOKENS.items()
        if name in _VISION_IDS or raw.get(name) is not None
    }
    return MediaTokens(
        image_token_id=ids["image_token_id"],
        video_token_id=ids.get("video_token_id"),
        vision_start_token_id=ids["vision_start_token_id"],
        vision_end_token_id=ids["vision_end_token_id"],
    )


def _vision(fields: Fields, raw: Any) -> VisionConfig:
    prefix = "vision_config."
    if not isinstance(raw, dict):
        fields.problem(f"vision_config: expected an object, found {shown(raw)}")
        raw = {}
    fields.only(raw, prefix, "deepstack_visual_indexes", ([], None))
    fields.only(raw, prefix, "hidden_act", ("gelu_pytorch_tanh",))
    hidden_size = fields.integer(raw, prefix, "hidden_size")
    num_heads = fields.integer(raw, prefix, "num_heads")
    _multiple(fields, f"{prefix}hidden_size", hidden_size, "num_heads", num_heads)
    fields.only(raw, prefix, "head_dim", (None, hidden_size // num_heads))
    fields.only(raw, prefix, "rope_theta", (None, _VISION_THETA))
    if isinstance(raw.get("rope_parameters"), dict):
        fields.only(raw["rope_parameters"], f"{prefix}rope_parameters.", "rope_theta", (None, _VISION_THETA))
    return VisionConfig(
        depth=fields.integer(raw, prefix, "depth", most=MAX_LAYERS),
        hidden_size=hidden_size,
        intermediate_size=fields.integer(raw, prefix, "intermediate_size"),
        num_heads=num_heads,
        in_channels=fields.integer(raw, prefix, "in_channels"),
        patch_size=fields.size(raw, prefix, "patch_size", most=MAX_PATCH),
        temporal_patch_size=fields.size(raw, prefix, "temporal_patch_size", most=MAX_PATCH),
        spatial_merge_size=fields.integer(raw, prefix, "spatial_merge_size", most=MAX_PATCH),
        out_hidden_size=fields.integer(raw, prefix, "out_hidden_size"),
        num_position_embeddings=fields.integer(raw, prefix, "num_position_embeddings"),
    )
