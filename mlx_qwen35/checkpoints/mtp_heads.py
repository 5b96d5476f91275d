"""The multi-token-prediction (MTP) head: found wherever it lies, and brought to the names and values of this package.

A head lies among the decoder's weights, in a file beside them (`mtp.safetensors`, `model-mtp.safetensors`), in such a
file a folder down, or in a repository of its own, whose tensors have no `mtp.` in front. It may be quantised, in other
ways than the decoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_qwen35.checkpoints.build import naming, read_tensors
from mlx_qwen35.checkpoints.config import TextConfig
from mlx_qwen35.checkpoints.dequantising import plain_weight
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.formats import to_mlx
from mlx_qwen35.checkpoints.headers import read_headers
from mlx_qwen35.checkpoints.hub import find_checkpoint
from mlx_qwen35.checkpoints.layouts import arrange_experts, canonical_name, check_tensors, is_bare, recognise_layout
from mlx_qwen35.checkpoints.reading import is_file, read_json
from mlx_qwen35.checkpoints.stored import quantisation_of
from mlx_qwen35.errors import CheckpointError
from mlx_qwen35.paths import expand


@dataclass(frozen=True)
class MtpHead:
    """A head that fits the decoder; its tensors stay on disk until they are used.

    Args:
        tensors: By canonical name (`mtp.fc.weight`, `mtp.layers.0.self_attn.q_proj.scales`, ...). Norms are gains, as
            MLX multiplies by them, with the 1 of transformers' (1 + w) included. Experts are stacked (`switch_mlp`).
        quantisation: `group_size`, `bits` and `mode` of every quantised module, by its canonical path.
        files: Where it was found.
        half_offsets: What norms were made of, where adding 1 in half precision rounds; see `layouts.half_offsets`.
    """

    tensors: dict[str, mx.array]
    quantisation: dict[str, dict[str, Any]]
    files: tuple[Path, ...]
    half_offsets: dict[str, mx.array]


def read_mtp_head(checkpoint: Checkpoint, mtp_path: str | Path | None = None) -> MtpHead | None:
    """The head of a checkpoint, or None if it has none; only on the thread that owns MLX.

    Args:
        mtp_path: A file, a directory or a hub id that holds the head, in place of the checkpoint's own.
    Raises:
        CheckpointError: `mtp_path` holds no head, a file is damaged, two files hold the same tensor, or the head does
            not fit the decoder; lists every tensor that is missing, surplus or of another shape.
    """
    config = checkpoint.config.raw
    if mtp_path is None:
        found = _tensors_of(head_files(checkpoint))
    else:
        path = expand(mtp_path, CheckpointError, "mtp_path")
        directory = path.parent if is_file(path) else find_checkpoint(mtp_path)
        files = [path] if is_file(path) else sorted(filter(is_file, directory.glob("*.safetensors")))
        found = _tensors_of(files)
        config = read_json(directory / "config.json") if is_file(directory / "config.json") else {}
        if not found:
            raise CheckpointError(f"{mtp_path}: expected the tensors of an MTP head, found none")
    if not found:
        return None
    files = sorted({path for path, _ in found.values()})
    with naming(", ".join(str(path) for path in files)):
        tensors = to_mlx({name: value for name, (_, value) in found.items()}, config)
        tensors = arrange_experts(_without_global_scales(tensors))
        quantisation = _check_fit(checkpoint.config.text, tensors)
        offsets = _to_gains(tensors, by_transformers=_by_transformers(files))
    return MtpHead(tensors, quantisation, tuple(files), offsets)


def head_files(checkpoint: Checkpoint) -> list[Path]:
    """The files of a checkpoint, or beside its weights, that hold tensors of a head; reads headers only.

    Raises:
        CheckpointError: A file is damaged.
    """
    weights = checkpoint.weight_files()
    if is_bare(header.name for header in read_headers(weights)):
        weights = []
    # OptiQ has a folder for what it adds, which counts where there is no head otherwise.
    for pattern in ("*mtp*.safetensors", "*/*mtp*.safetensors"):
        beside = sorted(path for path in checkpoint.directory.glob(pattern) if is_file(path) and path not in weights)
        found = [path for path in [*weights, *beside] if _head_names([h.name for h in read_headers([path])])]
        if found:
            return found
    return []


def _tensors_of(files: list[Path]) -> dict[str, tuple[Path, mx.array]]:
    """The head's tensors by canonical name, each with its file."""
    found: dict[str, tuple[Path, mx.array]] = {}
    for path in files:
        names = _head_names([header.name for header in read_headers([path])])
        if not names:
            continue
        with naming(str(path)):
            tensors = read_tensors([path])
        for name, new in names.items():
            if new in found:
                raise CheckpointError(
                    f"tensor {new}: expected in one file, found in {found[new][0]} and in {path}; "
                    "name the one to use as mtp_path"
                )
            found[new] = (path, tensors[name])
    return found


