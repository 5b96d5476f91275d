"""The commands run as children of the tests."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from mlx_qwen35.prompts.tokenizer import Tokenizer
from tests.tiny import DENSE, IDS, Shape

# A background shell starts its jobs with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# While MLX's CPU backend runs the C compiler, system(3) has Ctrl-C ignored, and it would be lost.
UNCOMPILED = {"MLX_DISABLE_COMPILE": "1"}


@pytest.fixture(scope="session")
def endless(checkpoint_dir: Callable[[Shape], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that takes prompts of any length, and at temperature 0 never ends an answer by itself."""
    directory = shutil.copytree(checkpoint_dir(DENSE), tmp_path_factory.mktemp("endless") / "model")
    config = json.loads((directory / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 2**20
    (directory / "config.json").write_text(json.dumps(config))
    tensors = load_file(directory / "model.safetensors")
    # Of some hundred logits on both sides of 0, one that is 0 is never the largest.
    tensors["lm_head.weight"][sorted(Tokenizer(directory, [IDS["<|endoftext|>"]]).eos_token_ids)] = 0
    save_file(tensors, directory / "model.safetensors")
    return directory
