"""A directory of prefixes on disk, which outlives its processes and may be shared by several.

Every prefix is a file of its own, whole or not there, named after what it holds. So there is nothing to lock: what one
process has written no other needs to write, and a file that another process has removed is one that cannot be read.
"""

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from mlx_qwen35.errors import SessionError
from mlx_qwen35.state.disk import read_outline, write_prefix
from mlx_qwen35.state.prefix import Prefix
from mlx_qwen35.state.sequence import FrozenState
from mlx_qwen35.state.write_journal import WriteJournal

logger = logging.getLogger(__name__)

# The model, and what was read.
_NAME = re.compile(r"mlx-qwen35-[0-9a-f]{16}-[0-9a-f]{32}\.safetensors")
# What `write_prefix` calls a file before it is whole.
_PART = re.compile(_NAME.pattern + r"\.[0-9a-f]{32}\.safetensors")
# Seconds after which nobody writes to such a file any more.
_ABANDONED = 3600.0
_JOURNAL = "mlx-qwen35-written"


class KeptFiles:
    """Prefixes of one model in a directory; files of other models in it are left alone, except to bound it.

    Args:
        directory: Has to be there.
        fingerprint: Of the model and its arithmetic.
        capacity: At most so many bytes of prefixes, of all models and processes together; least recently used go first.
        per_hour: At most so many bytes are written in an hour, by all processes together.
        clock: The time in seconds, as files have it.
    Raises:
        SessionError: It cannot be written.
    """

    def __init__(
        self, directory: Path, fingerprint: str, *, capacity: int, per_hour: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.capacity = capacity
        self._directory, self._fingerprint, self._clock = directory, fingerprint, clock
        self._model = hashlib.blake2b(fingerprint.encode(), digest_size=8).hexdigest()
        self._seen: int | None = None
        self._journal = WriteJournal(directory / _JOURNAL, per_hour, clock)
        try:
            self._journal.check()
        except OSError as error:
            raise SessionError(f"{directory}: cannot be written ({error.strerror or error})") from error

    def changed(self) -> bool:
        """Whether files may have come or gone since `scan`."""
        return self._modified() != self._seen

    def scan(self, known: Collection[Path | None] = ()) -> list[Prefix]:
        """The prefixes of this model that are there, without their arrays, least recently used first.

        A file that is damaged is removed, with a warning.

        Args:
            known: Files that are left out.
        """
        # Before the names are read: what comes meanwhile is seen the next time.
        self._seen = self._modified()
        found = []
        for path, _ in self._files():
            if path in known or self._model not in path.name:
                continue
            try:
                outline = read_outline(path, self._fingerprint)
            except SessionError as error:
                self.discard(path, error)
            else:
                found += [] if outline is None else [outline]
        return found

    def write(self, prefix: Prefix, state: FrozenState) -> tuple[Path, int] | None:
        """Write a prefix unless it is there, and remove what there is no room for then.

        Returns:
            The file and its bytes; None if it cannot be written, or too much was written lately.
        """
        path, size = self.path_of(prefix), state.nbytes
        if (found := _bytes_of(path)) is not None:
            self.use(path)
            return path, found
        if size > self.capacity or not self._journal.reserve(size):
            return None
        self._make_room(size)
        try:
            write_prefix(path, prefix, state, self._fingerprint)
        except (SessionError, OSError) as error:
            # A full disk is no reason to fail what is being answered.
            logger.warning("%s", error)
            return None
        self._make_room(0)
        found = _bytes_of(path)
        return None if found is None else (path, found)

    def use(self, path: Path) -> None:
        """A file was asked for; whether it is still there shows when it is read."""
        with suppress(OSError):
            os.utime(path, (now := self._clock(), now))

    def remove(self, path: Path) -> None:
        """Remove a file, unless that was done."""
        with suppress(OSError):
            path.unlink()

    def remove_all(self, prefix: Prefix, but: Path | None = None) -> None:
        """Remove all files of a prefix, except one."""
        for path in (prefix.file, *prefix.earlier):
            if path is not None and path != but:
                self.remove(path)

    def discard(self, path: Path, error: SessionError) -> None:
        """Remove a file that could not be read, and say so; nothing if somebody removed it meanwhile."""
        if path.exists():
            logger.warning("%s; it is removed", error)
            self.remove(path)

    def path_of(self, prefix: Prefix) -> Path:
        """What a prefix's file is called."""
        digest = hashlib.blake2b(prefix.keys.tobytes(), digest_size=16)
        digest.update(repr((prefix.turn_start, prefix.snapshot_tokens)).encode())
        digest.update(repr(prefix.images).encode())
        return self._directory / f"mlx-qwen35-{self._model}-{digest.hexdigest()}.safetensors"

    def _modified(self) -> int | None:
        try:
            return self._directory.stat().st_mtime_ns
        except OSError:
            return None

    def _files(self) -> list[tuple[Path, int]]:
        """Prefixes of all models with their sizes, least recently used first; what nobody finished is removed."""
        found = []
        with suppress(OSError):
            for entry in os.scandir(self._directory):
                # Others may go on removing.
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    # What other users leave in a directory of all is nothing to go on from, or to remove.
                    if not entry.is_file(follow_symlinks=False) or status.st_uid != os.geteuid():
                        continue
                    if _NAME.fullmatch(entry.name):
                        found.append((status.st_mtime, Path(entry.path), status.st_size))
                    elif _PART.fullmatch(entry.name) and self._clock() - status.st_mtime > _ABANDONED:
                        self.remove(Path(entry.path))
        return [(path, size) for _, path, size in sorted(found)]

    def _make_room(self, size: int) -> None:
        files = self._files()
        used = sum(own for _, own in files) + size
        for path, own in files:
            if used <= self.capacity:
                return
            self.remove(path)
            used -= own


def _bytes_of(path: Path) -> int | None:
    """Of a file; None if it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return None
