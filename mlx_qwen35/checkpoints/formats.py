"""Checkpoints in other programs' formats: FP8, NVFP4, MXFP4, AWQ, GPTQ, compressed-tensors, AutoRound, Quark, torchao.

What a module holds says how it is stored, more surely than config.json does, which is read only for what tensors do
not tell. Whatever MLX has a mode for stays packed; FP8 and groups that MLX does not have become plain weights.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_qwen35.checkpoints import torchao, unpacking
from mlx_qwen35.checkpoints.headers import TensorHeader, weight_bytes
from mlx_qwen35.checkpoints.layouts import canonical_names
from mlx_qwen35.errors import CheckpointError
from mlx_qwen35.paths import shorten

METHODS = (
    "fp8", "fbgemm_fp8", "modelopt", "compressed-tensors", "awq", "gptq", "mxfp4", "mxfp8", "auto-round", "quark",
    "torchao",
)  # fmt: skip
# Of Quark's weights; its unsigned bytes could not be told from E4M3.
_QUARK = ("fp4", "fp8_e4m3")
# AutoRound packs as other programs do, and says as which; it has further ways, which are not read.
_AUTO_ROUND_V2 = ("auto_round", "auto_round:gptqmodel")
_AUTO_ROUND = (
    "auto_round:auto_gptq", "auto_round:auto_awq", "auto_round:fp8", "auto_round:llm_compressor", *_AUTO_ROUND_V2,
)  # fmt: skip

# One of these among a module's tensors says that they are not MLX's.
_MARKERS = frozenset({
    "weight_scale", "weight_scale_inv", "weight_scale_2", "weight_packed", "weight_global_scale", "qweight",
})  # fmt: skip
_PARTS = _MARKERS | {
    "weight",
    "scales",
    "biases",
    "qzeros",
    "g_idx",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
}
# For quantised activations and caches, which nothing here computes with.
_UNUSED = (
    "input_scale", "input_global_scale", "input_zero_point", "activation_scale", "output_scale",
    "q_scale", "k_scale", "v_scale",
)  # fmt: skip
# Ends of names that only these programs write, for an error: not all of them leave settings in config.json.
_PROGRAMS = {"._data": "optimum-quanto", ".absmax": "bitsandbytes", ".SCB": "bitsandbytes", ".W_q": "HQQ"}
# Stacked experts are parameters, not modules: what belongs to them is joined to the name by an underscore.
_EXPERTS = re.compile(r"(?P<path>.*\.experts\.(gate_up_proj|down_proj))(_(?P<part>\w+))?$")
_EXPERT_PARTS = {None: "weight", "scale_inv": "weight_scale_inv", "scale": "weight_scale", "scale_2": "weight_scale_2"}


@dataclass(frozen=True)
class Settings:
    """What config.json's `quantization_config` says that tensors do not.

    Args:
        raw: As it is there; empty without one.
    """

    raw: Mapping[str, Any]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Settings":
        """From a whole config.json."""
        text = config.get("text_config")
        for section in (config, text if isinstance(text, dict) else {}):
            found = section.get("quantization_config")
            # MLX writes its own settings under this name too, without a method.
            if isinstance(found, dict) and "quant_method" in found:
                return cls(found)
        return cls({})

    @property
    def zero_offset(self) -> int:
        """What GPTQ's zeros were stored less."""
        second = self.raw.get("checkpoint_format") == "gptq_v2" or self.raw.get("packing_format") in _AUTO_ROUND_V2
        return 0 if second else 1

    def quark_dtypes(self) -> set[str]:
        """Every type that AMD's Quark says it stored weights in, for all layers, some, or those of a kind."""
        groups = [self.raw.get("global_quant_config")]
        for name in ("layer_quant_config", "layer_type_quant_config"):
            some = self.raw.get(name)
            groups += some.values() if isinstance(some, dict) else []
        found = [group.get("weight") for group in groups if isinstance(group, dict)]
        # More than one is quantised one after the other.
        steps = [step for weight in found for step in (weight if isinstance(weight, list) else [weight])]
        return {shorten(str(step.get("dtype"))) for step in steps if isinstance(step, dict)}


