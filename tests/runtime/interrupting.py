"""Ctrl-C at every moment of a piece of work, one after the other."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from mlx_qwen35.runtime import loop

# Ctrl-C elsewhere passes through these.
FILES = (str(Path(loop.__file__).parent), threading.__file__)


def may_leave_locks_held() -> bool:
    """Whether this Python lets Ctrl-C in between a lock's taking and its `with` block, as 3.14 does and 3.11 does not.

    Nothing that is written in Python can be safe from that. It takes a signal in these nanoseconds.
    """
    lock = threading.RLock()

    def interrupt(frame: FrameType, event: str, argument: object) -> None:
        if event == "c_return" and getattr(argument, "__name__", "") == "__enter__":
            raise KeyboardInterrupt

    before = sys.getprofile()
    sys.setprofile(interrupt)
    try:
        with lock:
            pass
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(before)
    return not _free(lock)


def _free(lock: "threading.RLock") -> bool:
    """Whether another thread can have it."""
    found: list[bool] = []
    other = threading.Thread(target=lambda: found.append(lock.acquire(blocking=False)))
    other.start()
    other.join()
    return found == [True]


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
