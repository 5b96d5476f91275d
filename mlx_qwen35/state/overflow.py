"""Directories for what memory has no room for: of one process each, and gone when it is."""

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PREFIX = "mlx-qwen35-"
LOCK = "in-use"
# Seconds after which a directory without a lock was not just made.
_GRACE = 60.0


class OverflowDirectory:
    """A private directory below one that several processes may share.

    A process that was killed leaves its directory behind, and with it what was said; the next one to come removes it.
    Which ones are in use is told by a lock on a file inside, that ends with the process.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, parent: Path) -> None:
        remove_abandoned(parent)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))  # for this user only
        self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove it, with all that is in it."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def remove_abandoned(parent: Path) -> None:
    """Remove the directories that processes which are gone have left."""
    for path in parent.glob(f"{PREFIX}*"):
        # Of other users, or gone meanwhile.
        with suppress(OSError):
            if path.is_symlink() or not path.is_dir():
                continue
            try:
                lock = os.open(path / LOCK, os.O_RDWR)
            except FileNotFoundError:
                # Of an earlier version, or about to be locked.
                if time.time() - path.stat().st_mtime > _GRACE:
                    shutil.rmtree(path)
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(lock)
