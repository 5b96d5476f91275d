"""config.json as frozen dataclasses.

A field that decides a shape or the arithmetic has no default here: a wrong guess
gives wrong answers without a sign. Every problem of a file is reported at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from mlx_qwen35.checkpoints.reading import read_json
from mlx_qwen35.errors import ConfigError
from mlx_qwen35.paths import shorten

LayerType = Literal["linear_attention", "full_attention"]

DENSE_TYPES = ("qwen3_5", "qwen3_5_text")
MOE_TYPES = ("qwen3_5_moe", "qwen3_5_moe_text")
MODEL_TYPES = DENSE_TYPES + MOE_TYPES

# Beyond what any model has: what is built from such numbers would take all memory before a tensor is missed.
MAX_SIZE = 2**24
MAX_LAYERS = 1024
MAX_PATCH = 256
MAX_POSITIONS = 2**31 - 1


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding of the attention layers.

    Args:
        rotary_dims: Leading dimensions of each head that rotate; even.
        mrope_section: Frequencies that follow (time, height, width); sums to rotary_dims / 2.
            None in a checkpoint without vision that does not name it.
        parameters: The `rope_parameters` of the checkpoint, for mlx-lm's own RoPE factory.
    """

    rotary_dims: int
    mrope_section: tuple[int, int, int] | None
    parameters: dict[str, Any]


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
        parameters = self.rope.parameters
        if parameters.get("rope_type", parameters.get("type")) != "yarn":
            return self.max_position_embeddings
        stretched = parameters["factor"] * parameters["original_max_position_embeddings"]
        return max(self.max_position_embeddings, int(stretched))


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
                f"{place}: model_type: expected one of {', '.join(MODEL_TYPES)}, found {_shown(model_type)}"
            )
        fields = _Fields(place)
        text_raw = raw.get("text_config", raw)
        if not isinstance(text_raw, dict):
            raise ConfigError(f"{place}: text_config: expected an object, found {_shown(text_raw)}")
        text = _text(fields, text_raw, "text_config." if "text_config" in raw else "", model_type)
        vision, media_tokens = None, None
        if isinstance(raw.get("vision_config"), dict):
            vision = _vision(fields, raw["vision_config"])
            media_tokens = MediaTokens(
                image_token_id=fields.token(raw, "image_token_id"),
                video_token_id=None if raw.get("video_token_id") is None else fields.token(raw, "video_token_id"),
                vision_start_token_id=fields.token(raw, "vision_start_token_id"),
                vision_end_token_id=fields.token(raw, "vision_end_token_id"),
            )
            if text.rope.mrope_section is None:
                fields.problem("text_config.rope_parameters.mrope_section: missing, needed for vision")
        # Both levels exist in the wild; the top one is what transformers obeys.
        tie_source = raw if "tie_word_embeddings" in raw else text_raw
        tied = fields.boolean(tie_source, "", "tie_word_embeddings")
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
    if isinstance(value, int):
        return frozenset({value})
    if isinstance(value, list):
        return frozenset(item for item in value if isinstance(item, int))
    return frozenset()


