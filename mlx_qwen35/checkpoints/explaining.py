"""What a directory is that cannot be loaded, in words, and what to do about it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_qwen35.checkpoints.config import MODEL_TYPES
from mlx_qwen35.checkpoints.reading import GGUF, is_file, is_gguf, read_json
from mlx_qwen35.checkpoints.weight_files import INDEX, PICKLED, parts_in
from mlx_qwen35.errors import CheckpointError
from mlx_qwen35.paths import shorten

# What people take for a Qwen3.5.
_RELATIVES = {
    "qwen4_exp": "Qwen3.8-Flash-Next is of another architecture, in spite of its name",
    "qwen3_5_mtp": "it is an MTP head alone, and belongs to a checkpoint of its own (--mtp-model)",
    "qwen3_next": "it is of the family before Qwen3.5",
    "qwen3_vl": "it is of the family before Qwen3.5",
    "qwen3_vl_moe": "it is of the family before Qwen3.5",
}
_PARTS = {"language_model": "a decoder", "vision_tower": "a vision tower", "mtp": "an MTP head"}


def explain(directory: Path) -> str:
    """One sentence or more about a directory in which something is missing or not as it should be."""
    return " ".join(_sentences(directory))


def _sentences(directory: Path) -> Iterator[str]:
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        entries = []
    names = [entry.name for entry in entries if is_file(entry)]
    if is_gguf(directory) and not any(name.endswith(".safetensors") for name in names):
        yield f"{GGUF[0].upper()}{GGUF[1:]}."
        return
    if not directory.is_dir():
        return
    if not entries:
        yield "The directory is empty."
        return
    config = _config(directory)
    if config is not None:
        yield from _about_config(config)
    elif "config.json" not in names:
        yield from _without_config(directory, names, entries)
    yield from _about_weights(directory, names)


def _config(directory: Path) -> dict[str, Any] | None:
    try:
        return read_json(directory / "config.json")
    except CheckpointError:
        return None


def _about_config(config: dict[str, Any]) -> Iterator[str]:
    model_type = config.get("model_type")
    if model_type in MODEL_TYPES:
        return
    found = f"a {shorten(model_type)} model" if isinstance(model_type, str) else "a model of no type"
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures:
        found += f" ({shorten(architectures[0])})"
    hint = _RELATIVES.get(model_type, "") if isinstance(model_type, str) else ""
    yield f"By its config.json it is {found}; this package runs Qwen3.5, 3.6 and 3.8{': ' + hint if hint else ''}."


def _without_config(directory: Path, names: list[str], entries: list[Path]) -> Iterator[str]:
    if "adapter_config.json" in names:
        yield f"It is an adapter{_base(directory)}: load that, with this one as adapter_path (--adapter-path)."
        return
    folders = [entry for entry in entries if entry.is_dir()]
    inside = [folder for folder in folders if is_file(folder / "config.json")]
    if "snapshots" in {folder.name for folder in folders}:
        inside = sorted(path.parent for path in (directory / "snapshots").glob("*/config.json"))
    if inside:
        found = ", ".join(str(folder.relative_to(directory)) for folder in inside[:5])
        yield f"It holds folders with checkpoints: name one of them ({found})."
    elif any(name.endswith(".safetensors") for name in names):
        yield "It holds weights without a config.json, which says what they are: copy it from the original."
    elif not any(name.endswith(PICKLED) for name in names):
        shown = shorten(", ".join(entry.name for entry in entries[:8]), 200)
        yield f"Nothing in it is a checkpoint's: it holds {shown}{' and more' if len(entries) > 8 else ''}."


def _base(directory: Path) -> str:
    try:
        settings = read_json(directory / "adapter_config.json")
    except CheckpointError:
        return ""
    base = settings.get("base_model_name_or_path") or settings.get("model")
    return f" for {shorten(base)}" if isinstance(base, str) else ""


def _about_weights(directory: Path, names: list[str]) -> Iterator[str]:
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        pickled = [name for name in names if name.endswith(PICKLED)]
        if pickled:
            yield f"Its weights are pickled ({shorten(pickled[0])}), which is not read: such files may run programs."
        elif INDEX in names:
            yield "Its index names weights, none of which is there: the download is not complete."
        return
    parts = {part for name in weights for part in parts_in(directory / name)}
    if "language_model" not in parts and "adapter_config.json" not in names:
        found = [words for part, words in _PARTS.items() if part in parts]
        yield f"Its weights are {' and '.join(found) if found else 'none of a Qwen3.5'}, without a decoder."
