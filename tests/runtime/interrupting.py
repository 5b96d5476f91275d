"""Ctrl-C at every moment of a piece of work, one after the other."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from mlx_qwen35.runtime import loop

# Ctrl-C elsewhere passes through these.
FILES = (str(Path(loop.__file__).parent), threading.__file__)


class _Interrupting:
    """At the n-th moment at which Python would look for a signal: a function begins, or one in C has ended."""

    def __init__(self, moment: int) -> None:
        self.left = moment

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(FILES):
            self.left -= 1
            if self.left == 0:
                sys.setprofile(None)
                raise KeyboardInterrupt


def interrupted_anywhere(work: Callable[[], object]) -> Iterator[None]:
    """The work, interrupted at its first moment, at its second one and so on, until it ends by itself."""
    moment, interrupted = 0, True
    while interrupted:
        moment += 1
        interrupting, before = _Interrupting(moment), sys.getprofile()
        sys.setprofile(interrupting)
        try:
            work()
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(before)
        interrupted = interrupting.left == 0
        yield
