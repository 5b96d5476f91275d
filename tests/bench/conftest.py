"""What the tests of measurements share."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _left_alone() -> Iterator[None]:
    """Garbage is collected before every measurement; what other tests and imports left is not looked at each time."""
    gc.freeze()
    yield
    gc.unfreeze()
