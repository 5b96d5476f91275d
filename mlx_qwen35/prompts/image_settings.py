"""How a checkpoint's images are to be resized and normalised, by its own files."""

from pathlib import Path
from typing import Any

from mlx_qwen35.checkpoints.reading import read_json
from mlx_qwen35.errors import CheckpointError
from mlx_qwen35.paths import shorten


def read_processor_settings(directory: Path) -> dict[str, Any]:
    """The image processor's settings, from either of the files that transformers writes.

    Raises:
        CheckpointError: None of them has any, or they are none that an image could be prepared by.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = directory / name
        if path.is_file():
            found = read_json(path)
            settings = dict(found.get("image_processor", found))
            if "patch_size" in settings and ("size" in settings or "max_pixels" in settings):
                for key in ("image_processor_type", "processor_class", "auto_map"):
                    settings.pop(key, None)
                _check_settings(settings, path)
                return settings
    raise CheckpointError(
        f"{directory}: expected preprocessor_config.json with the image sizes that the model was trained on, "
        "found none; copy it from the original checkpoint"
    )


def _check_settings(settings: dict[str, Any], path: Path) -> None:
    """Refuse numbers that transformers would stumble over when the first image comes."""
    size = settings.get("size")
    if size is not None and not isinstance(size, dict):
        raise CheckpointError(f"{path}: size: expected an object, found {shorten(repr(size))}")
    if size is None:
        edges = {name: settings[name] for name in ("min_pixels", "max_pixels") if settings.get(name) is not None}
    else:
        edges = {f"size.{name}": size.get(name) for name in ("shortest_edge", "longest_edge")}
    for name, value in edges.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
            raise CheckpointError(f"{path}: {name}: expected a number of pixels, found {shorten(repr(value))}")
    for name in ("image_mean", "image_std"):
        found = settings.get(name, [0.5])
        values = found if isinstance(found, list) else [found]
        if not values or not all(isinstance(value, int | float) and 0 <= value <= 1 for value in values):
            raise CheckpointError(f"{path}: {name}: expected numbers from 0 to 1, found {shorten(repr(found))}")
