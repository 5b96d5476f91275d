"""LoRA of peft's over stacked experts, which are parameters in transformers and no layers (`target_parameters`)."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tuner.lora import LoRASwitchLinear

from mlx_qwen35.errors import AdapterError

# Around both of a layer's stacks peft puts one wrapper inside the other, and names neither by its stack.
_STACK = re.compile(r"(?P<mlp>.*\.mlp)\.experts(\.base_layer)*$")
_PROJECTIONS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


def is_stack(path: str) -> bool:
    """Whether the layer at a canonical path is a wrapper around stacked experts."""
    return _STACK.match(path) is not None


def which_stack(path: str, down: mx.array, up: mx.array, modules: Mapping[str, Any]) -> tuple[str, str]:
    """A wrapper's layer and stack (`gate_up_proj` or `down_proj`), by the sizes of its update.

    Args:
        down, up: `lora_A` (rank x experts, in) and `lora_B` (out, rank x experts).
        modules: Of the model, by path.
    Raises:
        AdapterError: There are no such experts.
    """
    match = _STACK.match(path)
    mlp = "" if match is None else match["mlp"]
    for stack, projections in _PROJECTIONS.items():
        found = [modules.get(f"{mlp}.switch_mlp.{name}") for name in projections]
        if None in found:
            raise AdapterError(f"{path}: expected experts in this layer of the model, found none")
        sizes = (found[0].input_dims, sum(module.output_dims for module in found))  # type: ignore[union-attr]
        if (down.shape[-1], up.shape[0]) == sizes:
            return mlp, stack
    found_sizes = (tuple(down.shape), tuple(up.shape))
    raise AdapterError(f"{path}: expected lora_A and lora_B of the sizes of the model's experts, found {found_sizes}")


def adapted(
    mlp: str, stack: str, down: mx.array, up: mx.array, rank: int, scale: float, modules: Mapping[str, Any]
) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a stack with its update, by path.

    Raises:
        AdapterError: The update is not of this rank.
    Source:
        peft 0.21, tuners/lora/layer.py, ParamWrapper.get_delta_weight.
    """
    projections = _PROJECTIONS[stack]
    paths = [f"{mlp}.switch_mlp.{name}" for name in projections]
    count = modules[paths[0]].num_experts
    if {down.shape[0], up.shape[1]} != {rank * count}:
        raise AdapterError(
            f"{mlp}.experts.{stack}: expected updates of rank {rank} for {count} experts, "
            f"found {tuple(down.shape)} and {tuple(up.shape)}"
        )
    lora_a = down.reshape(count, rank, -1)
    # The experts come last there.
    lora_b = up.reshape(-1, rank, count).transpose(2, 0, 1)
    for path, part in zip(paths, mx.split(lora_b, len(paths), axis=1), strict=True):
        new = LoRASwitchLinear.from_base(modules[path], r=rank, scale=scale)
        new.lora_a, new.lora_b = lora_a, mx.contiguous(part)
        yield path, new


def missing(targets: Any, found: Iterable[tuple[str, str]], modules: Mapping[str, Any]) -> list[str]:
    """The stacks that `target_parameters` asks for, and that have no update.

    Args:
        found: Those that have one, as `which_stack` tells them.
    """
    names = [str(target) for target in targets] if isinstance(targets, list) else []
    layers = [path.removesuffix(".switch_mlp.down_proj") for path in modules if path.endswith(".switch_mlp.down_proj")]
    stacks = {(mlp, stack): f"{mlp}.experts.{stack}" for mlp in layers for stack in _PROJECTIONS}
    asked = {key: path for key, path in stacks.items() if any(path.endswith(f".{name}") for name in names)}
    return [path for key, path in asked.items() if key not in set(found)]
