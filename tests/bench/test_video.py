"""Measuring clips: what is asked, what is compared, and the tables."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.bench.video import about, alike, cases, clip, piece_speeds, second_question
from mlx_qwen35.cli.main import main
from mlx_qwen35.errors import CheckpointError
from tests.tiny import DENSE, Shape


def test_clips_are_shown_as_they_are(kit: ModelKit) -> None:
    """No frame is left out or resized, whatever the checkpoint's limits are."""
    found = list(cases(kit, frames=[2, 40], side=64, tokens=4))
    assert [case.name for case in found] == ["2 frames, 64 x 64", "40 frames, 64 x 64"]
    (prompt,) = found[1].prompts
    assert [len(video) for video in prompt.videos] == [20]
    assert prompt.video_tokens == 20 * 4
    assert not (clip(4, 32)[0] == clip(4, 32)[1]).all()
    np.testing.assert_array_equal(clip(4, 32), clip(4, 32))


def test_another_question_is_about_the_same_clip(kit: ModelKit) -> None:
    one, two = (about(kit, 4, 64, question) for question in (1, 2))
    assert one.pieces == two.pieces
    assert len(one.input_ids) == len(two.input_ids)
    assert (one.input_ids[:-32] == two.input_ids[:-32]).all()
    assert (one.input_ids[-32:] != two.input_ids[-32:]).any()


def test_a_checkpoint_without_videos_is_refused(kit: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit.vision, "_videos", None)
    with pytest.raises(CheckpointError, match="expected a checkpoint that sees videos"):
        about(kit, 4, 64)


def test_answers_are_compared_up_to_the_end_of_the_other() -> None:
    assert alike([1, 2, 3], [1, 2, 3], {9}) == (3, 3)
    assert alike([1, 2, 3], [1, 5, 3], {9}) == (1, 3)
    assert alike([1, 2, 3], [1, 9, 3], {9}) == (1, 1)
    assert alike([4], [9], {9}) == (0, 0)


def test_the_second_question_encodes_nothing(checkpoint_dir: Callable[[Shape], Path]) -> None:
    first, second = second_question(checkpoint_dir(DENSE), 4, 64)
    assert (first.frames_encoded, second.frames_encoded) == (4, 0)
    assert second.read <= 33 < first.read
    assert min(first.first_token, second.first_token) > 0


@pytest.mark.thorough
def test_the_tables(checkpoint_dir: Callable[[Shape], Path], capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["bench", "video", "--model", str(checkpoint_dir(DENSE)), "--frames", "2,4", "--side", "64"]
    flags += ["--tokens", "3", "--repeats", "1", "--against", "mlx-vlm"]
    assert main(flags) == 0
    out = capsys.readouterr().out
    assert [line.split("|")[-2].strip() for line in out.splitlines() if "| mlx-vlm |" in line] == [
        "3 of 3 the same"
    ] * 2
    assert "| the second | 33 | 0 |" in out
    assert main([*flags[:-2], "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["clips"]) == {"2 frames, 64 x 64", "4 frames, 64 x 64"}
    assert [question["frames_encoded"] for question in report["questions"]] == [4, 0]


def test_the_tower_alone(checkpoint_dir: Callable[[Shape], Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Every frame goes through it, however many at once."""
    found = piece_speeds(checkpoint_dir(DENSE), 6, 64, [1, 2])
    assert list(found) == [1, 2]
    assert all(speed > 0 for speed, _ in found.values())
    assert found[1][1] < found[2][1]
    flags = [
        "bench",
        "video",
        "--model",
        str(checkpoint_dir(DENSE)),
        "--frames",
        "4",
        "--side",
        "64",
        "--pieces",
        "1,2",
    ]
    assert main(flags) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[2:]] == ["1", "2"]
    assert main([*flags, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["pieces"]) == {"1", "2"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pieces", "1", "--tokens", "9"], "--tokens: expected none with --pieces, found 9"),
        (["--pieces", "1", "--against", "mlx-vlm"], "--against: expected none with --pieces"),
        (["--pieces", "2,0"], "--frames, --pieces: expected"),
        (["--frames", "0"], "--frames, --pieces: expected"),
    ],
)
def test_flags_that_cannot_be_obeyed(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "video", *flags]) == 2
    assert message in capsys.readouterr().err
