"""What quantised keys and values cost and save, measured."""

import json
from typing import Any

import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.bench import kv
from mlx_qwen35.bench.kv import Error, Step, _in_common
from mlx_qwen35.cli.main import main


def test_a_step_is_timed_behind_the_context_that_is_named(kit: ModelKit) -> None:
    """Few bits hold less; the context is as long for each."""
    for context, rooms in ((20, 256), (300, 512)):
        plain, eight, four = kv.measure_steps(kit, context, 64, steps=2).values()
        assert plain.seconds > 0
        assert plain.nbytes >= 2 * 4 * 64 * rooms * 0.99
        assert plain.nbytes > eight.nbytes > four.nbytes > 0
    caches = kit._thread.call(kv._filled, kit, 300, kv.variants(64)["4 bits"])
    assert [cache.size() for cache in caches if hasattr(cache, "media")] == [300]


def test_tokens_in_common_end_with_the_first_that_differs() -> None:
    assert [_in_common((1, 2, 3), other) for other in ((1, 2, 3), (1, 5, 3), (1, 2), (7,), ())] == [3, 1, 2, 0, 0]


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {"as they are": Step(0.002, 2**21), "8 bits": Step(0.001, 2**20)}
    monkeypatch.setattr(kv, "measure_steps", lambda *_: steps)
    monkeypatch.setattr(kv, "measure_errors", lambda *_: {"8 bits": Error(0.01, 0.001, 0.99, 200, 199)})
    assert main(["bench", "kv"]) == 0
    shown = capsys.readouterr().out
    assert "| 1024 | as they are | 2.00 ms | 2.0 MiB |" in shown
    assert "| 1024 | 8 bits | 1.00 ms (0.50) | 1.0 MiB (0.50) |" in shown
    assert "| 8 bits | 1.00% | 0.100% | 99.00% | 199 of 200 |" in shown
    assert main(["bench", "kv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["errors"]["8 bits"]["tokens"] == 200


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kv-group-size", "128"], "kv_group_size: expected 32 or 64 for this model, found 128"),
        (["--contexts", "1"], "--contexts: expected"),
        (["--tokens", "0"], "--tokens: expected"),
        (["--layers", "4"], "--layers: expected with --synthetic"),
    ],
)
def test_what_cannot_be_measured_is_refused(flags: list[Any], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kv", *flags]) == 2
    assert message in capsys.readouterr().err
