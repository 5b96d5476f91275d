"""Write a checkpoint in MLX form, with its vision tower and its MTP module."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.utils import make_shards

from mlx_qwen35.checkpoints.build import read_tensors
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.hub import find_checkpoint
from mlx_qwen35.checkpoints.layouts import to_canonical
from mlx_qwen35.errors import CheckpointError, OptionError
from mlx_qwen35.patches.qwen3_5 import Model, quantisation_of
from mlx_qwen35.paths import expand
from mlx_qwen35.runtime.thread import MlxThread

DTYPES = {"float16": mx.float16, "bfloat16": mx.bfloat16, "float32": mx.float32}
SHARD_GIGABYTES = 5
_COPIED = ("*.json", "*.jinja", "*.txt")
_NOT_COPIED = ("config.json", "model.safetensors.index.json")


def convert(
    path_or_hub_id: str | Path,
    out: str | Path,
    *,
    bits: int | None = None,
    group_size: int = 64,
    dtype: str | None = None,
    revision: str | None = None,
) -> Path:
    """Convert a checkpoint of any layout to mlx-vlm's, which mlx-lm reads too.

    Args:
        out: A directory that does not exist yet; it appears only when it is complete.
        bits: Quantise the decoder to 4 or 8 bits; the vision tower keeps its precision, gates get 8.
        group_size: Weights that share a scale, 32, 64 or 128.
        dtype: Cast floating-point tensors to "float16", "bfloat16" or "float32".
    Returns:
        The directory that was written.
    Raises:
        CheckpointError: The source cannot be loaded, or is quantised already.
        OptionError: `out` exists, or a number is not one that MLX can quantise to.
    """
    target = expand(out, OptionError, "out")
    if target.exists():
        raise OptionError(f"{target}: expected a directory that does not exist yet, found one")
    if bits not in (None, 4, 8):
        raise OptionError(f"bits: expected 4 or 8, found {bits}")
    if group_size not in (32, 64, 128):
        raise OptionError(f"group_size: expected 32, 64 or 128, found {group_size}")
    if dtype is not None and dtype not in DTYPES:
        raise OptionError(f"dtype: expected {', '.join(DTYPES)}, found {dtype}")
    source = Checkpoint.open(find_checkpoint(path_or_hub_id, revision=revision))
    if bits is not None and "quantization" in source.config.raw:
        found = source.config.raw["quantization"]
        raise CheckpointError(f"{source.directory}: expected unquantised weights, found {found}")
    target.parent.mkdir(parents=True, exist_ok=True)
    thread = MlxThread()
    # Beside the target, so that the last step is a rename.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        scratch = Path(folder) / target.name
        scratch.mkdir()
        try:
            thread.call(_write, source, scratch, bits, group_size, dtype)
        finally:
            thread.close()
        scratch.rename(target)
    return target


def _write(source: Checkpoint, out: Path, bits: int | None, group_size: int, dtype: str | None) -> None:
    config = _with_text_config(json.loads(json.dumps(source.config.raw)))
    model = Model.from_checkpoint(source)
    tensors = _mtp_tensors(source)
    if dtype is not None:
        model.update(tree_map_with_path(lambda path, value: _cast(path, value, dtype), model.parameters()))
        tensors = {name: _cast(name, value, dtype) for name, value in tensors.items()}
        for section in (config, config.get("text_config", {}), config.get("vision_config") or {}):
            section.pop("torch_dtype", None)
            section["dtype"] = dtype
    if bits is not None:
        # mlx-lm writes both names, for programs that look for the second.
        config["quantization"] = config["quantization_config"] = _quantise(model, bits, group_size)
    tensors |= dict(tree_flatten(model.parameters()))
    del model
    _save_tensors(tensors, out)
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for pattern in _COPIED:
        for path in source.directory.glob(pattern):
            if path.name not in _NOT_COPIED:
                shutil.copy(path, out / path.name)


def _with_text_config(config: dict[str, Any]) -> dict[str, Any]:
    """A text-only model's flat config in the nested form, which mlx-lm knows."""
    if "text_config" in config:
        return config
    names = ("tie_word_embeddings", "eos_token_id", "dtype")
    shared: dict[str, Any] = {name: config[name] for name in names if name in config}
    return {"model_type": config["model_type"].removesuffix("_text"), "text_config": config, **shared}


def _mtp_tensors(source: Checkpoint) -> dict[str, mx.array]:
    """The multi-token-prediction module, which no model class loads."""
    weights = read_tensors([*source.weight_files(), *source.mtp_files()])
    return {name: value for name, value in to_canonical(weights, source.config).items() if name.startswith("mtp.")}


def _cast(path: str, value: mx.array, dtype: str) -> mx.array:
    # The decay rates go through two exponentials; mlx-lm leaves them alone too.
    if path.endswith("A_log") or not mx.issubdtype(value.dtype, mx.floating):
        return value
    return value.astype(DTYPES[dtype])


def _quantise(model: nn.Module, bits: int, group_size: int) -> dict[str, Any]:
    """Quantise in place; returns what config.json has to say about it."""
    settings: dict[str, Any] = {"group_size": group_size, "bits": bits, "mode": "affine"}
    chosen = dict(settings)

    def choose(path: str, module: nn.Module) -> bool | dict[str, Any]:
        choice = quantisation_of(path, module)
        if choice and module.weight.shape[-1] % (choice if isinstance(choice, dict) else settings)["group_size"]:
            return False
        if isinstance(choice, dict):
            chosen[path] = choice
        return choice

    nn.quantize(model, group_size, bits, class_predicate=choose)
    return chosen


def _save_tensors(tensors: dict[str, mx.array], out: Path) -> None:
    """Write shards one by one; a tensor is let go of as soon as it is on disk."""
    total = sum(value.nbytes for value in tensors.values())
    shards: list[dict[str, mx.array] | None] = list(make_shards(tensors, SHARD_GIGABYTES))
    tensors.clear()
    weight_map: dict[str, str] = {}
    for number in range(len(shards)):
        shard, shards[number] = shards[number], None
        assert shard is not None
        name = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        mx.save_safetensors(str(out / name), shard, metadata={"format": "mlx"})
        weight_map |= dict.fromkeys(shard, name)
        del shard
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
