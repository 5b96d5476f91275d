"""Rotary position embedding as a checkpoint asks for it, in any of the forms that transformers reads."""

import math
from dataclasses import dataclass
from typing import Any

from mlx_qwen35.checkpoints.fields import Fields, shown

MAX_POSITIONS = 2**31 - 1

# transformers 5.24: Qwen3_5TextConfig.__post_init__, RotaryEmbeddingConfigMixin.default_theta and
# Qwen3_5TextRotaryEmbedding.
_THETA = 10_000.0
_PARTIAL_ROTARY_FACTOR = 0.25
_MROPE_SECTION = [11, 11, 10]

_YARN_SETTINGS = (
    "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
    "mscale_all_dim", "truncate",
)  # fmt: skip
# Everything that transformers knows; the last line belongs to types that are refused here, and may be left over.
_KNOWN = (
    "rope_type", "type", "rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved", *_YARN_SETTINGS,
    "low_freq_factor", "high_freq_factor", "short_factor", "long_factor",
)  # fmt: skip


@dataclass(frozen=True)
class YarnConfig:
    """YaRN's stretching of the context.

    Args:
        factor: How many times as long it becomes.
        original_max_position_embeddings: Positions that the model was trained on.
        attention_factor: Queries and keys are multiplied by it as they are rotated.
        beta_fast, beta_slow: Rotations over the original context above and below which a frequency is kept, or
            divided by the factor.
        truncate: Whether the bounds between the two are whole numbers.
    """

    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    beta_fast: float
    beta_slow: float
    truncate: bool


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding of the attention layers.

    Args:
        rotary_dims: Leading dimensions of each head that rotate; even.
        theta: Base of the frequencies.
        partial_rotary_factor: What part of a head `rotary_dims` is.
        mrope_section: Frequencies that follow (time, height, width).
        yarn: None without.
    """

    rotary_dims: int
    theta: float
    partial_rotary_factor: float
    mrope_section: tuple[int, int, int]
    yarn: YarnConfig | None


def read_rope(fields: Fields, raw: dict[str, Any], prefix: str, head_dim: int, positions: int) -> RopeConfig:
    """The rotary embedding that a text config describes.

    Args:
        raw: With `rope_parameters`, or `rope_scaling` and `rope_theta` as before transformers 5, or neither.
        positions: `max_position_embeddings`.
    Source:
        transformers 5.24, modeling_rope_utils.py, RotaryEmbeddingConfigMixin.convert_rope_params_to_dict.
    """
    name, parameters = _parameters(fields, raw, prefix)
    place = f"{prefix}{name}."
    unknown = sorted(parameters.keys() - set(_KNOWN))
    if unknown:
        fields.problem(f"{place}{unknown[0]}: expected one of {', '.join(_KNOWN)}, found an unknown setting")
    rope_type = parameters.get("rope_type", parameters.get("type", "default"))
    # Qwen2-VL's name for the default with three axes, which mlx-lm reads.
    if rope_type not in ("default", "mrope", "yarn"):
        fields.problem(f"{place}rope_type: only 'default' and 'yarn' are supported, found {shown(rope_type)}")
    fields.only(parameters, place, "mrope_interleaved", (True, None))
    theta = fields.number(parameters, place, "rope_theta")
    part = fields.number(parameters, place, "partial_rotary_factor", most=1.0)
    rotary_dims = int(head_dim * part)
    if rotary_dims < 2 or rotary_dims % 2:
        fields.problem(
            f"{place}partial_rotary_factor: expected an even number of dimensions, found {rotary_dims} of {head_dim}"
        )
    return RopeConfig(
        rotary_dims=rotary_dims,
        theta=theta,
        partial_rotary_factor=part,
        mrope_section=_section(fields, parameters, place, rotary_dims),
        yarn=_yarn(fields, raw, parameters, place, positions) if rope_type == "yarn" else None,
    )


def _parameters(fields: Fields, raw: dict[str, Any], prefix: str) -> tuple[str, dict[str, Any]]:
    """The settings, with transformers' defaults, and the name under which they stand."""
    name = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    found = raw.get(name)
    if found is not None and not isinstance(found, dict):
        fields.problem(f"{prefix}{name}: expected an object, found {shown(found)}")
        found = None
    parameters: dict[str, Any] = {
        "rope_theta": _first(raw.get("rope_theta"), _THETA),
        "partial_rotary_factor": _first(raw.get("partial_rotary_factor"), _PARTIAL_ROTARY_FACTOR),
        **{key: value for key, value in (found or {}).items() if value is not None or key == "factor"},
    }
    other = raw.get("rope_parameters")
    if name == "rope_scaling" and isinstance(other, dict):
        # transformers leaves everything in `rope_parameters` out then. Whoever wrote both hardly meant that.
        for key in ("rope_theta", "partial_rotary_factor", "mrope_section"):
            if other.get(key) is not None and other[key] != parameters.get(key):
                fields.problem(
                    f"{prefix}rope_scaling: expected it alone or with the {key} of rope_parameters "
                    f"({shown(other[key])}), found {shown(parameters.get(key))}"
                )
    return name, parameters


def _first(value: Any, default: Any) -> Any:
    return default if value is None else value


def _section(fields: Fields, parameters: dict[str, Any], place: str, rotary_dims: int) -> tuple[int, int, int]:
    section = parameters.get("mrope_section")
    if section is not None and (not _is_section(section) or 2 * sum(section) != rotary_dims):
        fields.problem(
            f"{place}mrope_section: expected three numbers that sum to {rotary_dims // 2} "
            f"(head_dim x partial_rotary_factor / 2), found {shown(section)}"
        )
        section = None
    time, height, width = _MROPE_SECTION if section is None else section
    return time, height, width


def _is_section(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(part, int) and not isinstance(part, bool) and part >= 0 for part in value)
    )


def _yarn(fields: Fields, raw: dict[str, Any], parameters: dict[str, Any], place: str, positions: int) -> YarnConfig:
    """Source: transformers 5.24, modeling_rope_utils.py, _compute_yarn_parameters."""
    name = "original_max_position_embeddings"
    # Beside the settings it counts before them; without any it is what the model has.
    source = raw if raw.get(name) is not None else parameters
    original = fields.integer(source, place, name, default=positions, most=MAX_POSITIONS)
    if "factor" not in parameters:
        fields.problem(f"{place}factor: expected a number, found nothing")
    factor = fields.number(parameters, place, "factor", default=positions / original)
    if parameters.get("rope_theta") == 1:
        fields.problem(f"{place}rope_theta: expected a number other than 1 for YaRN, found 1")
    scales = {
        key: fields.number(parameters, place, key) if parameters.get(key) else 0.0
        for key in ("mscale", "mscale_all_dim", "beta_fast", "beta_slow")
    }
    one, other = scales["mscale"], scales["mscale_all_dim"]
    # Only both together count.
    inferred = _mscale(factor, one) / _mscale(factor, other) if one and other else _mscale(factor, 1.0)
    return YarnConfig(
        factor=factor,
        original_max_position_embeddings=original,
        attention_factor=fields.number(parameters, place, "attention_factor", default=inferred),
        beta_fast=scales["beta_fast"] or 32.0,
        beta_slow=scales["beta_slow"] or 1.0,
        truncate=fields.boolean(parameters, place, "truncate", default=True),
    )


def _mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0
