"""LoRA adapters onto a model."""

from pathlib import Path
from typing import Any

from mlx_qwen35.checkpoints.headers import read_headers
from mlx_qwen35.checkpoints.reading import read_json
from mlx_qwen35.errors import AdapterError, CheckpointError


def load_adapter(model: Any, directory: Path) -> None:
    """Apply a LoRA or DoRA adapter made by mlx_lm.lora.

    Raises:
        AdapterError: Files are missing, or its tensors are not those that its config asks for.
    """
    from mlx.utils import tree_flatten
    from mlx_lm.utils import load_adapters

    for name in ("adapter_config.json", "adapters.safetensors"):
        if not (directory / name).is_file():
            raise AdapterError(f"{directory}: expected {name}, found none")
    try:
        config = read_json(directory / "adapter_config.json")
        found = {header.name for header in read_headers([directory / "adapters.safetensors"])}
    except CheckpointError as error:
        raise AdapterError(str(error)) from error
    try:
        load_adapters(model, str(directory))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise AdapterError(f"{directory}: the adapter does not fit: {error}") from error
    if config.get("fine_tune_type", "lora") != "full":
        leaves = ("lora_a", "lora_b", "m")
        asked = {name for name in dict(tree_flatten(model.parameters())) if name.rsplit(".", 1)[-1] in leaves}
        if asked != found:
            missing = ", ".join(sorted(asked - found))
            raise AdapterError(f"{directory}: adapter_config.json asks for tensors that are missing: {missing}")
    model.eval()
