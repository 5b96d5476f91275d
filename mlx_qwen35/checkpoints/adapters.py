"""LoRA, DoRA and full adapters onto a model: of mlx_lm.lora, of mlx-vlm, and of peft."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_qwen35.checkpoints.headers import read_headers
from mlx_qwen35.checkpoints.reading import is_file, read_json
from mlx_qwen35.errors import AdapterError, CheckpointError

_CONFIG = "adapter_config.json"
# mlx-lm's, mlx-vlm's other one, and peft's.
_FILES = ("adapters.safetensors", "weights.safetensors", "adapter_model.safetensors")


def adapter_files(directory: Path) -> list[Path]:
    """The files of an adapter, settings first.

    Raises:
        AdapterError: They are missing.
    """
    found = [directory / name for name in _FILES if is_file(directory / name)]
    if not is_file(directory / _CONFIG):
        raise AdapterError(f"{directory}: expected {_CONFIG}, found none")
    if not found:
        pickled = (
            " (only adapter_model.bin; pickled weights are not read)"
            if is_file(directory / "adapter_model.bin")
            else ""
        )
        raise AdapterError(f"{directory}: expected {_FILES[0]} or {_FILES[2]}, found none{pickled}")
    return [directory / _CONFIG, found[0]]


def load_adapter(model: Any, directory: Path) -> None:
    """Apply an adapter.

    Raises:
        AdapterError: Files are missing, its tensors are not those that its config asks for, or it asks for something
            that is not computed here.
    """
    path, weights = adapter_files(directory)
    try:
        config = read_json(path)
        names = {header.name for header in read_headers([weights])}
    except CheckpointError as error:
        raise AdapterError(str(error)) from error
    try:
        if "peft_type" in config:
            from mlx_qwen35.checkpoints.peft import load_peft

            load_peft(model, directory, config)
        elif "lora_parameters" in config or config.get("fine_tune_type") == "full":
            _load_mlx(model, directory, weights, config, names)
        elif {"rank", "alpha"} <= config.keys():
            _load_first_mlx_vlm(model, directory, weights, config)
        else:
            raise AdapterError(f"{path}: expected settings of mlx_lm.lora, mlx-vlm or peft, found none of theirs")
    except AdapterError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise AdapterError(f"{directory}: the adapter does not fit: {error}") from error
    # mlx-lm's DoRA does not know of them.
    scaled = [path for path, module in model.named_modules() if "m" in module and "global_scale" in module.linear]
    if scaled:
        raise AdapterError(
            f"{directory}: expected layers that DoRA is computed for, found nvfp4 with global scales: {_listed(scaled)}"
        )
    model.eval()


def _load_mlx(model: Any, directory: Path, weights: Path, config: Mapping[str, Any], names: set[str]) -> None:
    """Of mlx_lm.lora, and of mlx-vlm, which names layers likewise."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers

    kind = config.get("fine_tune_type", "lora")
    if kind != "full":
        linear_to_lora_layers(model, config["num_layers"], config["lora_parameters"], use_dora=kind == "dora")
        _mend_sizes(model)
    parameters: dict[str, Any] = dict(tree_flatten(model.parameters()))
    asked = {name for name in parameters if kind == "full" or name.rsplit(".", 1)[-1] in ("lora_a", "lora_b", "m")}
    if kind != "full" and asked - names:
        raise AdapterError(f"{directory}: {_CONFIG} asks for tensors that are missing: {_listed(asked - names)}")
    if names - asked:
        raise AdapterError(f"{directory}: the adapter does not fit: no such parameters: {_listed(names - asked)}")
    stored: dict[str, Any] = mx.load(str(weights))  # type: ignore[assignment]
    _set(model, stored, parameters, directory)


def _mend_sizes(model: Any) -> None:
    """Of DoRA over 3, 5 and 6 bits, for which mlx-lm takes a word to hold 32 // bits numbers."""
    import mlx.core as mx
    from mlx_lm.tuner.dora import DoRALinear

    for _, module in model.named_modules():
        if isinstance(module, DoRALinear) and "scales" in module.linear:
            inputs = module.linear.weight.shape[-1] * 32 // module.linear.bits
            module.lora_a = mx.zeros((inputs, module.lora_a.shape[-1]))


_FIRST = re.compile(r"(?P<path>.+)\.(?P<part>A|B)$")


def _load_first_mlx_vlm(model: Any, directory: Path, weights: Path, config: Mapping[str, Any]) -> None:
    """Of mlx-vlm's first format: rank and alpha, and for each layer `A` (in, rank) and `B` (rank, out)."""
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_unflatten
    from mlx_lm.tuner.lora import LoRALinear

    stored: dict[str, Any] = {}
    for name, value in mx.load(str(weights)).items():  # type: ignore[union-attr]
        match = _FIRST.match(name)
        if match is None:
            raise AdapterError(f"{directory}: the adapter does not fit: no such parameter: {name}")
        stored[f"{match['path']}.lora_{match['part'].lower()}"] = value
    modules = dict(model.named_modules())
    paths = sorted({name.rpartition(".")[0] for name in stored})
    strange = [path for path in paths if path not in modules or not hasattr(modules[path], "weight")]
    halves = [path for path in paths if f"{path}.lora_a" not in stored or f"{path}.lora_b" not in stored]
    if strange or halves:
        what = "no such layers" if strange else "halves of"
        raise AdapterError(f"{directory}: the adapter does not fit: {what}: {_listed(strange or halves)}")
    rank = int(config["rank"])
    new = [(path, LoRALinear.from_base(modules[path], r=rank, scale=config["alpha"] / rank)) for path in paths]
    model.update_modules(tree_unflatten(new))
    _set(model, stored, dict(tree_flatten(model.parameters())), directory)


def _set(model: Any, stored: Mapping[str, Any], parameters: Mapping[str, Any], directory: Path) -> None:
    shapes = [
        f"{name}: expected {tuple(parameters[name].shape)}, found {tuple(value.shape)}"
        for name, value in stored.items()
        if parameters[name].shape != value.shape
    ]
    if shapes:
        raise AdapterError(f"{directory}: the adapter does not fit: {'; '.join(shapes)}")
    # Not the model's own, which reports what a whole checkpoint misses.
    model.load_weights(list(stored.items()), strict=False)


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
