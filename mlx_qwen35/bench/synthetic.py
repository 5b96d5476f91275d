"""Checkpoints with a published size's shapes and random weights, to measure without a download."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from mlx_qwen35.bench.published import PUBLISHED, PUBLISHED_PIXELS, published_config
from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.checkpoints.reading import read_json
from mlx_qwen35.errors import OptionError
from mlx_qwen35.patches.qwen3_5 import Model

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


def write_synthetic(
    directory: Path, size: str, *, layers: int | None = None, hidden: int | None = None, dtype: str = "float32"
) -> Path:
    """Write a checkpoint that this package, mlx-lm and mlx-vlm load; only on the thread that owns MLX.

    Tokenizer and template are those of the model in the package, whose tokens take the first places of the
    vocabulary; sizes of images are as published.

    Args:
        directory: Must not exist.
        size: As published: "0.8B", "35B-A3B", in any case.
        layers: In place of the published number, a multiple of 4.
        hidden: In place of the published hidden size; the feed-forward size shrinks along.
        dtype: float32, bfloat16 or float16.
    Raises:
        OptionError: There is no such size.
    """
    found = {published.name.lower(): published for published in PUBLISHED}
    if size.lower() not in found:
        raise OptionError(f"synthetic: expected one of {', '.join(found)}, found {size!r}")
    if layers is not None and (layers < 4 or layers % 4):
        raise OptionError(f"layers: expected a multiple of 4, found {layers}")
    if hidden is not None and (hidden < 64 or hidden % 64):
        raise OptionError(f"hidden: expected a multiple of 64, found {hidden}")
    if dtype not in DTYPES:
        raise OptionError(f"dtype: expected one of {', '.join(DTYPES)}, found {dtype!r}")
    chosen = found[size.lower()]
    if layers is not None:
        chosen = replace(chosen, layers=layers)
    if hidden is not None:
        ffn = None if chosen.ffn is None else chosen.ffn * hidden // chosen.hidden // 64 * 64
        chosen = replace(chosen, hidden=hidden, ffn=ffn)
    own = read_json(BOX / "config.json")
    raw = published_config(chosen) | {
        name: own[name] for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    }
    raw["text_config"]["mtp_num_hidden_layers"] = 0
    # mlx-vlm looks for it here.
    raw["text_config"]["tie_word_embeddings"] = raw["tie_word_embeddings"]
    raw["text_config"]["eos_token_id"] = own["text_config"]["eos_token_id"]
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(raw, indent=1) + "\n")
    for path in BOX.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            shutil.copy(path, directory)
    settings = read_json(BOX / "preprocessor_config.json") | {"size": PUBLISHED_PIXELS}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    mx.random.seed(0)
    model = Model(ModelConfig.from_dict(raw))
    model.update(tree_map(lambda value: value.astype(DTYPES[dtype]), model.parameters()))
    mx.save_safetensors(
        str(directory / "model.safetensors"), dict(tree_flatten(model.parameters())), metadata={"format": "mlx"}
    )
    return directory
