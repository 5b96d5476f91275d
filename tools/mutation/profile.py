"""A pytest plugin for runs by mutmut.

Hypothesis stops at the first failing example, meets the same ones every time, and shrinks nothing.
"""

import gc

from hypothesis import Phase, settings

settings.register_profile("mutation", phases=(Phase.explicit, Phase.generate), derandomize=True, database=None)


def pytest_collection_finish() -> None:
    """What is imported by now is shared with every forked process: collecting garbage in it would copy it."""
    gc.freeze()
