"""The next turn after a restart, measured."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_qwen35.bench import restart
from mlx_qwen35.bench.turns import Cost
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.cli.main import main
from mlx_qwen35.errors import OptionError
from tests.tiny import DENSE, Shape


@pytest.mark.parametrize("images", [False, True])
def test_the_second_turn_goes_on_from_the_first(images: bool) -> None:
    first, second = restart.write_turns(len, 3000, images=images)
    assert 3000 <= len(first[0]["content"]) < 3300
    assert second[: len(first)] == first
    assert [message["role"] for message in second] == ["system", "user", "assistant", "user"]
    assert isinstance(first[1]["content"], list) is images


def test_a_context_is_raised_in_a_copy_and_only_if_it_has_to_be(checkpoint_dir: Callable[[Shape], Path]) -> None:
    directory = checkpoint_dir(DENSE)
    with restart.with_context(directory, 4096) as same:
        assert same == directory
    with restart.with_context(directory, 4097) as raised:
        assert Checkpoint.open(raised).config.text.context_length == 4097
        weights = raised / "model.safetensors"
        assert weights.resolve() == (directory / "model.safetensors").resolve()
    assert not raised.exists()
    assert Checkpoint.open(directory).config.text.context_length == 4096


def test_a_file_counts_once_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart, "_WAIT_SECONDS", 0)
    (tmp_path / "mlx-qwen35-a.safetensors.b.safetensors").touch()
    with pytest.raises(OptionError, match="expected a file of the prompt cache, found none"):
        restart._wait_for_file(tmp_path)
    (tmp_path / "mlx-qwen35-a.safetensors").touch()
    restart._wait_for_file(tmp_path)


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"cold": [Cost(900, 900, None, 2.0)], "killed": [Cost(900, 20, None, 0.1)]}
    monkeypatch.setattr(restart, "measure", lambda *_: costs)
    assert main(["bench", "turns", "--restart", "--tokens", "500"]) == 0
    shown = capsys.readouterr().out
    assert "| cold | 900 | 900 | 2000 ms | 1.000 |" in shown
    assert "| killed | 900 | 20 | 100 ms | 0.050 |" in shown
    assert main(["bench", "turns", "--restart", "--tokens", "500", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["next_turn"]["killed"]["prefilled"] == 20


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tokens", "500"], "--tokens: expected with --restart, found 500 without"),
        (["--restart", "--tokens", "0"], "--tokens: expected"),
        (["--restart", "--against", "mlx-lm"], "--against: expected none with --restart"),
        (["--restart", "--agent"], "--restart: expected none with --agent"),
    ],
)
def test_flags_that_do_not_fit(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "turns", *flags]) == 2
    assert message in capsys.readouterr().err
