"""Caches of prefixes that no model has read, for states of one GDN and one attention layer."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlx_qwen35.state.cache import AttentionCache, GatedDeltaCache
from mlx_qwen35.state.kept_files import KeptFiles
from mlx_qwen35.state.prefix_cache import PrefixCache


def make_caches() -> list[Any]:
    """Fresh ones."""
    return [GatedDeltaCache(), AttentionCache()]


@pytest.fixture
def told() -> list[int]:
    """The bytes of memory that caches said they hold."""
    return []


@pytest.fixture
def open_cache(told: list[int]) -> Iterator[Callable[..., PrefixCache]]:
    """Makes caches, which are closed at the end; `most` is the memory that the process has for them."""
    opened: list[PrefixCache] = []

    def get(budget: int = 10**9, *, files: KeptFiles | None = None, most: int = 10**9) -> PrefixCache:
        def account(nbytes: int) -> int:
            told.append(nbytes)
            return max(0, nbytes - most)

        opened.append(PrefixCache(make_caches, budget, fingerprint="m", files=files, account=account))
        return opened[-1]

    yield get
    for cache in opened:
        cache.close()
