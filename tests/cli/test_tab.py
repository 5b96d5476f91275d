"""What Tab completes."""

from pathlib import Path

import pytest

from mlx_qwen35.cli.tab import PATHS, completions

COMMANDS = {"/image": PATHS, "/save": PATHS, "/system": (), "/set": ("seed", "temperature", "top_k")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my pictures").mkdir()
    for name in ("my pictures/a (1).png", "b.png", ".hidden"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/s", ["/save ", "/system", "/set "]),
        ("/im", ["/image "]),
        ("/set t", ["/set temperature", "/set top_k"]),
        ("/set", ["/set "]),
        ("/image ", ["/image b.png", "/image my pictures/"]),
        ("/image my p", ["/image my pictures/"]),
        ("/image my pictures/", ["/image my pictures/a (1).png"]),
        ("/image .", ["/image .hidden"]),
        ("what is ~/", ["what is ~/b.png", "what is ~/my\\ pictures/"]),
        ("what is ./my\\ pictures/a", ["what is ./my\\ pictures/a\\ \\(1\\).png"]),
        ("hello b", []),
        ("/system b", []),
        ("/image /nowhere/", []),
        ("~nobody-of-this-name/", []),
    ],
)
def test_what_may_follow(folder: Path, line: str, expected: list[str]) -> None:
    start, found = completions(line, COMMANDS)
    assert [line[:start] + text for text in found] == expected