class _Fields:
    """Reads typed fields and collects what is wrong with them."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.problems: list[str] = []

    def problem(self, text: str) -> None:
        self.problems.append(text)

    def raise_if_any(self) -> None:
        if self.problems:
            raise ConfigError(f"{self.place}: " + "; ".join(self.problems))

    def integer(self, source: dict[str, Any], prefix: str, name: str, *, least: int = 1, most: int = MAX_SIZE) -> int:
        value = source.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            if least <= value <= most:
                return value
            self._bad(prefix + name, f"{least} to {most}", value)
        else:
            self._bad(prefix + name, "an integer", value)
        return max(least, 1)

    def token(self, source: dict[str, Any], name: str) -> int:
        return self.integer(source, "", name, least=0)

    def size(self, source: dict[str, Any], prefix: str, name: str) -> int:
        """A size that may also be written as a list of equal numbers, as patch sizes are."""
        value = source.get(name)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            source = {name: value[0]}
        return self.integer(source, prefix, name, most=MAX_PATCH)

    def number(self, source: dict[str, Any], prefix: str, name: str, *, most: float = 1e12) -> float:
        value = source.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if 0 < value <= most:
                return float(value)
            self._bad(prefix + name, f"a number above 0, at most {most:g}", value)
        else:
            self._bad(prefix + name, "a number", value)
        return 1.0

    def boolean(self, source: dict[str, Any], prefix: str, name: str) -> bool:
        value = source.get(name)
        if isinstance(value, bool):
            return value
        self._bad(prefix + name, "true or false", value)
        return False

    def only(self, source: dict[str, Any], prefix: str, name: str, allowed: tuple[object, ...]) -> None:
        """Refuse a setting that would change the arithmetic if it were ignored."""
        if name in source and source[name] not in allowed:
            expected = " or ".join(repr(item) for item in allowed)
            self.problem(f"{prefix}{name}: only {expected} is supported, found {_shown(source[name])}")

    def _bad(self, name: str, expected: str, value: object) -> None:
        found = "nothing" if value is None else _shown(value)
        self.problem(f"{name}: expected {expected}, found {found}")


def _shown(value: object) -> str:
    return shorten(repr(value))


def _text(fields: _Fields, raw: dict[str, Any], prefix: str, model_type: str) -> TextConfig:
    fields.only(raw, prefix, "hidden_act", ("silu",))
    fields.only(raw, prefix, "attn_output_gate", (True,))
    fields.only(raw, prefix, "norm_topk_prob", (True,))
    fields.only(raw, prefix, "decoder_sparse_step", (1,))
    fields.only(raw, prefix, "mlp_only_layers", ([], None))
    moe = None
    if model_type in MOE_TYPES:
        moe = MoeConfig(
            num_experts=fields.integer(raw, prefix, "num_experts"),
            num_experts_per_tok=fields.integer(raw, prefix, "num_experts_per_tok"),
            moe_intermediate_size=fields.integer(raw, prefix, "moe_intermediate_size"),
            shared_expert_intermediate_size=fields.integer(raw, prefix, "shared_expert_intermediate_size"),
        )
    head_dim = fields.integer(raw, prefix, "head_dim")
    value_heads = fields.integer(raw, prefix, "linear_num_value_heads")
    key_heads = fields.integer(raw, prefix, "linear_num_key_heads")
    if key_heads and value_heads % key_heads:
        fields.problem(
            f"{prefix}linear_num_value_heads: expected a multiple of linear_num_key_heads "
            f"({key_heads}), found {value_heads}"
        )
    return TextConfig(
        vocab_size=fields.integer(raw, prefix, "vocab_size"),
        hidden_size=fields.integer(raw, prefix, "hidden_size"),
        intermediate_size=None if moe else fields.integer(raw, prefix, "intermediate_size"),
        num_attention_heads=fields.integer(raw, prefix, "num_attention_heads"),
        num_key_value_heads=fields.integer(raw, prefix, "num_key_value_heads"),
        head_dim=head_dim,
        attention_bias=fields.boolean(raw, prefix, "attention_bias"),
        linear_num_key_heads=key_heads,
        linear_num_value_heads=value_heads,
        linear_key_head_dim=fields.integer(raw, prefix, "linear_key_head_dim"),
        linear_value_head_dim=fields.integer(raw, prefix, "linear_value_head_dim"),
        linear_conv_kernel_dim=fields.integer(raw, prefix, "linear_conv_kernel_dim"),
        rms_norm_eps=fields.number(raw, prefix, "rms_norm_eps", most=1.0),
        max_position_embeddings=fields.integer(raw, prefix, "max_position_embeddings", most=MAX_POSITIONS),
        layer_types=_layer_types(fields, raw, prefix),
        rope=_rope(fields, raw, prefix, head_dim),
        moe=moe,
    )


def _layer_types(fields: _Fields, raw: dict[str, Any], prefix: str) -> tuple[LayerType, ...]:
    """The kind of each layer: `layer_types` decides; older files give only the interval."""
    layers = fields.integer(raw, prefix, "num_hidden_layers", most=MAX_LAYERS)
    kinds: tuple[LayerType, ...] = ("linear_attention", "full_attention")
    found = raw.get("layer_types")
    if found is None:
        interval = max(fields.integer(raw, prefix, "full_attention_interval"), 1)
        return tuple(kinds[(index + 1) % interval == 0] for index in range(layers))
    if not isinstance(found, list) or len(found) != layers or not all(kind in kinds for kind in found):
        fields.problem(f"{prefix}layer_types: expected {layers} entries of {' or '.join(kinds)}, found {_shown(found)}")
        return ()
    return tuple(found)


def _rope(fields: _Fields, raw: dict[str, Any], prefix: str, head_dim: int) -> RopeConfig:
    parameters = raw.get("rope_parameters")
    if not isinstance(parameters, dict):
        fields.problem(f"{prefix}rope_parameters: expected an object, found {_shown(parameters)}")
        return RopeConfig(2, None, {})
    prefix = f"{prefix}rope_parameters."
    # transformers writes the factor beside rope_parameters in some versions.
    parameters = {"partial_rotary_factor": raw.get("partial_rotary_factor"), **parameters}
    rope_type = parameters.get("rope_type", parameters.get("type"))
    if rope_type not in ("default", "yarn"):
        fields.problem(f"{prefix}rope_type: only 'default' and 'yarn' are supported, found {_shown(rope_type)}")
    elif rope_type == "yarn":
        _check_yarn(fields, parameters, prefix)
    fields.only(parameters, prefix, "mrope_interleaved", (True,))
    fields.number(parameters, prefix, "rope_theta")
    rotary_dims = int(head_dim * fields.number(parameters, prefix, "partial_rotary_factor", most=1.0))
    section = parameters.get("mrope_section")
    if section is not None and (not _is_section(section) or 2 * sum(section) != rotary_dims):
        fields.problem(
            f"{prefix}mrope_section: expected three numbers that sum to {rotary_dims // 2} "
            f"(head_dim x partial_rotary_factor / 2), found {_shown(section)}"
        )
        section = None
    return RopeConfig(
        rotary_dims=rotary_dims,
        mrope_section=tuple(section) if section is not None else None,
        parameters=parameters,
    )


def _is_section(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(part, int) and not isinstance(part, bool) and part >= 0 for part in value)
    )


def _check_yarn(fields: _Fields, parameters: dict[str, Any], prefix: str) -> None:
    """Refuse the YaRN settings in which mlx-lm and transformers disagree."""
    fields.number(parameters, prefix, "factor")
    fields.integer(parameters, prefix, "original_max_position_embeddings", most=MAX_POSITIONS)
    for name in ("attention_factor", "mscale", "mscale_all_dim"):
        fields.only(parameters, prefix, name, (None,))
    fields.only(parameters, prefix, "truncate", (True,))


def _vision(fields: _Fields, raw: dict[str, Any]) -> VisionConfig:
    prefix = "vision_config."
    fields.only(raw, prefix, "deepstack_visual_indexes", ([], None))
    fields.only(raw, prefix, "hidden_act", ("gelu_pytorch_tanh",))
    return VisionConfig(
        depth=fields.integer(raw, prefix, "depth", most=MAX_LAYERS),
        hidden_size=fields.integer(raw, prefix, "hidden_size"),
        intermediate_size=fields.integer(raw, prefix, "intermediate_size"),
        num_heads=fields.integer(raw, prefix, "num_heads"),
        in_channels=fields.integer(raw, prefix, "in_channels"),
        patch_size=fields.size(raw, prefix, "patch_size"),
        temporal_patch_size=fields.size(raw, prefix, "temporal_patch_size"),
        spatial_merge_size=fields.integer(raw, prefix, "spatial_merge_size", most=MAX_PATCH),
        out_hidden_size=fields.integer(raw, prefix, "out_hidden_size"),
        num_position_embeddings=fields.integer(raw, prefix, "num_position_embeddings"),
    )
