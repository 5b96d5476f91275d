"""The torch oracle, made only where a test asks for it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tiny import Shape

if TYPE_CHECKING:
    from tests.parity.reference import Reference


@pytest.fixture(scope="session")
def references(checkpoint_dir: Callable[[Shape], Path]) -> "Callable[[Shape], Reference]":
    """From a shape to transformers' model; skips where torch is not installed."""
    pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    from tests.parity.reference import Reference

    loaded: dict[str, Reference] = {}

    def get(shape: Shape) -> Reference:
        if shape.name not in loaded:
            loaded[shape.name] = Reference(checkpoint_dir(shape))
        return loaded[shape.name]

    return get
