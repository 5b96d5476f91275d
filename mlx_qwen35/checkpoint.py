"""Find a checkpoint or download it, and load it."""

import hashlib
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_qwen35.config import ModelConfig, read_json, token_ids
from mlx_qwen35.errors import AdapterError, CheckpointError, OptionError
from mlx_qwen35.memory import read_headers
from mlx_qwen35.paths import expand

# The small trained checkpoint that comes with the package; see docs/box.md.
BOX = Path(__file__).parent / "box"

# Only data: no Python file of a checkpoint is ever fetched or run.
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory on disk.

    Args:
        directory: Where it is.
        config: Its validated config.json.
        generation_config: generation_config.json, validated; empty if there is none.
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
        config = ModelConfig.from_file(directory / "config.json")
        path = directory / "generation_config.json"
        generation_config = read_json(path) if path.is_file() else {}
        if (directory / "hf_quant_config.json").is_file():
            raise CheckpointError(
                f"{directory}: only MLX's own quantisation is read, found hf_quant_config.json; "
                "use the unquantised checkpoint, or an MLX conversion"
            )
        return cls(directory, config, generation_config)

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Every id that one of its configuration files calls the end of a sequence."""
        return self.config.eos_token_ids | token_ids(self.generation_config.get("eos_token_id"))

    def weight_files(self) -> list[Path]:
        """The safetensors files: those that the index names, or model*.safetensors without one.

        Raises:
            CheckpointError: There are none, or the index names one that is not there.
        """
        index_path = self.directory / "model.safetensors.index.json"
        if index_path.is_file():
            weight_map = read_json(index_path).get("weight_map")
            if not isinstance(weight_map, dict):
                raise CheckpointError(f"{index_path}: expected weight_map, found none")
            named = sorted({self.directory / str(name) for name in weight_map.values()})
            missing = [path.name for path in named if not path.is_file()]
            if missing:
                raise CheckpointError(
                    f"{self.directory}: expected {len(named)} weight files, {len(missing)} missing: "
                    f"{', '.join(missing)}"
                )
            return named
        found = sorted(self.directory.glob("model*.safetensors"))
        if not found:
            others = sorted(path.name for path in self.directory.glob("*.bin"))
            hint = f" (only {', '.join(others)}; pickled weights are not read)" if others else ""
            raise CheckpointError(f"{self.directory}: expected model*.safetensors, found none{hint}")
        return found

    def fingerprint(self, adapter_path: str | Path | None = None) -> str:
        """A digest that tells this model from others: its config, and samples of all of its weights and its adapter.

        Large files are not read whole: beyond 8 MiB, the first 64 KiB of every 128th part count.
        """
        digest = hashlib.blake2b(json.dumps(self.config.raw, sort_keys=True).encode(), digest_size=16)
        adapter = None if adapter_path is None else Path(adapter_path).expanduser()
        adapters = [] if adapter is None else [adapter / "adapter_config.json", adapter / "adapters.safetensors"]
        for path in [*self.weight_files(), *adapters]:
            size = path.stat().st_size
            digest.update(str(size).encode())
            with path.open("rb") as file:
                for offset in range(0, size, max(2**16, size // 128)):
                    file.seek(offset)
                    digest.update(file.read(2**16))
        return digest.hexdigest()

    def mtp_files(self) -> list[Path]:
        """Files beside the weights that some conversions put the multi-token-prediction module into."""
        weights = set(self.weight_files())
        return sorted(path for path in self.directory.glob("mtp*.safetensors") if path not in weights)


def find_checkpoint(path_or_hub_id: str | Path, *, revision: str | None = None) -> Path:
    """A local directory as it is, or a hub repository through huggingface_hub's cache.

    Args:
        revision: Branch, tag or commit of a hub repository.
    Raises:
        CheckpointError: Neither exists, or the hub cannot be reached and nothing is cached.
        OptionError: A revision of a local directory.
    """
    path = expand(path_or_hub_id, CheckpointError, "model")
    if path.is_dir():
        if revision is not None:
            raise OptionError(f"revision: expected only with a hub id, found {revision} with the directory {path}")
        return path
    name = str(path_or_hub_id)
    if path.exists():
        raise CheckpointError(f"{path}: expected a directory with config.json, found a file")
    if isinstance(path_or_hub_id, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise CheckpointError(f"{name}: expected an existing directory or a hub id like 'owner/name'")
    return _download(name, revision)


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except GatedRepoError as error:
        reason, cause = "the repository is gated: accept its terms on the hub and log in with `hf auth login`", error
    except RevisionNotFoundError as error:
        reason, cause = f"the repository has no revision {revision}", error  # type: ignore[assignment]
    except (RepositoryNotFoundError, HFValidationError) as error:
        reason, cause = "no such directory, and no such repository on the hub", error  # type: ignore[assignment]
    except LocalEntryNotFoundError as error:
        reason, cause = "not in the local cache, and the hub cannot be reached", error  # type: ignore[assignment]
    except Exception as error:  # whatever its HTTP client and the disk raise
        reason, cause = "the download failed", error  # type: ignore[assignment]
    detail = str(cause).strip().splitlines()
    raise CheckpointError(f"{name}: {reason} ({type(cause).__name__}{': ' + detail[0] if detail else ''})") from cause


def load_checkpoint(
    checkpoint: Checkpoint,
    *,
    adapter_path: str | Path | None = None,
    exact: bool = False,
    gated_delta: str | None = None,
) -> Any:
    """Build the patched model with lazy weights; only on the thread that owns MLX.

    Args:
        adapter_path: A directory that mlx_lm.lora wrote.
        exact, gated_delta: See `patches.qwen3_5.Model`.
    Returns:
        A `patches.qwen3_5.Model`; `materialise` reads its weights.
    Raises:
        OptionError: There is no such `gated_delta`, or it is not exact.
        CheckpointError: A weight file is damaged, or the tensors do not fit config.json; lists them.
        AdapterError: See `load_adapter`.
    """
    # Both are slow to import.
    import mlx.nn as nn
    from mlx_lm.utils import infer_quant_config

    from mlx_qwen35.patches.qwen3_5 import Model

    files = checkpoint.weight_files()
    model = Model(checkpoint.config, exact=exact, gated_delta=gated_delta)
    with _named(checkpoint.directory):
        weights = model.sanitize(read_tensors(files))

        def stored_quantised(path: str, module: nn.Module) -> bool | dict[str, Any]:
            if not hasattr(module, "to_quantized") or f"{path}.scales" not in weights:
                return False
            # Its shapes say how a tensor was quantised, whatever the names in config.json.
            return dict(infer_quant_config(path, module, weights))

        nn.quantize(model, class_predicate=stored_quantised)
        model.eval()
        model.load_weights(list(weights.items()))
    _check_backend(model, checkpoint.directory)
    if adapter_path is not None:
        load_adapter(model, expand(adapter_path, AdapterError, "adapter_path"))
    return model


def read_tensors(files: list[Path]) -> dict[str, Any]:
    """The tensors of some safetensors files, left on disk until they are used."""
    import mlx.core as mx

    tensors: dict[str, Any] = {}
    for path in files:
        tensors.update(mx.load(str(path)))  # type: ignore[arg-type]
    return tensors


def materialise(model: Any, directory: Path, chunk_bytes: int = 2**30) -> Generator[None, None, None]:
    """Read a lazily loaded model's weights, about a gigabyte a step; only on the thread that owns MLX.

    Raises:
        CheckpointError: A weight file is damaged.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten

    chunk: list[Any] = []
    with _named(directory):
        for value in dict(tree_flatten(model.parameters())).values():
            chunk.append(value)
            if sum(part.nbytes for part in chunk) >= chunk_bytes:
                mx.eval(chunk)
                chunk = []
                yield
        mx.eval(chunk)


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
