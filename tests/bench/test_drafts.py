"""Measuring what speculative decoding gains: what is asked, in turns, and what comes out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.bench import drafts, synthetic
from mlx_qwen35.bench.drafts import Quoting, Task, measure, run, tasks, verify_costs
from mlx_qwen35.cli.main import main
from mlx_qwen35.runtime.decoder import Decoder
from tests.tiny import DENSE, Shape


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "_MOST", 5)


def test_tasks(kit: ModelKit) -> None:
    found = list(tasks(kit, lengths=[100, 0], images=[2, 0], batches=[1, 3]))
    names = ["behind 100 tokens", "behind 2 images", "3 rows", "sampled at 0.7", "a text quoted word for word"]
    assert [task.name for task in found] == names
    assert all(100 <= len(prompt.input_ids) < 250 for prompt in found[0].prompts)
    assert [len(found[1].prompts[0].images), found[2].rows] == [2, 3]


def test_a_quoted_text_is_what_its_answer_says(kit: ModelKit) -> None:
    prompt = kit.process_prompt([5, 6, 7, 8, 9, 10, 11])
    answer = kit.generate(prompt, max_tokens=6, temperature=0.0, logits_processors=[Quoting(prompt)])
    assert answer.tokens == (5, 6, 7, 8, 9, 10)


def test_figures_of_several_rows(kit: ModelKit) -> None:
    gain = run(kit, Task("two", (kit.process_prompt([5, 6, 7]),), 2, {"temperature": 0.0}))
    assert gain.tps > 0
    assert (gain.tokens_per_step, gain.right) == (1.0, ())


def test_an_error_of_a_row_is_told(kit: ModelKit) -> None:
    def fails(tokens: mx.array, logits: mx.array) -> mx.array:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(kit, Task("one", (kit.process_prompt([5, 6, 7]),), 1, {"logits_processors": [fails]}))


@pytest.mark.thorough
def test_turns_with_and_without_and_beside_mlx_vlm(checkpoint_dir: Callable[[Shape], Path]) -> None:
    def one(kit: ModelKit) -> list[Task]:
        return [Task("one", (kit.process_prompt([5, 6, 7, 8]),), 1, {"temperature": 0.0})]

    found = measure(checkpoint_dir(DENSE), ("mtp",), lambda kit: iter(one(kit)), 1, draft_tokens=2, beside=True)
    assert list(found["one"]) == ["off", "mtp", "mlx-vlm"]
    assert all(gain.tps > 0 and gain.processor > 0 for gain in found["one"].values())
    assert len(found["one"]["mtp"].right) == 2


def test_steps_are_measured_with_all_tokens_kept_and_with_one(kit: ModelKit) -> None:
    found = verify_costs(kit, (1, 2), repeats=1)
    assert list(found) == [1, 2]
    assert all(seconds > 0 for times in found.values() for seconds in times)


def test_steps_that_take_long_are_measured_fewer_times(kit: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind once at least, behind those that warm up."""
    taken: list[int] = []
    step = Decoder.step

    def watched(decoder: Decoder, tokens: mx.array, state: Any) -> Any:
        taken.append(tokens.shape[1])
        return step(decoder, tokens, state)

    monkeypatch.setattr(Decoder, "step", watched)
    verify_costs(kit, (1, 2), repeats=1000, seconds=0.0)
    assert taken == [1, 2] * 4


@pytest.mark.thorough
def test_the_command_prints_two_tables(
    checkpoint_dir: Callable[[Shape], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "_QUESTIONS", ("Count from 1 to 9.",))
    measured: dict[str, Any] = {}

    def once(name: str) -> Callable[..., Any]:
        measure = getattr(drafts, name)
        return lambda *given, **options: measured.get(name) or measured.setdefault(name, measure(*given, **options))

    for name in ("measure", "verify_costs", "draft_costs"):
        monkeypatch.setattr(drafts, name, once(name))
    arguments = ["bench", "speed", "--model", str(checkpoint_dir(DENSE)), "--speculate", "lookup", "--repeats", "1"]
    arguments += ["--lengths", "20", "--images", "1", "--batches", "2"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| behind 20 tokens |") for line in lines) == 2
    assert [line.split("|")[1].strip() for line in lines[-5:]] == ["1", "2", "3", "4", "8"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["tasks"]["2 rows"]) == {"off", "lookup"}
    assert set(report["verify_seconds"]) == {"1", "2", "3", "4", "8"}


@pytest.mark.thorough
def test_the_cost_of_steps_alone_of_a_quantised_checkpoint(
    checkpoint_dir: Callable[[Shape], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[ModelKit] = []

    def costs(kit: ModelKit, repeats: int) -> dict[int, tuple[float, float]]:
        measured.append(kit)
        assert kit.config.raw["quantization"]["bits"] == 4
        return verify_costs(kit, (1, 2), 1)

    monkeypatch.setattr(synthetic, "write_synthetic", lambda *_, **__: checkpoint_dir(DENSE))
    monkeypatch.setattr(drafts, "verify_costs", costs)
    arguments = ["bench", "speed", "--verify-only", "--repeats", "1", "--bits", "4"]
    assert main([*arguments, "--synthetic", "0.8b", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"repeats", "verify_seconds", "draft_seconds"}
    assert set(report["draft_seconds"]) == {"2", "3", "4", "8"}
    assert all(seconds > 0 for times in report["verify_seconds"].values() for seconds in times)
    assert main(arguments) == 2
    assert "--bits: expected with --synthetic" in capsys.readouterr().err
    assert len(measured) == 1


def test_another_mode_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "speed", "--speculate", "fast"])
    assert "expected one of off, mtp, lookup, auto, found 'fast'" in capsys.readouterr().err
