"""Find a checkpoint or download it, and load it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_qwen35.config import ModelConfig, read_json, token_ids
from mlx_qwen35.errors import AdapterError, CheckpointError

# Only data: no Python file of a checkpoint is ever fetched or run.
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory on disk.

    Args:
        directory: Where it is.
        config: Its validated config.json.
        generation_config: generation_config.json, empty if there is none.
    """

    directory: Path
    config: ModelConfig
    generation_config: dict[str, Any]

    @classmethod
    def open(cls, directory: Path) -> "Checkpoint":
        """Read a directory's configuration; no tensor is read.

        Raises:
            CheckpointError: Files are missing or malformed.
        """
        generation_path = directory / "generation_config.json"
        return cls(
            directory=directory,
            config=ModelConfig.from_file(directory / "config.json"),
            generation_config=read_json(generation_path) if generation_path.is_file() else {},
        )

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Every id that one of its configuration files calls the end of a sequence."""
        return self.config.eos_token_ids | token_ids(self.generation_config.get("eos_token_id"))

    def weight_files(self) -> list[Path]:
        """The safetensors files, all present.

        Raises:
            CheckpointError: There are none, or the index names one that is not there.
        """
        index_path = self.directory / "model.safetensors.index.json"
        found = sorted(self.directory.glob("model*.safetensors"))
        if index_path.is_file():
            weight_map = read_json(index_path).get("weight_map")
            if not isinstance(weight_map, dict):
                raise CheckpointError(f"{index_path}: expected weight_map, found none")
            named = {self.directory / str(name) for name in weight_map.values()}
            missing = sorted(path.name for path in named if not path.is_file())
            if missing:
                raise CheckpointError(
                    f"{self.directory}: expected {len(named)} weight files, {len(missing)} missing: "
                    f"{', '.join(missing)}"
                )
        if not found:
            others = sorted(path.name for path in self.directory.glob("*.bin"))
            hint = f" (only {', '.join(others)}; pickled weights are not read)" if others else ""
            raise CheckpointError(f"{self.directory}: expected model*.safetensors, found none{hint}")
        return found


def find_checkpoint(path_or_hub_id: str | Path, *, revision: str | None = None) -> Path:
    """A local directory as it is, or a hub repository through huggingface_hub's cache.

    Args:
        revision: Branch, tag or commit of a hub repository.
    Raises:
        CheckpointError: Neither exists, or the hub cannot be reached and nothing is cached.
    """
    path = Path(path_or_hub_id).expanduser()
    if path.is_dir():
        return path
    name = str(path_or_hub_id)
    if path.exists():
        raise CheckpointError(f"{path}: expected a directory with config.json, found a file")
    if isinstance(path_or_hub_id, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise CheckpointError(f"{name}: expected an existing directory or a hub id like 'owner/name'")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(f"{name}: no such directory, and no such repository on the hub: {error}") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{name}: not in the local cache and the hub cannot be reached "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error


def load_checkpoint(checkpoint: Checkpoint, *, adapter_path: str | Path | None = None, lazy: bool = False) -> Any:
    """Build the patched model and load its weights; only on the thread that owns MLX.

    Args:
        adapter_path: A directory that mlx_lm.lora wrote.
        lazy: Leave the weights on disk until they are used.
    Returns:
        A `patches.qwen3_5.Model`.
    Raises:
        CheckpointError: A weight file is damaged, or the tensors do not fit config.json; lists them.
        AdapterError: See `load_adapter`.
    """
    import mlx.core as mx
    from mlx_lm.utils import load_model

    from mlx_qwen35.patches.qwen3_5 import Model

    checkpoint.weight_files()
    with _named(checkpoint.directory):
        model, _ = load_model(checkpoint.directory, lazy=True, get_model_classes=lambda config: (Model, ModelConfig))
    _check_backend(model, checkpoint.directory)
    if adapter_path is not None:
        load_adapter(model, Path(adapter_path).expanduser())
    if not lazy:
        with _named(checkpoint.directory):
            mx.eval(model.parameters())
    return model


def load_adapter(model: Any, directory: Path) -> None:
    """Apply a LoRA or DoRA adapter made by mlx_lm.lora.

    Raises:
        AdapterError: Files are missing, or its tensors do not fit the model.
    """
    from mlx_lm.utils import load_adapters

    for name in ("adapter_config.json", "adapters.safetensors"):
        if not (directory / name).is_file():
            raise AdapterError(f"{directory}: expected {name}, found none")
    try:
        load_adapters(model, str(directory))
    except (KeyError, ValueError, AttributeError, RuntimeError, json.JSONDecodeError) as error:
        raise AdapterError(f"{directory}: the adapter does not fit: {error}") from error
    model.eval()


def _check_backend(model: Any, directory: Path) -> None:
    """MLX's CPU backend has no expert multiplication in half precision; it would fail in mid-answer."""
    import mlx.core as mx
    from mlx_lm.models.switch_layers import SwitchLinear

    if mx.default_device() != mx.Device(mx.cpu):
        return
    if any(
        isinstance(module, SwitchLinear) and module.weight.dtype != mx.float32 for _, module in model.named_modules()
    ):
        raise CheckpointError(
            f"{directory}: expected float32 or quantised experts on the CPU backend, found half precision; "
            "convert it with --dtype float32 or --bits 8"
        )


@contextmanager
def _named(directory: Path) -> Iterator[None]:
    """Say which checkpoint an error of the loading libraries is about."""
    try:
        yield
    except CheckpointError as error:
        raise type(error)(f"{directory}: {error}") from error
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{directory}: the weights cannot be loaded: {error}") from error