def _head_names(stored: list[str]) -> dict[str, str]:
    """Which of a file's tensors are a head's, with their canonical names."""
    names: dict[str, str] = {}
    strange: list[str] = []
    for name in stored:
        try:
            names[name] = canonical_name(name)
        except CheckpointError:
            strange.append(name)
    head = {name: new for name, new in names.items() if new.startswith("mtp.")}
    if any(name != new and not name.endswith(new) for name, new in head.items()):
        # Without a prefix in front, so that whatever else is there is the head's too, and one too many.
        head |= {name: f"mtp.{name}" for name in strange}
    return head


def _without_global_scales(tensors: dict[str, mx.array]) -> dict[str, mx.array]:
    """A head is small: what MLX has no layer for becomes plain."""
    out = dict(tensors)
    for name in tensors:
        path, _, part = name.rpartition(".")
        if part == "global_scale":
            parts = {kind: out.pop(f"{path}.{kind}") for kind in ("weight", "scales", "global_scale")}
            dtype = next((v.dtype for name, v in tensors.items() if name.endswith("norm.weight")), mx.bfloat16)
            out[f"{path}.weight"] = plain_weight(parts, {"group_size": 16, "bits": 4, "mode": "nvfp4"}, dtype)
    return out


def _by_transformers(files: list[Path]) -> bool:
    """Whether transformers wrote the decoder that the head shares a file with."""
    shapes = {header.name: header.shape for header in read_headers(files)}
    return any("conv1d" in name for name in shapes) and recognise_layout(shapes) == "transformers"


# transformers stores a norm as w and multiplies by (1 + w); conversions store the gain, 1 + w, or forget to. The mean
# tells them apart, with another threshold for each kind. Means of w in published heads, from what their users
# reported, and in the one of this package: -0.06 to 0.39 for the two norms around attention, 0.34 to 0.79 for queries
# and keys, -0.73 to 0.01 for the two before `fc`.
_THRESHOLDS = {
    "input_layernorm": 0.6,
    "post_attention_layernorm": 0.6,
    "q_norm": 0.9,
    "k_norm": 0.9,
    "pre_fc_norm_embedding": 0.14,
    "pre_fc_norm_hidden": 0.14,
}
# The last norm's w has means of 0.56, 1.25 and 2.58: below the first value it is one, between the other two it is
# a gain that training left near 1, beyond that only the norms that the same programs convert or forget can tell.
_LAST_NORM = (0.5, 0.8, 1.2)


def _to_gains(tensors: dict[str, mx.array], *, by_transformers: bool) -> dict[str, mx.array]:
    """Add 1 to the norms that are stored as w, in place; returns those that half precision rounds, as they were."""
    kinds = {name: name.rsplit(".", 2)[-2] for name in tensors}
    offsets = {name for name, kind in kinds.items() if kind in _THRESHOLDS and _mean(tensors[name]) < _THRESHOLDS[kind]}
    last, (offset, near, far) = _mean(tensors["mtp.norm.weight"]), _LAST_NORM
    siblings = {"mtp.pre_fc_norm_embedding.weight", "mtp.pre_fc_norm_hidden.weight"} <= offsets
    gain = near <= last < far and not by_transformers
    if last < offset or (siblings and not gain):
        offsets.add("mtp.norm.weight")
    before = {name: tensors[name] for name in offsets}
    tensors.update({name: value + 1.0 for name, value in before.items()})
    return {name: value for name, value in before.items() if value.itemsize == 2}


def _mean(norm: mx.array) -> float:
    return float(norm.astype(mx.float32).mean().item())  # type: ignore[arg-type]