def is_foreign(names: Mapping[str, Any] | list[str]) -> bool:
    """Whether any of these tensors is stored in a way that MLX does not have."""
    return any(_split(name)[1] in _MARKERS for name in names)


def is_quantised(headers: Iterable[TensorHeader]) -> bool:
    """Whether any of these tensors is: config.json may have settings left over from what they were made of."""
    return any(_split(header.name)[1] in (_MARKERS | {"scales"}) or header.dtype == "F8_E4M3" for header in headers)


def to_mlx(weights: Mapping[str, mx.array], config: Mapping[str, Any]) -> dict[str, mx.array]:
    """Tensors in MLX's own modes, plain ones unchanged; only on the thread that owns MLX.

    Args:
        weights: Of one checkpoint, under any names; they stay on disk until they are used.
        config: Its config.json.
    Raises:
        CheckpointError: A module's tensors do not belong together, or are of a kind that is not known.
    """
    modules: dict[str, unpacking.Parts] = {}
    out: dict[str, mx.array] = {}
    for name, value in weights.items():
        path, part = _split(name)
        if part in _PARTS:
            modules.setdefault(path, {})[part] = value
        elif part not in _UNUSED:
            out[name] = value
    foreign = {path: parts for path, parts in modules.items() if _MARKERS & parts.keys()}
    settings = Settings.of(config)
    _check_method(settings, weights, foreign)
    _check_inputs(weights)
    torchao.check(weights, settings.raw)
    _check_program(weights)
    for path, parts in modules.items():
        if path not in foreign:
            out |= {f"{path}.{part}": value for part, value in parts.items()}
    # E4M3 that was cast to without a scale, which MLX reads as bytes; of its own tensors scales alone are bytes.
    cast = [name for name, value in out.items() if value.dtype == mx.uint8 and not name.endswith(".scales")]
    if not foreign and not cast:
        return out
    dtype = _dtype({name: value for name, value in out.items() if name not in cast}, foreign)
    out |= {name: mx.from_fp8(out[name], dtype=dtype) for name in cast}
    _read_small(foreign)
    for path, stored in foreign.items():
        try:
            parts = _convert(stored, settings, dtype)
        except (ArithmeticError, LookupError, ValueError) as error:
            shapes = {part: tuple(value.shape) for part, value in stored.items()}
            raise CheckpointError(f"{path}: expected quantised weights, found {shapes} ({error})") from error
        out |= {f"{path}.{part}": value for part, value in parts.items()}
    return {name: _cast(name, value, dtype) for name, value in out.items()}


# Read at once, for there may be one for every expert.
_SMALL_AT_ONCE = 256


def _read_small(modules: Mapping[str, unpacking.Parts]) -> None:
    """Read shapes, and which group each input belongs to; leave that out, in place, where groups follow one another."""
    orders = ("g_idx", "weight_g_idx")
    small = [(path, name) for path, parts in modules.items() for name in (*orders, "weight_shape") if name in parts]
    for start in range(0, len(small), _SMALL_AT_ONCE):
        some = small[start : start + _SMALL_AT_ONCE]
        mx.eval([modules[path][name] for path, name in some])
        for path, name in some:
            if name in orders and _follows(path, name, modules[path]):
                del modules[path][name]


def _follows(path: str, name: str, parts: unpacking.Parts) -> bool:
    """Whether groups follow one another; MLX does not look whether there are those that an order names."""
    order, scale = np.array(parts[name]), parts.get("scales", parts.get("weight_scale"))
    # AutoGPTQ has scales (groups, out), compressed-tensors (out, groups).
    groups = 1 if scale is None or scale.ndim < 2 else scale.shape[-2 if name == "g_idx" else -1]
    follow = np.arange(order.size) // max(1, -(-order.size // max(groups, 1)))
    if np.array_equal(order, follow) or (order == -1).all():
        return True
    if not (order.min() >= 0 and order.max() < groups):
        raise CheckpointError(f"{path}.{name}: expected 0 to {groups - 1}, found {order.min()} to {order.max()}")
    return False


