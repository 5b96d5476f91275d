"""Measuring how long it takes to begin."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_qwen35.bench.start import seconds
from mlx_qwen35.cli.main import main
from mlx_qwen35.errors import OptionError
from tests.tiny import DENSE, Shape


def test_each_runtime_begins(checkpoint_dir: Callable[[Shape], Path], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "start", "--model", str(checkpoint_dir(DENSE)), "--repeats", "1", "--json"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["seconds"]) == ["import", "--help", "first token"]
    times = {name: found["mlx-qwen35"] for name, found in report["seconds"].items()}
    # A process that loads a model and runs it does everything that an import does.
    assert 0 < times["import"] < times["first token"]


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(OptionError, match="expected it to work, found: ValueError: broken"):
        seconds([sys.executable, "-c", "raise ValueError('broken')"])
