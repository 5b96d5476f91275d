"""Which files of a directory hold a checkpoint's weights."""

from pathlib import Path

from mlx_qwen35.checkpoints.headers import read_headers
from mlx_qwen35.checkpoints.layouts import canonical_name, is_bare
from mlx_qwen35.checkpoints.reading import GGUF, is_file, is_gguf, read_json
from mlx_qwen35.errors import CheckpointError
from mlx_qwen35.paths import shorten

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Files of torch's own format, which may run programs.
PICKLED = (".bin", ".pt", ".pth")


def find_weight_files(directory: Path, *, vision: bool) -> list[Path]:
    """The safetensors files of a checkpoint: those that the index names, or model*.safetensors without one.

    An index may be left over from the checkpoint that this one was made of: it does not count where none of its files
    is there, or some are missing beside a model.safetensors. A vision tower may lie in a file of its own.

    Args:
        vision: Whether config.json describes a vision tower.
    Raises:
        CheckpointError: There are none, or the index names one that is not there.
    """
    found = _named_by_index(directory) or _single_or_sharded(directory)
    if vision and not any(map(_may_hold_vision, found)):
        others = [path for path in files_with_vision(directory) if path not in found]
        found += [path for path in others if "language_model" not in parts_in(path)]
    return found


def files_with_vision(directory: Path) -> list[Path]:
    """All safetensors files that hold vision tensors, whether or not they belong to the checkpoint."""
    return [path for path in sorted(directory.glob("*.safetensors")) if "vision_tower" in parts_in(path)]


def _named_by_index(directory: Path) -> list[Path]:
    path = directory / INDEX
    if not path.is_file():
        return []
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{path}: expected weight_map, found none")
    names = sorted({str(name) for name in weight_map.values()})
    outside = [name for name in names if not _may_be_beside(name)]
    if outside:
        raise CheckpointError(f"{path}: expected names of safetensors files beside it, found {shorten(outside[0])!r}")
    named = [directory / name for name in names]
    missing = [path for path in named if not is_file(path)]
    if not missing:
        return named
    if is_file(directory / SINGLE) and directory / SINGLE not in named:
        return [directory / SINGLE]
    if len(missing) == len(named) and any(map(is_file, directory.glob("model*.safetensors"))):
        return []
    shown = shorten(", ".join(shorten(path.name) for path in missing), 500)
    raise CheckpointError(f"{directory}: expected {len(named)} weight files, {len(missing)} missing: {shown}")


def _may_be_beside(name: str) -> bool:
    """Whether it is a name that a weight file in the same directory could have."""
    return name == Path(name).name and name.endswith(".safetensors") and "\0" not in name and len(name) < 256


def _single_or_sharded(directory: Path) -> list[Path]:
    found = sorted(filter(is_file, directory.glob("model*.safetensors")))
    if not found:
        pickled = sorted(path.name for path in directory.glob("*") if path.suffix in PICKLED)
        hint = f" (only {shorten(', '.join(pickled), 500)}; pickled weights are not read)" if pickled else ""
        if others := sorted(path.name for path in directory.glob("*.safetensors") if is_file(path)):
            hint = f" (only {shorten(', '.join(others))}; rename it if it holds the weights of a whole checkpoint)"
        hint = f"; {GGUF}" if is_gguf(directory) else hint
        raise CheckpointError(f"{directory}: expected model*.safetensors, found none{hint}")
    return found


def _may_hold_vision(path: Path) -> bool:
    """A damaged file may, too: whoever reads it says what is wrong with it."""
    parts = parts_in(path)
    return not parts or "vision_tower" in parts


def parts_in(path: Path) -> set[str]:
    """What parts of a model a file has tensors of: `language_model`, `vision_tower`, `mtp`; none if it is damaged."""
    try:
        names = [header.name for header in read_headers([path])]
        return {"language_model"} if is_bare(names) else {_part(name) for name in names}
    except (CheckpointError, OSError):
        return set()


def _part(name: str) -> str:
    try:
        return canonical_name(name).partition(".")[0]
    except CheckpointError:
        return name.partition(".")[0]
