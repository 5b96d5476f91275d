"""What the bench command prints, whatever is measured."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from mlx_qwen35.bench import conversation, serve, speed, start, turns
from mlx_qwen35.cli.main import main
from mlx_qwen35.cli.tables import Table
from tests.tiny import DENSE, Shape

OWN, OTHER = serve.Figures(60.0, 0.2, 30, 8), serve.Figures(40.0, 0.25, 30, 8)


def test_a_table_is_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(("case", "", "speed"), "lrr", shown=True)
    table.row("one", 1, "2 tok/s")
    table.row("two", 2, "")
    assert capsys.readouterr().out == "| case | | speed |\n|---|--:|--:|\n| one | 1 | 2 tok/s |\n| two | 2 | |\n"


def test_a_table_that_is_not_shown_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Table(("case",), "l", shown=False).row("one")
    assert capsys.readouterr().out == ""


def measured(results: dict[Any, Any]) -> Callable[..., dict[Any, Any]]:
    """In place of a measurement: tells every case, and gives all."""

    def measure(*args: Any, on_case: Callable[[Any, Any], None] | None = None, **options: Any) -> dict[Any, Any]:
        for case, found in results.items():
            (on_case or args[-1])(case, found)
        return results

    return measure


def test_requests_at_once(
    checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "measure", measured({2: {"mlx-qwen35": OWN, "mlx-lm": OTHER}}))
    command = ["bench", "serve", "--model", str(checkpoint_dir(DENSE)), "--against", "mlx-lm"]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| requests | server | prompt | answer | all together | first token |",
        "|--:|---|--:|--:|--:|--:|",
        "| 2 | mlx-qwen35 | 30 | 8 | 60 tok/s | 200 ms |",
        "| 2 | mlx-lm | 30 | 8 | 40 tok/s (1.50) | 250 ms (0.80) |",
    ]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["requests"]["2"]
    assert "ratios" not in found["mlx-qwen35"]
    assert found["mlx-lm"]["ratios"] == {"tokens_per_second": 1.5, "first_token": 0.8}


def test_speed(
    checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own, other = speed.Figures(200.0, 0.5, 0.01, 2**20), speed.Figures(100.0, 1.0, 0.02, 2**21)
    rows = {name: speed.Figures(None, None, figures.per_token, None) for name, figures in (("a", own), ("b", other))}
    cases = {"text": {"mlx-qwen35": own, "mlx-lm": other}, "rows": {"mlx-qwen35": rows["a"], "mlx-lm": rows["b"]}}
    monkeypatch.setattr(speed, "measure", measured(cases))
    assert main(["bench", "speed", "--model", str(checkpoint_dir(DENSE)), "--against", "mlx-lm"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| case | runtime | prompt | first token | per token | peak |",
        "|---|---|--:|--:|--:|--:|",
        "| text | mlx-qwen35 | 200 tok/s | 500 ms | 10.00 ms | 1 MiB |",
        "| text | mlx-lm | 100 tok/s (2.00) | 1000 ms | 20.00 ms (0.50) | 2 MiB (0.50) |",
        "| rows | mlx-qwen35 | | | 10.00 ms | |",
        "| rows | mlx-lm | | | 20.00 ms (0.50) | |",
    ]


def test_what_was_not_measured_is_null_in_json(
    checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows that end at once have no time per token."""
    monkeypatch.setattr(
        speed, "measure", measured({"rows": {"mlx-qwen35": speed.Figures(None, None, float("nan"), None)}})
    )
    assert main(["bench", "speed", "--model", str(checkpoint_dir(DENSE)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["cases"]["rows"]["mlx-qwen35"]
    assert found["per_token"] is None


def test_text_conversions_are_shown_no_picture(
    checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """mlx-lm writes them with the vision tower's settings in config.json, and without the tower."""
    shown: list[Any] = []
    monkeypatch.setattr(start, "measure", lambda *given: shown.append(given[3] is not None) or {})
    monkeypatch.setattr(conversation, "write_conversation", lambda _, images: shown.append(images) or [])
    monkeypatch.setattr(turns, "measure", lambda *_: {"cold": []})
    blind = tmp_path / "text"
    shutil.copytree(checkpoint_dir(DENSE), blind)
    tensors = load_file(blind / "model.safetensors")
    save_file({name: value for name, value in tensors.items() if "visual" not in name}, blind / "model.safetensors")
    for directory, sees in ((checkpoint_dir(DENSE), True), (blind, False)):
        for command in ("start", "turns"):
            assert main(["bench", command, "--model", str(directory), "--json"]) == 0
        assert shown == [sees, sees]
        shown.clear()


def test_beginnings(
    checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start, "measure", lambda *_: {"import": {"mlx-qwen35": 1.0, "mlx-lm": 2.5}})
    command = ["bench", "start", "--model", str(checkpoint_dir(DENSE)), "--against", "mlx-lm"]
    assert main(command) == 0
    assert capsys.readouterr().out == "| | mlx-qwen35 | mlx-lm |\n|---|--:|--:|\n| import | 1.00 s | 2.50 s |\n"
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "repeats": 3,
        "seconds": {"import": {"mlx-qwen35": 1.0, "mlx-lm": 2.5}},
    }
