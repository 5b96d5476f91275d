"""The names and value conventions of the three checkpoint layouts, brought to one.

The canonical names are those of mlx-lm and mlx-vlm conversions: `language_model.model.*`,
`language_model.lm_head.*`, `vision_tower.*`, and `mtp.*` for the multi-token-prediction
module. Bringing canonical tensors to canonical form changes nothing.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import mlx.core as mx

from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.errors import CheckpointError

Layout = Literal["transformers", "mlx-lm", "mlx-vlm"]

_PREFIXES = (
    ("language_model.mtp.", "mtp."),
    ("language_model.model.mtp.", "mtp."),
    ("model.language_model.mtp.", "mtp."),
    ("model.mtp.", "mtp."),
    ("model.language_model.visual.", "vision_tower."),
    ("model.vision_tower.", "vision_tower."),
    ("visual.", "vision_tower."),
    # transformers' model without its head, as `AutoModel` saves it.
    *((f"language_model.{part}", f"language_model.model.{part}") for part in ("embed_tokens.", "layers.", "norm.")),
    ("language_model.", "language_model."),
    ("vision_tower.", "vision_tower."),
    ("mtp.", "mtp."),
    ("model.language_model.", "language_model.model."),
    ("model.visual.", "vision_tower."),
    ("lm_head.", "language_model.lm_head."),
    ("model.", "language_model.model."),
    # Those of an MTP head in a file or a repository of its own.
    *((name, f"mtp.{name}") for name in ("fc.", "layers.", "norm.", "pre_fc_norm_embedding.", "pre_fc_norm_hidden.")),
)

_HEAD, _EMBEDDING = "language_model.lm_head.", "language_model.model.embed_tokens."
_PATCHES = "vision_tower.patch_embed.proj.weight"
_BARE = ("embed_tokens.", "layers.", "norm.")

# Stored as w in transformers' layout, where the layer multiplies by (1 + w). The gated norm of
# the GDN layers and the vision tower's LayerNorms are plain in every layout.
_SHIFTED_NORM = re.compile(
    r"(input_layernorm|post_attention_layernorm|q_norm|k_norm|(^|\.)model\.norm"
    r"|^mtp\.(norm|pre_fc_norm_embedding|pre_fc_norm_hidden))\.weight$"
)
# What older programs stored although config.json gives it.
_COMPUTED = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq")
_EXPERT = re.compile(r"(?P<mlp>.*\.mlp)\.experts\.(?P<expert>\d+)\.(?P<projection>\w+)\.(?P<kind>\w+)$")
_PACKED_EXPERTS = re.compile(r"(?P<mlp>.*\.mlp)\.experts\.(?P<projection>gate_up_proj|down_proj)(\.(?P<kind>\w+))?$")


def canonical_name(name: str) -> str:
    """A tensor's or module's name in canonical form; experts keep their own naming.

    Raises:
        CheckpointError: The name belongs to no known layout.
    """
    for prefix, replacement in _PREFIXES:
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    raise CheckpointError(
        f"tensor {name}: expected a name that begins with one of {', '.join(prefix for prefix, _ in _PREFIXES)}"
    )


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """The names of all tensors of a checkpoint in canonical form.

    Raises:
        CheckpointError: See `canonical_name`.
    """
    stored = list(names)
    prefix = "model." if is_bare(stored) else ""
    return {name: canonical_name(prefix + name if name.startswith(_BARE) else name) for name in stored}


def is_bare(names: Iterable[str]) -> bool:
    """Whether these are of a decoder without anything in front of its names, and not of an MTP head, named likewise.

    So transformers' `AutoModel` saves a model of text alone without its head.
    """
    firsts = {name.partition(".")[0] for name in names}
    return "embed_tokens" in firsts and "fc" not in firsts


def recognise_layout(shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """Which program wrote these tensors.

    Values decide, not names: transformers keeps the GDN convolution as (C, 1, K), conversions
    as (C, K, 1). Only a decoder without GDN layers is told by its names.
    """
    convolutions = [shape for name, shape in shapes.items() if name.endswith("conv1d.weight")]
    if convolutions:
        by_torch = [shape[-1:] != (1,) for shape in convolutions]
        if any(by_torch) and not all(by_torch):
            raise CheckpointError("conv1d.weight: expected one layout, found (C, 1, K) and (C, K, 1) mixed")
        torch_values = any(by_torch)
    else:
        torch_values = not any(name.startswith("language_model.") for name in shapes)
    if torch_values:
        return "transformers"
    return "mlx-vlm" if any(name.startswith("vision_tower.") for name in shapes) else "mlx-lm"


def to_canonical(weights: Mapping[str, mx.array], config: ModelConfig) -> dict[str, mx.array]:
    """Rename every tensor and bring its value to the convention of mlx-lm and mlx-vlm.

    Args:
        weights: Tensors of one checkpoint, of any layout, plain or quantised in MLX's own modes.
    Raises:
        CheckpointError: A name belongs to no layout, two names mean the same tensor, or layouts are mixed.
    Source:
        mlx-lm 0.32.2, models/qwen3_5.py and qwen3_5_moe.py, Model.sanitize; mlx-vlm 0.7.10 likewise.
    """
    layout = recognise_layout({name: tuple(value.shape) for name, value in weights.items()})
    renamed: dict[str, mx.array] = {}
    for name, new_name in canonical_names(name for name in weights if not name.endswith(_COMPUTED)).items():
        if new_name in renamed:
            raise CheckpointError(f"tensor {new_name}: found twice, the second time as {name}")
        renamed[new_name] = weights[name]
    if config.tie_word_embeddings:
        renamed = _tie(renamed, by_transformers=layout == "transformers")
    renamed = arrange_experts(renamed)
    if layout == "transformers":
        renamed = {
            name: value if name == _PATCHES else from_transformers(name, value) for name, value in renamed.items()
        }
    if config.vision is not None and _PATCHES in renamed and renamed[_PATCHES].ndim == 5:
        channels, shape = config.vision.in_channels, renamed[_PATCHES].shape
        if shape[1] == channels and shape[-1] != channels:
            renamed[_PATCHES] = from_transformers(_PATCHES, renamed[_PATCHES])
    return renamed


def from_transformers(name: str, value: mx.array) -> mx.array:
    """A tensor that transformers stores, by canonical name, as MLX computes with it.

    One of another number of axes is refused with its shape, as any other tensor is.
    """
    if name.endswith("conv1d.weight"):
        return mx.contiguous(value.moveaxis(2, 1)) if value.ndim == 3 else value
    if name == _PATCHES:
        # (out, C, T, P, P) in transformers, (out, T, P, P, C) in mlx-vlm.
        return mx.contiguous(value.moveaxis(1, -1)) if value.ndim == 5 else value
    return value + 1.0 if _SHIFTED_NORM.search(name) else value


def _tie(weights: dict[str, mx.array], *, by_transformers: bool) -> dict[str, mx.array]:
    """One matrix for embedding and head, whichever is there; some checkpoints hold a copy all the same.

    In transformers a head with values of its own, which was trained or merged apart, counts, whatever config.json says;
    mlx-lm and mlx-vlm leave it out of theirs.

    Source:
        transformers 5.24, modeling_utils.py, PreTrainedModel.tie_weights.
    """
    head, embedding = weights.get(f"{_HEAD}weight"), weights.get(f"{_EMBEDDING}weight")
    if head is not None and embedding is None:
        return {name.replace(_HEAD, _EMBEDDING): value for name, value in weights.items()}
    quantised = any(f"{path}scales" in weights for path in (_HEAD, _EMBEDDING))
    comparable = head is not None and embedding is not None and head.shape == embedding.shape and not quantised
    if by_transformers and comparable and not mx.array_equal(head, embedding).item():  # type: ignore[arg-type]
        return weights
    return {name: value for name, value in weights.items() if not name.startswith(_HEAD)}


def half_offsets(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """By canonical name, what `to_canonical` adds 1 to and rounds, because it is stored in half precision.

    transformers adds it in float32.
    """
    if recognise_layout({name: tuple(value.shape) for name, value in weights.items()}) != "transformers":
        return {}
    names = canonical_names(name for name in weights if not name.endswith(_COMPUTED))
    named = {new_name: weights[name] for name, new_name in names.items()}
    return {name: value for name, value in named.items() if _SHIFTED_NORM.search(name) and value.itemsize == 2}


def arrange_experts(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Every expert in the stacks that mlx-lm multiplies by, however they were stored.

    Raises:
        CheckpointError: An expert is missing.
    """
    return _unpack_experts(_stack_experts(weights))


