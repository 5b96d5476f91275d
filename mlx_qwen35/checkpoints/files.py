"""The files of a checkpoint: its configuration, its weights, and what tells it from others."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_qwen35.checkpoints.adapters import adapter_files
from mlx_qwen35.checkpoints.config import ModelConfig, token_ids
from mlx_qwen35.checkpoints.reading import check_directory, is_file, read_json
from mlx_qwen35.errors import CheckpointError
from mlx_qwen35.paths import shorten

# The small trained checkpoint that comes with the package; see docs/box.md.
BOX = Path(__file__).parent.parent / "box"


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
        check_directory(directory)
        config = ModelConfig.from_file(directory / "config.json")
        path = directory / "generation_config.json"
        generation_config = read_json(path) if path.is_file() else {}
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
            names = sorted({str(name) for name in weight_map.values()})
            outside = [name for name in names if name != Path(name).name or not name.endswith(".safetensors")]
            if outside:
                raise CheckpointError(
                    f"{index_path}: expected names of safetensors files beside it, found {shorten(outside[0])!r}"
                )
            named = [self.directory / name for name in names]
            missing = [shorten(path.name) for path in named if not is_file(path)]
            if missing:
                raise CheckpointError(
                    f"{self.directory}: expected {len(named)} weight files, {len(missing)} missing: "
                    f"{shorten(', '.join(missing), 500)}"
                )
            return named
        found = sorted(filter(is_file, self.directory.glob("model*.safetensors")))
        if not found:
            others = sorted(path.name for path in self.directory.glob("*.bin"))
            hint = f" (only {', '.join(others)}; pickled weights are not read)" if others else ""
            raise CheckpointError(f"{self.directory}: expected model*.safetensors, found none{hint}")
        return found

    def fingerprint(self, adapter_path: str | Path | None = None, arithmetic: str = "") -> str:
        """A digest that tells this model from others: its config, and samples of all of its weights and its adapter.

        Large files are not read whole: beyond 8 MiB, the first 64 KiB of every 128th part count.

        Args:
            arithmetic: What else its numbers depend on.
        """
        digest = hashlib.blake2b(json.dumps(self.config.raw, sort_keys=True).encode(), digest_size=16)
        digest.update(arithmetic.encode())
        adapters = [] if adapter_path is None else adapter_files(Path(adapter_path).expanduser())
        for path in [*self.weight_files(), *adapters]:
            size = path.stat().st_size
            digest.update(str(size).encode())
            with path.open("rb") as file:
                for offset in range(0, size, max(2**16, size // 128)):
                    file.seek(offset)
                    digest.update(file.read(2**16))
        return digest.hexdigest()
