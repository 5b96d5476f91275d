"""The table of which checkpoint fits into which memory is what the code computes, and fits."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.headers import read_headers
from mlx_qwen35.checkpoints.layouts import canonical_name
from tests.tiny import DENSE, Shape
from tools.sizes import CHOICES, Choice, table, vision_parameters

README = Path(__file__).parents[1] / "README.md"


def test_the_readme_has_the_table() -> None:
    """`python -m tools.sizes README.md` writes it."""
    assert table() in README.read_text()


def test_what_is_recommended_fits() -> None:
    assert [choice for choice in CHOICES if choice.needed > choice.usable] == []


def test_a_vision_tower_is_counted_as_it_is(checkpoint_dir: Callable[[Shape], Path]) -> None:
    checkpoint = Checkpoint.open(checkpoint_dir(DENSE))
    assert checkpoint.config.vision is not None
    tensors = read_headers(checkpoint.weight_files())
    found = sum(math.prod(t.shape) for t in tensors if canonical_name(t.name).startswith("vision_tower."))
    assert vision_parameters(checkpoint.config.vision) == found


@pytest.mark.parametrize(("size", "bits", "published"), [("35B-A3B", 4, 20.4e9), ("35B-A3B", 8, 37.7e9)])
def test_weights_are_those_that_others_found(size: str, bits: int, published: float) -> None:
    """Of mlx-community/Qwen3.6-35B-A3B-4bit and -8bit, as exo-explore/exo lists them (pull request 1909)."""
    assert Choice(64, "", size, bits).weights == pytest.approx(published, rel=0.005)
