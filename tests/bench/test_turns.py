"""The measurements measure what they say."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.bench import conversation, parents, turns
from mlx_qwen35.bench.conversation import TOOLS, Step, write_conversation
from mlx_qwen35.cli.main import main
from tests.tiny import DENSE, Shape


@pytest.fixture(scope="module")
def steps(kit: ModelKit) -> list[Step]:
    return write_conversation(lambda text: len(kit.tokenizer.encode(text)))


def test_the_script(kit: ModelKit, steps: list[Step]) -> None:
    assert [step.turn for step in steps] == [1, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10]
    names = [step.name for step in steps if step.name != "text"]
    assert names == ["image", "tool call", "tool result", "image", "regenerate"]
    assert len(kit.tokenizer.encode(steps[0].messages[0]["content"])) >= 1000
    assert kit.process_prompt(steps[-1].messages, tools=TOOLS).layout is not None


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Step]]:
    """The conversation with short texts, which make no difference to what is read again."""
    monkeypatch.setattr(conversation, "_REASONING", "The question is about what was shown. ")
    monkeypatch.setattr(conversation, "_ANSWER", "There is a red circle. ")
    return lambda: write_conversation(lambda _: 1000)


@pytest.mark.thorough
def test_no_token_is_read_twice_beyond_what_the_template_forces(
    checkpoint_dir: Callable[[Shape], Path], brief: Callable[[], list[Step]]
) -> None:
    """What is read is what differs from the sequence before, and at least one token."""
    steps = brief()
    images = []
    before: list[int] = []
    with ModelKit.load(checkpoint_dir(DENSE)) as kit:
        for step in steps:
            cost = turns.run(kit, step)
            images.append(cost.images_encoded)
            ids = kit.process_prompt(step.messages, tools=TOOLS).input_ids.tolist()
            known = next((n for n, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), len(before))
            assert cost.prefilled == len(ids) - min(known, len(ids) - 1), (step.turn, step.name)
            before = ids + turns._reply(kit, step)
    assert images == [0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0]


@pytest.mark.thorough
def test_cold_warm_and_ahead(checkpoint_dir: Callable[[Shape], Path], brief: Callable[[], list[Step]]) -> None:
    steps = brief()[2:4]
    found = turns.measure(checkpoint_dir(DENSE), steps, repeats=1)
    assert [cost.prefilled for cost in found["cold"]] == [cost.prompt_tokens for cost in found["cold"]]
    assert [cost.images_encoded for cost in found["cold"]] == [1, 1]
    assert [cost.images_encoded for cost in found["warm"]] == [1, 0]
    assert found["ahead"][1].prefilled < found["warm"][1].prefilled < found["cold"][1].prefilled


def test_medians_are_of_times_only() -> None:
    runs = [[turns.Cost(5, 5, 0, seconds)] for seconds in (3.0, 1.0, 2.0)]
    assert turns.medians(runs) == [turns.Cost(5, 5, 0, 2.0)]


@pytest.mark.thorough
@pytest.mark.parametrize("parent", ["mlx-lm", "mlx-vlm"])
def test_a_parent_s_server(
    checkpoint_dir: Callable[[Shape], Path], kit: ModelKit, parent: str, brief: Callable[[], list[Step]]
) -> None:
    """Its own count of the same prompt is ours, up to a little in how it writes tools."""
    steps = write_conversation(lambda _: 1000, images=parent == "mlx-vlm")[2:4]
    costs = parents.measure(parent, checkpoint_dir(DENSE), steps, repeats=1)
    expected = [len(kit.process_prompt(step.messages, tools=TOOLS).input_ids) for step in steps]
    assert [cost.prompt_tokens for cost in costs] == pytest.approx(expected, abs=8)
    assert all(cost.seconds > 0 and 0 < cost.prefilled <= cost.prompt_tokens for cost in costs)


def test_the_command(
    checkpoint_dir: Callable[[Shape], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = turns.Cost(9, 3, 1, 0.25)
    monkeypatch.setattr(turns, "measure", lambda _, steps, __: {n: [cost] * len(steps) for n in ("cold", "warm")})
    command = ["bench", "turns", "--model", str(checkpoint_dir(DENSE))]
    assert main(command) == 0
    assert "| 8 | regenerate | 9 | 3, 1, 250 ms | 3, 1, 250 ms |" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["steps"]
    assert rows[2]["name"] == "image"
    assert rows[2]["warm"] == {"prompt_tokens": 9, "prefilled": 3, "images_encoded": 1, "seconds": 0.25}
    assert main([*command, "--repeats", "0"]) == 2
    assert "--repeats: expected a whole number of at least 1" in capsys.readouterr().err
