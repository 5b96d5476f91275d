"""An agent's conversation: what it sends, and what of it is read."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.bench import agent
from mlx_qwen35.bench.turns import Cost
from mlx_qwen35.cli.main import main
from mlx_qwen35.errors import OptionError
from tests.server.conftest import serving
from tests.tiny import DENSE, Shape


@pytest.fixture
def bodies() -> list[dict[str, Any]]:
    return agent.write_requests(lambda _: 1000, turns=4)


def test_every_request_has_another_beginning_and_another_end(bodies: list[dict[str, Any]]) -> None:
    long = agent.write_requests(len, system_tokens=3000)
    assert len(long) == agent.TURNS
    assert len(long[0]["system"][1]["text"]) >= 2999
    for place in ("system", "messages"):
        assert len({json.dumps(body[place][0 if place == "system" else -1]) for body in long}) == agent.TURNS
    for one, other in pairwise(bodies):
        assert other["messages"][: len(one["messages"]) - 1] == one["messages"][:-1]


@pytest.mark.thorough
@pytest.mark.parametrize("chat", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_what_is_new_is_read_and_nothing_else(
    checkpoint_dir: Callable[[Shape], Path], bodies: list[dict[str, Any]], chat: bool
) -> None:
    """In Anthropic's protocol; the changing line costs all of a chat completion, which nobody understands."""
    with ModelKit.load(checkpoint_dir(DENSE)) as kit, serving(kit) as running:
        costs = [agent.request(urlsplit(running.url).port or 0, body, chat=chat) for body in bodies]
        assert costs[0].prefilled == costs[0].prompt_tokens
        for before, cost in pairwise(costs):
            # The last token gives the first one of the answer, and is run again.
            new = cost.prompt_tokens - before.prompt_tokens + 1
            assert (cost.prefilled == new) == (not chat)
        with pytest.raises(OptionError, match="expected status 200, found 400"):
            agent.request(urlsplit(running.url).port or 0, {**bodies[0], "max_tokens": -1}, chat=False)


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    costs = [Cost(9, 9, None, 0.25), Cost(12, 4, None, 0.125)]
    monkeypatch.setattr(agent, "measure", lambda *_: {"mlx-qwen35": costs, "mlx-lm": costs[:1] * 2})
    assert main(["bench", "turns", "--agent", "--against", "mlx-lm"]) == 0
    shown = capsys.readouterr().out
    assert "| 2 | 12 | 3 | 4, 125 ms | 9, 250 ms |" in shown
    assert "Tokens read in all: 13 (mlx-qwen35), 18 (mlx-lm)" in shown
    assert main(["bench", "turns", "--agent", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["requests"]["mlx-qwen35"][1]["prefilled"] == 4
