"""A head of its own in place of the embedding's second use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.untying import untie
from mlx_qwen35.conversion import convert
from mlx_qwen35.patches.qwen3_5 import Model
from tests.tiny import WIDE_HEADS, Shape


@pytest.mark.some(2)
@pytest.mark.parametrize(
    "options",
    [{}, {"bits": 3, "group_size": 32}, {"bits": 4}, {"mode": "mxfp4"}, {"mode": "mxfp8"}, {"mode": "nvfp4"}],
    ids=str,
)
def test_it_begins_as_the_embedding_however_that_is_quantised(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], options: dict[str, Any]
) -> None:
    directory = convert(checkpoint_dir(WIDE_HEADS), tmp_path / "out", **options)
    decoder = Model.from_checkpoint(Checkpoint.open(directory)).language_model
    hidden, embedding = mx.random.normal((1, 3, 64)), decoder.model.embed_tokens
    expected = decoder.project(hidden)
    untie(decoder)
    assert mx.array_equal(decoder.project(hidden), expected).item()
    assert decoder.lm_head.weight is embedding.weight
    assert ("scales" in decoder.lm_head) == bool(options)