def _check_fit(text: TextConfig, tensors: Mapping[str, mx.array]) -> dict[str, dict[str, Any]]:
    """How the head's modules are quantised, once it is sure that they are those that the decoder needs."""
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    layers = {name.split(".")[2] for name in shapes if name.startswith("mtp.layers.")}
    plain = _shapes(text, max(len(layers), 1))
    expected: dict[str, tuple[int, ...]] = {}
    quantisation: dict[str, dict[str, Any]] = {}
    for name, shape in plain.items():
        path = name.removesuffix(".weight")
        if f"{path}.scales" not in shapes or len(shape) == 1:
            expected[name] = shape
            continue
        settings = _quantisation_of(path, shape, tensors)
        quantisation[path] = settings
        expected[name] = (*shape[:-1], shape[-1] * settings["bits"] // 32)
        groups = (*shape[:-1], shape[-1] // settings["group_size"])
        kinds = ("scales", "biases") if settings["mode"] == "affine" else ("scales",)
        expected |= {f"{path}.{kind}": groups for kind in kinds}
        if f"{path}.bias" in shapes and f"{path}.bias" not in plain:
            expected[f"{path}.bias"] = shape[:-1]
    check_tensors(expected, shapes, what="the tensors of the MTP head do not fit the decoder")
    return quantisation


def _quantisation_of(path: str, shape: tuple[int, ...], tensors: Mapping[str, mx.array]) -> dict[str, Any]:
    try:
        settings = quantisation_of(path, shape[-1], tensors)
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: expected a quantisation that MLX has, found another ({error})") from error
    if settings["bits"] not in (2, 3, 4, 5, 6, 8) or settings["group_size"] not in (16, 32, 64, 128):
        found = {kind: tuple(tensors[f"{path}.{kind}"].shape) for kind in ("weight", "scales")}
        raise CheckpointError(
            f"the MTP head does not fit the decoder: {path}: expected {shape} quantised, found {found}"
        )
    return settings


def _shapes(text: TextConfig, layers: int) -> dict[str, tuple[int, ...]]:
    """What a head for this decoder consists of, before it is quantised.

    Source:
        vLLM's and mlx-vlm 0.7.10's reading of `mtp.*`: speculative/drafters/qwen3_5_mtp/qwen3_5_mtp.py.
    """
    hidden, head = text.hidden_size, text.head_dim
    queries, keys = text.num_attention_heads * head, text.num_key_value_heads * head
    shapes: dict[str, tuple[int, ...]] = {"fc": (hidden, 2 * hidden)}
    shapes |= dict.fromkeys(("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"), (hidden,))
    for index in range(layers):
        layer = f"layers.{index}."
        attention: dict[str, tuple[int, ...]] = {
            "q_proj": (2 * queries, hidden),
            "k_proj": (keys, hidden),
            "v_proj": (keys, hidden),
            "o_proj": (hidden, queries),
            "q_norm": (head,),
            "k_norm": (head,),
        }
        shapes |= {f"{layer}self_attn.{name}": shape for name, shape in attention.items()}
        shapes |= {f"{layer}{name}": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{layer}mlp.{name}": shape for name, shape in _feed_forward(text).items()}
    named = {f"mtp.{name}.weight": shape for name, shape in shapes.items()}
    if text.attention_bias:
        for name, shape in list(named.items()):
            if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight")):
                named[name.removesuffix("weight") + "bias"] = shape[:1]
    return named


def _feed_forward(text: TextConfig) -> dict[str, tuple[int, ...]]:
    def gated(prefix: str, inner: int, *experts: int) -> dict[str, tuple[int, ...]]:
        into = dict.fromkeys((f"{prefix}gate_proj", f"{prefix}up_proj"), (*experts, inner, text.hidden_size))
        return into | {f"{prefix}down_proj": (*experts, text.hidden_size, inner)}

    moe = text.moe
    if moe is None:
        assert text.intermediate_size is not None, "config.py requires it without experts"
        return gated("", text.intermediate_size)
    return {
        "gate": (moe.num_experts, text.hidden_size),
        "shared_expert_gate": (1, text.hidden_size),
        **gated("switch_mlp.", moe.moe_intermediate_size, moe.num_experts),
        **gated("shared_expert.", moe.shared_expert_intermediate_size),
    }
