"""Completion in shells."""

import argparse
import subprocess
from pathlib import Path

import pytest

from mlx_qwen35.cli.completion import SHELLS, all_actions
from mlx_qwen35.cli.main import build_parser
from tests.cli.test_commands import run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["mod"], {"models"}),
        (["models", ""], {"list", "ls", "pull", "rm", "remove"}),
        (["generate", "--temp"], {"--temp", "--temperature"}),
        (["serve", "--log-level", "w"], {"warning"}),
        (["chat", "--image", "pic"], {"picture.png"}),
    ],
)
def test_bash_completes_what_it_prints(tmp_path: Path, words: list[str], expected: set[str]) -> None:
    (tmp_path / "picture.png").touch()
    script = tmp_path / "script"
    script.write_text(run("completion", "bash").stdout)
    line = " ".join(f"'{word}'" for word in ["mlx-qwen35", *words])
    ask = f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_mlx_qwen35; printf '%s\\n' "
    done = subprocess.run(
        ["bash", "-c", ask + '"${COMPREPLY[@]}"'], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_learns_every_command(shell: str) -> None:
    script = run("completion", shell).stdout
    for action in all_actions(build_parser()):
        if isinstance(action, argparse._SubParsersAction):
            assert [name for name in action.choices if name not in script] == []
