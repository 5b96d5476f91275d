"""The terminal that a chat runs in: what it can show, and what is typed while nobody reads."""

import os
import signal
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

# What would move the cursor or ring the bell, if a model wrote it; tabs and line ends stay.
CONTROLS = {code: None for code in [*range(32), 127, *range(128, 160)] if chr(code) not in "\t\n"}


def takes_escapes(stream: TextIO) -> bool:
    """Whether escape sequences may be written: to a terminal that is not dumb, and not where NO_COLOR is set."""
    return stream.isatty() and os.environ.get("TERM") not in (None, "", "dumb") and not os.environ.get("NO_COLOR")


@contextmanager
def quiet_typing() -> Iterator[None]:
    """What is typed meanwhile is not shown, stays until somebody reads it, and survives a Ctrl-C."""
    try:
        before = termios.tcgetattr(sys.stdin.fileno())
    except (OSError, ValueError, termios.error):  # no terminal
        yield
        return
    quiet = [*before[:6], list(before[6])]
    quiet[0] &= ~termios.ICRNL  # so that Enter comes as an editor expects it
    quiet[3] = quiet[3] & ~(termios.ECHO | termios.ICANON) | termios.NOFLSH
    quiet[6][termios.VMIN], quiet[6][termios.VTIME] = 1, 0
    # Whoever ends the program leaves a terminal that shows what is typed.
    ended = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, quiet)
        yield
    finally:
        signal.signal(signal.SIGTERM, ended)
        # The terminal may be gone.
        with suppress(OSError, termios.error):
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, before)


@contextmanager
def echo_typing() -> Iterator[None]:
    """Inside `quiet_typing`, a line that Python's own input() reads."""
    before = termios.tcgetattr(sys.stdin.fileno())
    loud = [*before[:3], before[3] | termios.ECHO | termios.ICANON, *before[4:]]
    loud[0] |= termios.ICRNL
    try:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, loud)
        yield
    finally:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, before)
