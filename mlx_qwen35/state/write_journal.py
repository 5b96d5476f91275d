"""How much was written to a directory in the last hour, by all processes that share it, so that no disk wears out."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_HOUR = 3600.0
# More than this are never needed: an entry takes some thirty bytes, and a file takes a while to write.
_MOST_BYTES = 2**20
_TRIES, _PAUSE = 20, 0.05


class WriteJournal:
    """A file with a line for every write of the last hour: when, and how many bytes.

    Args:
        per_hour: At most so many bytes.
    """

    def __init__(self, path: Path, per_hour: int, clock: Callable[[], float] = time.time) -> None:
        self._path, self._per_hour, self._clock = path, per_hour, clock

    def check(self) -> None:
        """Make sure that it can be written.

        Raises:
            OSError: It cannot.
        """
        os.close(self._open())

    def reserve(self, nbytes: int) -> bool:
        """Enter a write that is to come, unless that is too much now, or the journal cannot be had."""
        if nbytes > self._per_hour:
            return False
        try:
            with self._locked() as file:
                return file is not None and self._enter(file, nbytes)
        except OSError:
            return False

    def _enter(self, file: int, nbytes: int) -> bool:
        now = self._clock()
        recent = [(when, size) for when, size in _entries(os.pread(file, _MOST_BYTES, 0)) if abs(now - when) < _HOUR]
        if sum(size for _, size in recent) + nbytes > self._per_hour:
            return False
        lines = "".join(f"{when:.0f} {size}\n" for when, size in [*recent, (now, nbytes)]).encode()
        os.ftruncate(file, 0)
        os.pwrite(file, lines, 0)
        return True

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    @contextmanager
    def _locked(self) -> Iterator[int | None]:
        """The open file, for this process alone; None if another one does not let it go."""
        file = self._open()
        try:
            for _ in range(_TRIES):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(_PAUSE)
                else:
                    yield file
                    return
            yield None
        finally:
            os.close(file)


def _entries(data: bytes) -> Iterator[tuple[float, int]]:
    """Of lines that are none, as after a loss of power, nothing."""
    for line in data.decode("ascii", "replace").splitlines():
        try:
            when, size = line.split()
            yield float(when), max(int(size), 0)
        except ValueError:
            continue