def _split(name: str) -> tuple[str, str]:
    """A tensor's module and what it is of it."""
    if found := torchao.split(name):
        return found
    if match := _EXPERTS.match(name):
        part = match["part"]
        return match["path"], _EXPERT_PARTS.get(part, part)
    path, _, part = name.rpartition(".")
    return path, part


def _check_method(settings: Settings, weights: Mapping[str, mx.array], foreign: Mapping[str, Any]) -> None:
    method, packing = settings.raw.get("quant_method"), settings.raw.get("packing_format")
    if method == "auto-round":
        found, expected = f"packing_format {shorten(repr(packing))}", f"packing_format {', '.join(_AUTO_ROUND)}"
        # By its own name go also integers with powers of two as scales, in the tensors of MXFP4.
        kind = settings.raw.get("data_type", "int")
        known = packing in _AUTO_ROUND and (kind == "int" or packing not in _AUTO_ROUND_V2)
        found += "" if known or packing not in _AUTO_ROUND_V2 else f" of data_type {shorten(repr(kind))}"
    elif method == "quark":
        dtypes = sorted(settings.quark_dtypes())
        found, expected = f"{', '.join(dtypes)} of Quark", f"weights of dtype {' or '.join(_QUARK)}"
        known = set(dtypes) <= set(_QUARK)
    else:
        found, expected = shorten(repr(method)), f"quant_method {', '.join(METHODS)}"
        # ModelOpt has several names, for what it mixes.
        known = method is None or method in METHODS or str(method).startswith("modelopt_")
    # Left over beside plain weights, or beside MLX's own, it says nothing.
    strange = list(foreign) + [name for name, value in weights.items() if not _is_plain(name, value)]
    if strange and not known:
        raise CheckpointError(
            f"quantization_config: expected {expected}, found {found}, and tensors such as {strange[0]}; "
            "take the original checkpoint, or a conversion to MLX"
        )


def _check_inputs(weights: Mapping[str, mx.array]) -> None:
    """ModelOpt's AWQ and SmoothQuant scale what goes into a layer too, where nothing before it could take that up."""
    scaled = [name for name in weights if _split(name)[1] == "pre_quant_scale"]
    if scaled:
        raise CheckpointError(
            f"{scaled[0]}: expected layers whose inputs are taken as they are, found {len(scaled)} with a scale for "
            "them, as ModelOpt's AWQ and SmoothQuant have; take the original checkpoint, or a conversion to MLX"
        )


def _check_program(weights: Mapping[str, mx.array]) -> None:
    """A format that is not read, without settings that name it."""
    for name in weights:
        program = next((program for end, program in _PROGRAMS.items() if name.endswith(end)), None)
        if program:
            raise CheckpointError(
                f"{name}: expected weights as {', '.join(METHODS)} have them, found {program}'s; take the original "
                "checkpoint, or a conversion to MLX"
            )


def _is_plain(name: str, value: mx.array) -> bool:
    if mx.issubdtype(value.dtype, mx.floating):
        return True
    return name.endswith((".weight", ".scales")) and value.dtype == (
        mx.uint32 if name.endswith(".weight") else mx.uint8
    )


