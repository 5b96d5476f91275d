"""What a terminal can show."""

import io
import os
import signal
import termios
from collections.abc import Callable, Iterator

import pytest

from mlx_qwen35.cli.terminal import quiet_typing, takes_escapes


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


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Standard input that is a terminal, and the descriptor behind it."""
    master, slave = os.openpty()
    with open(slave) as stdin:  # noqa: PTH123
        monkeypatch.setattr("sys.stdin", stdin)
        yield slave
    os.close(master)


def echoes(descriptor: int) -> bool:
    return bool(termios.tcgetattr(descriptor)[3] & termios.ECHO)


def interrupt() -> None:
    raise KeyboardInterrupt


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("end", "error"), [(interrupt, KeyboardInterrupt), (terminate, SystemExit)])
def test_typing_is_quiet_and_the_terminal_is_left_as_it_was(
    terminal: int, end: Callable[[], None], error: type[BaseException]
) -> None:
    def use() -> None:
        with quiet_typing():
            assert not echoes(terminal)
            end()

    before, handler = termios.tcgetattr(terminal), signal.getsignal(signal.SIGTERM)
    with pytest.raises(error):
        use()
    assert termios.tcgetattr(terminal) == before
    assert signal.getsignal(signal.SIGTERM) is handler
