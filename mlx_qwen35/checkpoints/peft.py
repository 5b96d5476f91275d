"""LoRA adapters as the peft library writes them, onto a model's layers."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear

from mlx_qwen35.checkpoints import peft_experts
from mlx_qwen35.checkpoints.dequantising import dequantise
from mlx_qwen35.checkpoints.layouts import arrange_experts, canonical_name, from_transformers
from mlx_qwen35.checkpoints.untying import untie
from mlx_qwen35.errors import AdapterError, CheckpointError

FILE = "adapter_model.safetensors"

_LORA = re.compile(
    r"(?P<path>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(\.\w+)?(\.weight)?$"
)
# Settings that change what is computed, with the values that mean plain LoRA, or DoRA.
_ARITHMETIC: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "megatron_config": (None,),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (False, None),
    "arrow_config": (None,),
    "use_bdlora": (False, None),
    "kasa_config": (None,),
    "monteclora_config": (None,),
}
# These start from other base weights than those of the checkpoint.
_OWN_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass
class _Layer:
    """What is stored of one layer: `lora_A` (rank, in), `lora_B` (out, rank); of an embedding, its own two.

    Args:
        name: As transformers calls the layer.
    """

    name: str
    parts: dict[str, mx.array] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing but, perhaps, a magnitude."""
        kinds = {part for part in self.parts if part != "lora_magnitude_vector"}
        return kinds in ({"lora_A", "lora_B"}, {"lora_embedding_A", "lora_embedding_B"})


class _Lookup(LoRAEmbedding):  # type: ignore[misc]
    """mlx-lm's, for an embedding that is the head too: peft changes what is looked up, and not the head."""

    def as_linear(self, x: mx.array) -> mx.array:
        """(..., dims) to (..., vocab_size)."""
        return self.embedding.as_linear(x)  # type: ignore[no-any-return]


def load_peft(model: nn.Module, directory: Path, config: Mapping[str, Any]) -> None:
    """Put the adapter's layers in place of a model's.

    Args:
        config: Its adapter_config.json.
    Raises:
        AdapterError: It asks for something that is not computed here, or its tensors are not those that it asks for.
    """
    _check_settings(config, directory)
    layers, plain = _read(directory / FILE)
    _untie(model, layers, plain, config)
    modules = dict(model.named_modules())  # type: ignore[no-untyped-call]
    stacks = {path: layers.pop(path) for path in list(layers) if peft_experts.is_stack(path)}
    unknown = [path for path in layers if not isinstance(modules.get(path), _LAYERS)]
    broken = [path for path, layer in (layers | stacks).items() if not layer.complete]
    missing = sorted(_expected(config, modules, layers) - layers.keys())
    for what, paths in (("no such layers", unknown), ("halves of", broken), ("no tensors for", missing)):
        if paths:
            raise AdapterError(f"{directory}: the adapter does not fit: {what} {', '.join(paths)}")
    new = [(path, _adapted(path, modules[path], layer, config)) for path, layer in layers.items()]
    new += _adapted_stacks(directory, modules, stacks, config)
    # An embedding's own weights come along with its update; a quantised one keeps what it has.
    kept = {f"{path}.weight" for path in layers if "scales" in modules[path]}
    _replace_weights(model, {name: value for name, value in plain.items() if name not in kept}, directory)
    model.update_modules(tree_unflatten(new))


_HEAD, _EMBEDDING = "language_model.lm_head", "language_model.model.embed_tokens"


def _untie(model: nn.Module, layers: dict[str, _Layer], plain: dict[str, mx.array], config: Mapping[str, Any]) -> None:
    """Two matrices of a checkpoint's one where peft trained a head or an embedding by itself; in place."""
    decoder: Any = model.get("language_model")
    if decoder is None or not decoder.args.tie_word_embeddings:
        return
    if config.get("ensure_weight_tying"):
        # Trained as one, and saved under both names.
        layers.pop(_HEAD, None)
        plain.pop(f"{_HEAD}.weight", None)
    # An adapted embedding's weights come along as they were.
    elif (
        _HEAD in layers or f"{_HEAD}.weight" in plain or (f"{_EMBEDDING}.weight" in plain and _EMBEDDING not in layers)
    ):
        untie(decoder)


