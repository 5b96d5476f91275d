"""Measuring how long it takes to begin."""

import json
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from unittest import mock

import pytest

from mlx_qwen35.bench import start
from mlx_qwen35.bench.start import commands, measure, seconds
from mlx_qwen35.cli.main import main
from mlx_qwen35.errors import OptionError
from tests.tiny import DENSE, Shape


@pytest.mark.thorough
def test_each_runtime_begins(checkpoint_dir: Callable[[Shape], Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Commands that work, as whole processes; each is begun once for the file cache, and once to be counted."""
    asked: list[tuple[str, ...]] = []

    @cache
    def once(command: tuple[str, ...]) -> float:
        return seconds(command)

    def count(command: Sequence[str]) -> float:
        asked.append(tuple(command))
        return once(asked[-1])

    command = ["bench", "start", "--model", str(checkpoint_dir(DENSE)), "--repeats", "1", "--json"]
    with mock.patch.object(start, "seconds", count):
        assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["seconds"]) == ["import", "--help", "first token", "first token, picture"]
    assert all(found["mlx-qwen35"] > 0 for found in report["seconds"].values())
    assert asked[-1][-2] == "--image"
    assert len(asked) == 2 * len(set(asked)) == 8


def test_the_first_turn_is_not_counted_and_runtimes_take_turns() -> None:
    asked: list[str] = []

    def take(command: Sequence[str]) -> float:
        asked.append("mlx-lm" if any("mlx_lm" in word for word in command) else "mlx-qwen35")
        return float(len(asked))

    with mock.patch.object(start, "seconds", take):
        found = measure("model", ["mlx-lm"], repeats=3)
    assert asked == ["mlx-qwen35", "mlx-lm"] * 4 * 3
    # Of the measurement's eight, the first two warm up.
    assert found["import"] == {"mlx-qwen35": 5.0, "mlx-lm": 6.0}
    assert found["first token"] == {"mlx-qwen35": 21.0, "mlx-lm": 22.0}


def test_only_who_can_see_is_asked_about_a_picture() -> None:
    asked = commands("model", Path("red.png"))["first token, picture"]
    assert list(asked) == ["mlx-qwen35", "mlx-vlm"]
    assert "first token, picture" not in commands("model", None)


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(OptionError, match="expected it to work, found: ValueError: broken"):
        seconds([sys.executable, "-c", "raise ValueError('broken')"])
