"""Ids that count and a clock that stands still, so that answers can be compared whole."""

from itertools import count
from types import SimpleNamespace

import pytest

from mlx_qwen35.server.protocols import common, responses
from tests.server.protocols.events import NOW


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = count(1)
    monkeypatch.setattr(common, "uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex=f"{next(numbers):024}tail")))
    for module in (common, responses):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: NOW + 0.9))