def _adapted_stacks(
    directory: Path, modules: Mapping[str, Any], layers: Mapping[str, _Layer], config: Mapping[str, Any]
) -> list[tuple[str, nn.Module]]:
    """Stacked experts with their updates."""
    new: list[tuple[str, nn.Module]] = []
    found: list[tuple[str, str]] = []
    for path, layer in layers.items():
        down, up = layer.parts["lora_A"], layer.parts["lora_B"]
        mlp, stack = peft_experts.which_stack(path, down, up, modules)
        found.append((mlp, stack))
        name = f"{layer.name.replace('.base_layer', '')}.{stack}"
        rank = _pattern(config, "r", "rank_pattern", name)
        scale = _pattern(config, "lora_alpha", "alpha_pattern", name) / _root(rank, config)
        new += peft_experts.adapted(mlp, stack, down, up, int(rank), scale, modules)
    if missing := peft_experts.missing(config.get("target_parameters"), found, modules):
        raise AdapterError(f"{directory}: the adapter does not fit: no tensors for {', '.join(missing)}")
    return new


_LAYERS = (nn.Linear, nn.QuantizedLinear, nn.Embedding, nn.QuantizedEmbedding)


def _check_settings(config: Mapping[str, Any], directory: Path) -> None:
    problems = [
        f"{name}: expected {' or '.join(map(repr, allowed))}, found {config[name]!r}"
        for name, allowed in _ARITHMETIC.items()
        if config.get(name, allowed[0]) not in allowed
    ]
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_OWN_BASE):
        problems.append(f"init_lora_weights: expected the checkpoint's own weights to start from, found {start!r}")
    for name in ("r", "lora_alpha"):
        value = config.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            problems.append(f"{name}: expected a number above 0, found {value!r}")
    if problems:
        raise AdapterError(f"{directory / 'adapter_config.json'}: " + "; ".join(problems))


def _read(file: Path) -> tuple[dict[str, _Layer], dict[str, mx.array]]:
    """The adapter's layers by canonical path, and the tensors that stand in place of the checkpoint's."""
    layers: dict[str, _Layer] = {}
    plain: dict[str, mx.array] = {}
    for name, value in mx.load(str(file)).items():  # type: ignore[union-attr]
        short = name.removeprefix("base_model.model.")
        match = _LORA.match(short)
        try:
            if match:
                path = canonical_name(f"{match['path']}.").removesuffix(".")
                layers.setdefault(path, _Layer(match["path"])).parts[match["part"]] = value
            else:
                # An adapted layer's own weights, which come along with embeddings.
                plain[canonical_name(short.replace(".base_layer.", "."))] = value
        except CheckpointError as error:
            raise AdapterError(f"{file}: {error}") from error
    return layers, plain


def _expected(config: Mapping[str, Any], modules: Mapping[str, Any], layers: Mapping[str, _Layer]) -> set[str]:
    """The layers that peft would have adapted, where the settings say so in a few words."""
    names = config.get("target_modules")
    chosen = ("exclude_modules", "layers_to_transform", "layers_pattern")
    if not isinstance(names, list) or any(config.get(name) for name in chosen):
        return set()
    # An adapter of the decoder alone was trained without a tower.
    rooms = tuple({path.split(".")[0] + "." for path in layers})
    return {
        path
        for path, module in modules.items()
        if isinstance(module, _LAYERS) and path.startswith(rooms) and any(path.endswith(f".{name}") for name in names)
    }


