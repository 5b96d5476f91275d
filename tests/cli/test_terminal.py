"""What a terminal can show."""

import io

import pytest

from mlx_qwen35.cli.terminal import takes_escapes


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("term", "no_color", "expected"),
    [("xterm", None, True), ("xterm", "", True), ("xterm", "1", False), ("dumb", None, False), (None, None, False)],
)
def test_escapes_go_to_terminals_that_want_them(
    monkeypatch: pytest.MonkeyPatch, term: str | None, no_color: str | None, expected: bool
) -> None:
    for name, value in (("TERM", term), ("NO_COLOR", no_color)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert takes_escapes(Terminal()) is expected
    assert not takes_escapes(io.StringIO())
