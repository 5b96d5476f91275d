"""What tests of prompts share: a tower's sizes, what transformers made of videos, a tokenizer's files."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_qwen35.checkpoints.config import ModelConfig, VisionConfig
from tests.tiny import DENSE, config_of, write_tokenizer

GOLDEN = Path(__file__).parents[1] / "parity" / "goldens" / "videos.npz"


@pytest.fixture(scope="session")
def vision() -> VisionConfig:
    """The tower that takes the pixels."""
    config = ModelConfig.from_dict(config_of(DENSE)).vision
    assert config is not None
    return config


@pytest.fixture(scope="session")
def golden() -> Iterator[Any]:
    """What transformers made of videos."""
    with np.load(GOLDEN) as file:
        yield file


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer's files; must not be changed."""
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    (directory / "config.json").write_text(json.dumps(config_of(DENSE)))
    return directory


@pytest.fixture
def directory(written: Path, tmp_path: Path) -> Path:
    """A copy of them, for one test to change."""
    return Path(shutil.copytree(written, tmp_path / "tokenizer"))