def _adapted(path: str, module: Any, layer: _Layer, config: Mapping[str, Any]) -> nn.Module:
    """A layer with its update."""
    parts = layer.parts
    embedding = "lora_embedding_A" in parts
    down = parts["lora_embedding_A" if embedding else "lora_A"]
    up = parts["lora_embedding_B" if embedding else "lora_B"]
    rank = down.shape[0]
    size = _size(module)
    asked = _pattern(config, "r", "rank_pattern", layer.name)
    if down.shape != (rank, size[0]) or up.shape != (size[1], rank) or rank != asked:
        raise AdapterError(
            f"{path}: expected lora_A ({asked:g}, {size[0]}) and lora_B ({size[1]}, {asked:g}), "
            f"found {tuple(down.shape)} and {tuple(up.shape)}"
        )
    magnitude = parts.get("lora_magnitude_vector")
    if (magnitude is not None) != bool(config.get("use_dora")) or (embedding and magnitude is not None):
        raise AdapterError(f"{path}: expected a magnitude where use_dora is set, in a linear layer, found otherwise")
    scale = _pattern(config, "lora_alpha", "alpha_pattern", layer.name) / _root(rank, config)
    if embedding:
        kind: Any = LoRAEmbedding if config.get("ensure_weight_tying") else _Lookup
        new = kind(size[0], size[1], r=rank, scale=scale)
        new.embedding = module
    else:
        new = (LoRALinear if magnitude is None else DoRALinear).from_base(module, r=rank, scale=scale)
    new.lora_a, new.lora_b = mx.contiguous(down.T), mx.contiguous(up.T)
    if magnitude is not None:
        new.m = magnitude.reshape(-1)
    return new  # type: ignore[no-any-return]


def _root(rank: float, config: Mapping[str, Any]) -> float:
    return math.sqrt(rank) if config.get("use_rslora") else rank


def _size(module: Any) -> tuple[int, int]:
    """What goes in and what comes out."""
    first, second = module.weight.shape
    if hasattr(module, "bits"):
        second = second * 32 // module.bits
    return (first, second) if isinstance(module, nn.Embedding | nn.QuantizedEmbedding) else (second, first)


def _pattern(config: Mapping[str, Any], default: str, patterns: str, name: str) -> float:
    """A number of one layer: as peft, the first pattern that fits the end of its name."""
    found = config.get(patterns)
    for pattern, value in (found if isinstance(found, dict) else {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return float(value)
    return float(config[default])


def _replace_weights(model: nn.Module, plain: Mapping[str, mx.array], directory: Path) -> None:
    """Whole weights (`modules_to_save`), which are transformers' own, in place of the checkpoint's."""
    stored = arrange_experts(dict(plain))
    # These are not quantised, where the checkpoint's may be.
    paths = {name.removesuffix(".weight") for name in stored}
    modules = dict(model.named_modules())  # type: ignore[no-untyped-call]
    own = {id(module) for path, module in modules.items() if path in paths}
    dequantise(model, modules["language_model.model.norm"].weight.dtype, only=lambda module: id(module) in own)
    parameters: dict[str, Any] = dict(tree_flatten(model.parameters()))  # type: ignore[no-untyped-call]
    # In the model's precision, as peft loads what it trained in float32: all that follows would be computed in another.
    stored = {
        name: value.astype(parameters[name].dtype) if name in parameters else value for name, value in stored.items()
    }
    weights = {name: from_transformers(name, value) for name, value in stored.items()}
    strange = [
        name for name, value in weights.items() if name not in parameters or parameters[name].shape != value.shape
    ]
    if strange:
        raise AdapterError(
            f"{directory}: the adapter does not fit: expected plain weights of the same shape for {', '.join(strange)}"
        )
    model.load_weights(list(weights.items()), strict=False)
    offsets = getattr(model, "_half_offsets", {})
    for name, value in stored.items():
        # The checkpoint's are in use no longer.
        offsets.pop(name, None)
        if value.ndim == 1 and value.itemsize == 2 and weights[name] is not value:
            offsets[name] = value