def _stack_experts(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """One tensor per expert, as transformers' save_pretrained may write, to one stack per projection."""
    out: dict[str, mx.array] = {}
    stacks: dict[str, dict[int, mx.array]] = {}
    for name, value in weights.items():
        match = _EXPERT.match(name)
        if match:
            stack = f"{match['mlp']}.switch_mlp.{match['projection']}.{match['kind']}"
            stacks.setdefault(stack, {})[int(match["expert"])] = value
        else:
            out[name] = value
    for name, experts in stacks.items():
        if sorted(experts) != list(range(len(experts))):
            raise CheckpointError(f"{name}: expected experts 0 to {max(experts)}, found {sorted(experts)}")
        out[name] = mx.stack([experts[index] for index in range(len(experts))])
    return out


def _unpack_experts(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Packed `gate_up_proj` (E, 2I, H), gate first, to two projections; `down_proj` is only renamed."""
    out: dict[str, mx.array] = {}
    for name, value in weights.items():
        match = _PACKED_EXPERTS.match(name)
        if not match:
            out[name] = value
            continue
        prefix, kind = f"{match['mlp']}.switch_mlp", match["kind"] or "weight"
        if kind == "global_scale" and value.ndim == 0:
            value = mx.broadcast_to(value, weights[name.replace(kind, "weight")].shape[:1])
        if match["projection"] == "down_proj":
            out[f"{prefix}.down_proj.{kind}"] = value
        elif kind == "global_scale":
            out[f"{prefix}.gate_proj.{kind}"] = out[f"{prefix}.up_proj.{kind}"] = value
        else:
            gate, up = mx.split(value, 2, axis=1)
            if mx.cuda.is_available():
                # For sorted indices that backend's gather_mm takes matrices to lie one behind the other, and would read
                # another expert's (mlx 0.32, backend/cuda/gemms/grouped_gemm_unaligned.cu, b_batch_stride).
                gate, up = mx.contiguous(gate), mx.contiguous(up)
            out[f"{prefix}.gate_proj.{kind}"], out[f"{prefix}.up_proj.{kind}"] = gate, up
    return out


def check_tensors(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    *,
    what: str = "the tensors do not fit config.json",
) -> None:
    """Compare a model's parameters with a checkpoint's tensors, both by canonical name.

    Args:
        what: What an error says before the list.
    Raises:
        CheckpointError: They differ; lists every missing, surplus and misshapen tensor.
    """
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    misshapen = [
        f"{name} (expected {tuple(expected[name])}, found {tuple(found[name])})"
        for name in expected
        if name in found and tuple(expected[name]) != tuple(found[name])
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(sorted(names))}"
        for kind, names in (("missing", missing), ("surplus", surplus), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError(f"{what}: " + "; ".join(problems))
