"""Whole checkpoints in the formats of other programs, made of one with plain weights, and what their weights stand for.

Each packer takes a matrix (..., out, in) and gives the tensors that are stored of it, and the matrix that they stand
for; tests/checkpoints/foreign.safetensors, which the programs themselves wrote, holds the readers to these formats.
"""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

Array = np.ndarray[Any, Any]
# What is stored of a module: by its name there, the type as safetensors calls it, and the values.
Stored = dict[str, tuple[str, Array]]
Packer = Callable[[Array], tuple[Stored, Array]]

GROUP = 32
BLOCK = 128
_TYPES = {"float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64", "int8": "I8", "uint8": "U8"}


@dataclass(frozen=True)
class Kind:
    """A format.

    Args:
        pack: For one matrix.
        settings: `quantization_config` of config.json.
        experts: Whether experts are stored one by one or stacked, with an underscore before what belongs to them.
        tower: Whether the vision tower is packed too.
        half: Whether plain tensors have half precision.
    """

    name: str
    pack: Packer
    settings: Mapping[str, Any] = field(default_factory=dict)
    stacked: bool = False
    tower: bool = False
    half: bool = False


def fp8_blocks(weight: Array) -> tuple[Stored, Array]:
    """E4M3 with a scale for every block of 128 x 128, as Qwen's own FP8 checkpoints."""
    rows, columns = (-(-size // BLOCK) for size in weight.shape[-2:])
    scale = np.empty((*weight.shape[:-2], rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            block = weight[..., row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK]
            scale[..., row, column] = np.abs(block).max(axis=(-1, -2)) / 448.0
    wide = np.repeat(np.repeat(scale, BLOCK, axis=-2), BLOCK, axis=-1)[..., : weight.shape[-2], : weight.shape[-1]]
    codes, values = _e4m3(weight / wide)
    return {"weight": ("F8_E4M3", codes), "weight_scale_inv": ("F32", scale)}, values * wide


def fp8_rows(weight: Array) -> tuple[Stored, Array]:
    """E4M3 with a scale for every row, as compressed-tensors' float-quantized."""
    scale = np.abs(weight).max(axis=-1, keepdims=True).astype(np.float32) / 448.0
    codes, values = _e4m3(weight / scale)
    return {"weight": ("F8_E4M3", codes), "weight_scale": ("F32", scale)}, values * scale


def nvfp4_modelopt(weight: Array) -> tuple[Stored, Array]:
    """E2M1 with E4M3 scales for every 16 and a factor for all, as NVIDIA's ModelOpt."""
    packed, scales, factor, values = _nvfp4(weight)
    stored = {"weight": ("U8", packed), "weight_scale": ("F8_E4M3", scales), "weight_scale_2": ("F32", factor)}
    return stored | {"input_scale": ("F32", np.float32(1.0))}, values


def nvfp4_compressed(weight: Array) -> tuple[Stored, Array]:
    """The same as compressed-tensors' nvfp4-pack-quantized, which divides by the factor."""
    packed, scales, factor, values = _nvfp4(weight)
    stored = {"weight_packed": ("U8", packed), "weight_scale": ("F8_E4M3", scales)}
    return stored | {"weight_global_scale": ("F32", (1 / factor).reshape(1))}, values


def _nvfp4(weight: Array) -> tuple[Array, Array, Array, Array]:
    largest = float(np.abs(weight).max())
    packed, scales = mx.quantize(mx.array(weight), 16, 4, mode="nvfp4", global_scale=mx.array(largest))
    factor = np.float32(largest / (6 * 448))
    values = mx.dequantize(packed, scales, None, 16, 4, "nvfp4", dtype=mx.float32)
    return np.array(packed.view(mx.uint8)), np.array(scales), factor, np.array(values) * factor


def awq(weight: Array) -> tuple[Stored, Array]:
    """4 bits, packed along the outputs in AutoAWQ's order."""
    integers, scales, zeros = _integers(weight)
    order = np.array([0, 2, 4, 6, 1, 3, 5, 7])

    def pack(values: Array) -> Array:
        words = values.reshape(values.shape[0], -1, 8)[..., order].astype(np.uint32)
        return (words << np.arange(0, 32, 4, dtype=np.uint32)).sum(axis=-1, dtype=np.uint32).view(np.int32)

    stored = {
        "qweight": ("I32", pack(integers.T)), "qzeros": ("I32", pack(zeros.T)),
        "scales": ("F16", np.ascontiguousarray(scales.T)),
    }  # fmt: skip
    return stored, _spread(integers, scales, zeros)


def gptq(weight: Array) -> tuple[Stored, Array]:
    """4 bits, packed along the inputs, zeros less one, as AutoGPTQ."""
    integers, scales, zeros = _integers(weight)
    shifts = np.arange(0, 32, 4, dtype=np.uint32)
    rows = integers.T.reshape(-1, 8, integers.shape[0]).astype(np.uint32)
    columns = ((zeros.T.astype(np.int64) - 1) & 15).astype(np.uint32).reshape(zeros.shape[1], -1, 8)
    stored = {
        "qweight": ("I32", (rows << shifts[:, None]).sum(axis=1, dtype=np.uint32).view(np.int32)),
        "qzeros": ("I32", (columns << shifts).sum(axis=-1, dtype=np.uint32).view(np.int32)),
        "scales": ("F16", np.ascontiguousarray(scales.T)),
        "g_idx": ("I32", (np.arange(weight.shape[1]) // GROUP).astype(np.int32)),
    }
    return stored, _spread(integers, scales, zeros)


def packed_integers(weight: Array) -> tuple[Stored, Array]:
    """4 bits around zero, as compressed-tensors' pack-quantized."""
    groups = weight.reshape(weight.shape[0], -1, GROUP)
    scales = (np.abs(groups).max(axis=-1) / 7.5).astype(np.float16)
    integers = np.clip(np.round(groups / scales[..., None].astype(np.float32)) + 8, 0, 15).astype(np.uint32)
    words = integers.reshape(weight.shape[0], -1, 8) << np.arange(0, 32, 4, dtype=np.uint32)
    stored = {
        "weight_packed": ("I32", words.sum(axis=-1, dtype=np.uint32).view(np.int32)),
        "weight_scale": ("F16", scales),
        "weight_shape": ("I64", np.array(weight.shape)),
    }
    return stored, _spread(integers.reshape(weight.shape), scales, np.full(scales.shape, 8))


def _integers(weight: Array) -> tuple[Array, Array, Array]:
    """4 bits in groups, with zeros: (out, in), (out, groups), (out, groups)."""
    groups = weight.reshape(weight.shape[0], -1, GROUP)
    low, high = np.minimum(groups.min(axis=-1), 0), np.maximum(groups.max(axis=-1), 0)
    scales = ((high - low) / 15).astype(np.float16)
    zeros = np.clip(np.round(-low / scales), 0, 15).astype(np.uint32)
    integers = np.round(groups / scales[..., None].astype(np.float32)) + zeros[..., None]
    return np.clip(integers, 0, 15).astype(np.uint32).reshape(weight.shape), scales, zeros


def _spread(integers: Array, scales: Array, zeros: Array) -> Array:
    wide = [np.repeat(values.astype(np.float32), GROUP, axis=-1) for values in (scales, zeros)]
    return (integers.astype(np.float32) - wide[1]) * wide[0]


def _e4m3(values: Array) -> tuple[Array, Array]:
    codes = mx.to_fp8(mx.array(values.astype(np.float32)))
    return np.array(codes), np.array(mx.from_fp8(codes, dtype=mx.float32))


_FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}
_NVFP4 = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}


def _compressed(form: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "format": form, "weights": weights}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}


KINDS = (
    Kind("FP8 in blocks", fp8_blocks, _FP8),
    Kind("FP8 in blocks, experts stacked", fp8_blocks, _FP8, stacked=True),
    Kind("FP8 in blocks, vision too", fp8_blocks, _FP8, tower=True),
    Kind("NVFP4 of ModelOpt", nvfp4_modelopt, _NVFP4),
    Kind("AWQ", awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True}, half=True),
    Kind("GPTQ", gptq, {"quant_method": "gptq", "bits": 4, "group_size": GROUP}, half=True),
    Kind(
        "compressed-tensors, 4 bits", packed_integers,
        _compressed("pack-quantized", num_bits=4, type="int", group_size=GROUP, symmetric=True), half=True,
    ),
    Kind("compressed-tensors, FP8", fp8_rows, _compressed("float-quantized", num_bits=8, type="float")),
    Kind("compressed-tensors, NVFP4", nvfp4_compressed, _compressed("nvfp4-pack-quantized", num_bits=4, type="float")),
)  # fmt: skip

# Routing and GDN's rates stay precise in every format, and have too few rows for some.
_PRECISE = ("mlp.gate.weight", "shared_expert_gate.weight", "in_proj_a.weight", "in_proj_b.weight")


def build(kind: Kind, tensors: Mapping[str, Array]) -> tuple[Stored, dict[str, Array]]:
    """A checkpoint's tensors, under transformers' names, as the format stores them, and what they stand for then."""
    stored: Stored = {}
    meant: dict[str, Array] = {}
    for name, value in tensors.items():
        decoder = name.startswith(("model.language_model.layers.", "model.layers."))
        if ".experts." in name and decoder:
            parts, meant[name] = _stacked(name, value, kind) if kind.stacked else _one_by_one(name, value, kind)
            stored |= parts
        elif value.ndim == 2 and not name.endswith(_PRECISE) and (decoder or (kind.tower and ".blocks." in name)):
            parts, meant[name] = kind.pack(value)
            stored |= {f"{name.removesuffix('.weight')}.{part}": entry for part, entry in parts.items()}
        else:
            half = kind.half and value.dtype == np.float32 and not name.endswith("A_log")
            meant[name] = value.astype(np.float16) if half else value
            stored[name] = ("F16" if half else _TYPES[str(value.dtype)], meant[name])
    return stored, meant


def _stacked(name: str, value: Array, kind: Kind) -> tuple[Stored, Array]:
    parts, meant = kind.pack(value)
    names = {part: part.removeprefix("weight").removeprefix("_") for part in parts}
    return {f"{name}_{names[part]}" if names[part] else name: entry for part, entry in parts.items()}, meant


def _one_by_one(name: str, value: Array, kind: Kind) -> tuple[Stored, Array]:
    path, projection = name.rsplit(".", 1)
    stored: Stored = {}
    meant = np.empty_like(value)
    for expert in range(value.shape[0]):
        halves = {"gate_proj": slice(None, value.shape[1] // 2), "up_proj": slice(value.shape[1] // 2, None)}
        named = halves if projection == "gate_up_proj" else {"down_proj": slice(None)}
        for part, rows in named.items():
            packed, meant[expert, rows] = kind.pack(value[expert, rows])
            stored |= {f"{path}.{expert}.{part}.{kind_}": entry for kind_, entry in packed.items()}
    return stored, meant


def write(stored: Stored, file: Path) -> None:
    """A safetensors file, of types too that numpy does not have."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, value) in stored.items():
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [offset, offset + value.nbytes]}
        offset += value.nbytes
    text = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, value in stored.values():
            out.write(np.ascontiguousarray(value).tobytes())
