"""mlx-lm's utils.py, save_config, for models that keep their vision tower."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlx_qwen35.checkpoints.config import MODEL_TYPES
from mlx_qwen35.checkpoints.reading import is_file, read_json

SaveConfig = Callable[..., None]


def keeping_vision(save_config: SaveConfig) -> SaveConfig:
    """mlx-lm's function, which drops `vision_config` unless it knows where the model keeps its tower."""

    def save(config: dict[str, Any], config_path: str | Path, *, keep_vision_config: bool = False) -> None:
        """As mlx-lm's; the weights beside the file are written before it."""
        tower = config.get("model_type") in MODEL_TYPES and _has_tower(Path(config_path).parent)
        save_config(config, config_path, keep_vision_config=keep_vision_config or tower)

    return save


def _has_tower(directory: Path) -> bool:
    index = directory / "model.safetensors.index.json"
    names = read_json(index).get("weight_map") if is_file(index) else None
    return isinstance(names, dict) and any(name.startswith("vision_tower.") for name in names)
