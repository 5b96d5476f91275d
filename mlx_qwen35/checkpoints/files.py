"""The files of a checkpoint: its configuration, its weights, and what tells it from others."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_qwen35.checkpoints.adapters import adapter_files
from mlx_qwen35.checkpoints.config import ModelConfig, token_ids
from mlx_qwen35.checkpoints.explaining import explain
from mlx_qwen35.checkpoints.generation import read_generation_config
from mlx_qwen35.checkpoints.reading import check_directory
from mlx_qwen35.checkpoints.weight_files import find_weight_files
from mlx_qwen35.errors import CheckpointError

# The small trained checkpoint that comes with the package; see docs/box.md.
BOX = Path(__file__).parent.parent / "box"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory on disk.

    Args:
        directory: Where it is.
        config: Its validated config.json.
        generation_config: What can be used of generation_config.json; empty if there is none.
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
        try:
            check_directory(directory)
            config = ModelConfig.from_file(directory / "config.json")
        except CheckpointError as error:
            words = explain(directory)
            raise type(error)(f"{error}{'. ' + words if words else ''}") from error
        generation_config = read_generation_config(directory / "generation_config.json")
        return cls(directory, config, generation_config)

    @property
    def name(self) -> str:
        """What people call it: a hub id where the directory lies in the hub's cache, or else the directory's name."""
        parts = self.directory.parts
        if parts[-2:-1] == ("snapshots",) and parts[-3].startswith("models--"):
            return parts[-3].removeprefix("models--").replace("--", "/", 1)
        return self.directory.resolve().name

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Every id that one of its configuration files calls the end of a sequence."""
        return self.config.eos_token_ids | token_ids(self.generation_config.get("eos_token_id"))

    def weight_files(self) -> list[Path]:
        """The safetensors files; see `find_weight_files`."""
        return find_weight_files(self.directory, vision=self.config.vision is not None)

    def fingerprint(
        self, adapter_path: str | Path | None = None, arithmetic: str = "", further: Iterable[Path] = ()
    ) -> str:
        """A digest that tells this model from others: its config, and samples of all of its weights and its adapter.

        Large files are not read whole: beyond 8 MiB, the first 64 KiB of every 128th part count.

        Args:
            arithmetic: What else its numbers depend on.
            further: Files that belong to it beside these.
        """
        digest = hashlib.blake2b(json.dumps(self.config.raw, sort_keys=True).encode(), digest_size=16)
        digest.update(arithmetic.encode())
        adapters = [] if adapter_path is None else adapter_files(Path(adapter_path).expanduser())
        for path in [*self.weight_files(), *adapters, *further]:
            size = path.stat().st_size
            digest.update(str(size).encode())
            with path.open("rb") as file:
                for offset in range(0, size, max(2**16, size // 128)):
                    file.seek(offset)
                    digest.update(file.read(2**16))
        return digest.hexdigest()