def _convert(parts: unpacking.Parts, settings: Settings, dtype: mx.Dtype) -> unpacking.Parts:
    scale = parts.get("weight_scale", parts.get("scales"))
    if "qweight" in parts:
        return _qweight(parts, settings, dtype)
    if "weight_scale_2" in parts or "weight_global_scale" in parts:
        # ModelOpt multiplies by the one, compressed-tensors divides by the other.
        given = parts.get("weight_scale_2")
        factor = 1.0 / parts["weight_global_scale"].astype(mx.float32) if given is None else given
        packed = parts["weight_packed" if "weight_packed" in parts else "weight"]
        return unpacking.nvfp4(packed, _of(scale), factor)
    if "weight_packed" in parts:
        packed, scale = parts["weight_packed"], _of(scale)
        if packed.dtype == mx.uint8:
            return unpacking.mxfp4(packed, scale)
        zero, order = parts.get("weight_zero_point"), parts.get("weight_g_idx")
        return unpacking.packed_integers(packed, scale, zero, order, _bits(packed, parts["weight_shape"]), dtype)
    weight, scale = parts["weight"], _of(parts.get("weight_scale_inv", scale))
    if weight.dtype == mx.int8:
        return unpacking.int8(weight, scale, parts.get("weight_zero_point"), dtype)
    if weight.dtype != mx.uint8:
        raise ValueError(f"expected bytes, found {weight.dtype}")
    return unpacking.fp8(weight, scale, dtype)


def _bits(packed: mx.array, shape: mx.array) -> int:
    """Of each of a module's integers: config.json has them too, by expressions that names have to match."""
    inputs = int(np.array(shape).reshape(-1)[-1])
    bits = packed.shape[-1] * 32 // inputs
    if not 1 <= bits <= 8 or -(-inputs * bits // 32) != packed.shape[-1]:
        raise ValueError(f"expected 1 to 8 bits for each of {inputs} inputs, found {packed.shape[-1]} words")
    return bits


def _of(scale: mx.array | None) -> mx.array:
    if scale is None:
        raise ValueError("no scale")
    return scale


def _qweight(parts: unpacking.Parts, settings: Settings, dtype: mx.Dtype) -> unpacking.Parts:
    """AWQ packs outputs, GPTQ inputs: what was not packed has the outputs' size."""
    weight, scales, zeros = parts["qweight"], parts["scales"], parts.get("qzeros")
    outputs = scales.shape[-1]
    if weight.shape[-1] == outputs and zeros is not None:
        bits = unpacking.gptq_bits(scales, zeros, settings.raw.get("bits"))
        return unpacking.gptq(weight, scales, zeros, parts.get("g_idx"), bits, settings.zero_offset, dtype)
    if weight.shape[-1] * 8 != outputs:
        raise ValueError(f"expected {outputs} outputs in words of 8, found {weight.shape[-1]}")
    return unpacking.awq(weight, scales, zeros, dtype)


_HALF = (mx.float16, mx.bfloat16)


def _dtype(plain: Mapping[str, mx.array], foreign: Mapping[str, unpacking.Parts]) -> mx.Dtype:
    """What the model computes in: as the norms, or as the scales of integers, where both have half precision."""
    norms = next((v.dtype for name, v in plain.items() if name.endswith("layernorm.weight")), mx.bfloat16)
    for parts in foreign.values():
        scale = parts.get("scales") if "qweight" in parts else parts.get("weight_scale")
        if norms in _HALF and scale is not None and scale.dtype in _HALF and "weight" not in parts:
            return scale.dtype
    return norms


def _cast(name: str, value: mx.array, dtype: mx.Dtype) -> mx.array:
    """MLX multiplies two kinds of half precision in float32, which would be slow; mlx-lm casts them alike."""
    if value.dtype == dtype or value.dtype not in _HALF or dtype not in _HALF or "vis" in name:
        return value
    return value.astype(dtype)


def loaded_bytes(
    headers: list[TensorHeader], config: Mapping[str, Any], read: Callable[[], Mapping[str, mx.array]]
) -> int:
    """Bytes of a checkpoint's tensors once they are loaded, without the MTP head.

    Args:
        read: Gives them, still on disk; only called if MLX has no such format.
    """
    if not is_foreign([header.name for header in headers]) and all(header.dtype != "F8_E4M3" for header in headers):
        return weight_bytes(headers)
    tensors = to_mlx(read(), config)
    names = canonical_names(tensors)
    return sum(value.nbytes for name, value in tensors.items() if not names[name].startswith("mtp."))
