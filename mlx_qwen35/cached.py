"""The Qwen3.5-class checkpoints in the hub's cache: which there are, whether they fit; downloading and removing."""

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_qwen35.checkpoints.config import MODEL_TYPES
from mlx_qwen35.checkpoints.fields import shown
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.formats import is_quantised
from mlx_qwen35.checkpoints.headers import has_tower, read_headers
from mlx_qwen35.checkpoints.hub import find_checkpoint, find_file
from mlx_qwen35.checkpoints.mtp_heads import head_files
from mlx_qwen35.checkpoints.reading import read_json
from mlx_qwen35.errors import CheckpointError, CheckpointWarning, OptionError, Qwen35Error
from mlx_qwen35.paths import expand, is_there
from mlx_qwen35.runtime.estimates import default_limit
from mlx_qwen35.runtime.memory import SMALLEST_STEP, MemoryGuard
from mlx_qwen35.runtime.thread import MlxThread

# A conversation of this length has to fit beside the weights.
CONVERSATION = 8192

# What the hub's client puts before the names of models' folders, beside those of data sets.
_PREFIX = "models--"
# What it puts into them, and macOS.
_PARTS = {"blobs", "refs", "snapshots", ".no_exist", ".DS_Store"}


@dataclass(frozen=True)
class CachedModel:
    """One checkpoint of the cache.

    Args:
        size: Bytes of its files.
        bits: Of its weights, in words; "16" for those that are not quantised.
        vision, mtp: Whether it holds a vision tower, and an MTP module.
        needs, limit: Bytes for the weights and a conversation of 8192 tokens, and those that there are.
        problem: Why it cannot be loaded; the rest is then empty.
    """

    id: str
    directory: Path
    size: int
    bits: str = ""
    vision: bool = False
    mtp: bool = False
    needs: int = 0
    limit: int = 0
    problem: str | None = None

    @property
    def fits(self) -> bool:
        """Whether it can be loaded and talked to here."""
        return self.problem is None and self.needs <= self.limit

    def facts(self) -> dict[str, Any]:
        """The same for JSON."""
        return {**vars(self), "directory": str(self.directory), "fits": self.fits}


def cache_directory() -> Path:
    """Where the hub's client keeps what it downloads; HF_HOME and HF_HUB_CACHE move it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cached_models() -> list[CachedModel]:
    """The newest snapshot of every Qwen3.5-class checkpoint that is there, by name."""
    found = []
    for entry in _entries():
        newest = entry.newest()
        if newest is not None and is_of_the_family(newest):
            found.append(describe(entry.id, newest))
    return sorted(found, key=lambda model: model.id.lower())


def is_of_the_family(directory: Path) -> bool:
    """Whether a config.json is of a model type that this package loads."""
    try:
        config = json.loads((directory / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") in MODEL_TYPES


def describe(name: str, directory: Path) -> CachedModel:
    """What a checkpoint is, from its configuration and its tensors' headers."""
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CheckpointWarning)
            checkpoint = Checkpoint.open(directory)
            files = checkpoint.weight_files()
            headers = list(read_headers(files))
            vision = has_tower(checkpoint.config, headers)
            limit = default_limit()
            # Without a limit, to learn what it would take.
            guard = _on_mlx_thread(checkpoint, files)
    except Qwen35Error as error:
        problem = str(error).replace(f"{directory}/", "").replace(f"{directory}: ", "")
        return CachedModel(name, directory, size, problem=problem)
    return CachedModel(
        name,
        directory,
        size,
        bits=bits_of(checkpoint.config.raw if is_quantised(headers) else {}),
        vision=vision,
        mtp=bool(head_files(checkpoint)),
        needs=guard.needs(CONVERSATION, SMALLEST_STEP),
        limit=limit,
    )


def _on_mlx_thread(checkpoint: Checkpoint, files: list[Path]) -> MemoryGuard:
    thread = MlxThread()
    try:
        return thread.call(MemoryGuard.of, checkpoint.config, files, 2**63)
    finally:
        thread.close()


def bits_of(config: dict[str, Any]) -> str:
    """How many bits a weight has, in words."""
    settings = config.get("quantization") or config.get("quantization_config")
    if not isinstance(settings, dict):
        return "16"
    mode = settings.get("mode") or settings.get("quant_method")
    bits = settings.get("bits")
    if bits is None or mode not in (None, "affine"):
        return str(mode or "?")
    different = {entry["bits"] for entry in settings.values() if isinstance(entry, dict) and "bits" in entry}
    return f"{bits}" if different <= {bits} else f"{bits}, some {', '.join(map(str, sorted(different - {bits})))}"


def pull(name: str, revision: str | None = None) -> Path:
    """Download a checkpoint, with progress on stderr; its config.json first, so that another family's is refused.

    Raises:
        CheckpointError: There is none of this name, it cannot be had, or it is another architecture's.
    """
    if is_there(expand(name, OptionError, "models pull")) or name.count("/") != 1:
        raise OptionError(f"models pull: expected a hub id like 'owner/name', found {name}")
    config = find_file(name, "config.json", revision)
    model_type = read_json(config).get("model_type")
    if model_type not in MODEL_TYPES:
        raise CheckpointError(
            f"{name}: expected a Qwen3.5-class checkpoint, found model_type {shown(model_type)} in config.json"
        )
    return find_checkpoint(name, revision=revision)


@dataclass(frozen=True)
class Entry:
    """A repository in the cache, whole or not; the hub's own scan knows none of which a file is missing.

    Args:
        folder: What lies there of it: blobs, references, and snapshots of links to blobs.
    """

    folder: Path

    @property
    def id(self) -> str:
        """Its hub id."""
        return self.folder.name.removeprefix(_PREFIX).replace("--", "/")

    @property
    def size_on_disk(self) -> int:
        """Bytes that it takes, with those of downloads that did not end."""
        return sum(path.lstat().st_size for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink())

    def newest(self) -> Path | None:
        """The snapshot with the newest file."""
        snapshots = [path for path in self.folder.glob("snapshots/*") if path.is_dir()]
        return max(snapshots, key=_modified, default=None)

    def remove(self) -> int:
        """Delete it; returns the bytes that it took.

        Raises:
            CheckpointError: It is a link to where something else lies too, or the system does not allow it.
        """
        others = sorted(path.name for path in self.folder.iterdir() if path.name not in _PARTS)
        if self.folder.is_symlink() and others:
            raise CheckpointError(f"{self.folder}: expected what the hub's client writes, found {shown(others[0])}")
        size = self.size_on_disk
        try:
            # The folder may be a link to where there is more room.
            shutil.rmtree(self.folder.resolve())
            if self.folder.is_symlink():
                self.folder.unlink()
        except OSError as error:
            raise CheckpointError(f"{error.filename}: cannot be removed ({error.strerror or error})") from error
        return size


def _modified(snapshot: Path) -> float:
    return max((path.stat().st_mtime for path in snapshot.rglob("*") if path.is_file()), default=0.0)


def find_cached(name: str) -> Entry:
    """A repository of the cache, for removing it.

    Raises:
        OptionError: It is not there.
    """
    for entry in _entries():
        if entry.id == name:
            return entry
    raise OptionError(f"{name}: expected a checkpoint in {cache_directory()}, found none; mlx-qwen35 models lists them")


def _entries() -> list[Entry]:
    return [Entry(folder) for folder in cache_directory().glob(f"{_PREFIX}*") if folder.is_dir()]
