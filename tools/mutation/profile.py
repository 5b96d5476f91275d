"""A pytest plugin for runs by mutmut.

Hypothesis stops at the first failing example, meets the same ones every time, and shrinks nothing; tests that load
a model come last, because most mutants do not live to see them.
"""

import gc

import pytest
from hypothesis import HealthCheck, Phase, settings

# No deadline: a mutant that was only slow for a moment is not a mutant that was caught.
settings.register_profile(
    "mutation", phases=(Phase.explicit, Phase.generate), derandomize=True, database=None, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip

MODELS = {"kit", "kits", "benches", "box", "server"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order in which they were found, otherwise."""
    items.sort(key=lambda item: not MODELS.isdisjoint(getattr(item, "fixturenames", ())))


def pytest_collection_finish() -> None:
    """What is imported by now is shared with every forked process: collecting garbage in it would copy it."""
    gc.freeze()
