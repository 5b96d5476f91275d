"""What was read before, so that no later prompt has to read it again.

While a prompt is read and an answer is written, the state of the sequence is kept at
`Prompt.branch_points` and at the end, in a line. The next prompt begins at the last kept
place up to which it is the same, images included, on whichever line that is.
"""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_qwen35.errors import SessionError
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.state.cache import AttentionCache
from mlx_qwen35.state.disk import read_line, write_line
from mlx_qwen35.state.snapshots import ImageRun, Line, LineData, Snapshot, images_of, tokens_in

# These many snapshots of a line survive when room is short: a conversation goes on near its end.
_NEWEST = 6
# The disk takes this many times what memory does.
_DISK_FACTOR = 10


@dataclass
class Reading:
    """A prompt on its way into caches of its own, from where an earlier one left off.

    Args:
        caches: One per layer; the first `start` tokens are read.
        start: Tokens that need not be read again.
        written: Tokens of the answer that the caches have read.
        images_encoded: Images that the vision tower had to look at.
        snapshots: Taken so far, and before; None if none are to be taken.
    """

    prompt: Prompt
    caches: list[Any]
    start: int = 0
    written: list[int] = field(default_factory=list)
    images_encoded: int = 0
    snapshots: list[Snapshot] | None = None

    def take_snapshot(self) -> None:
        """Remember the states as they are, unless none are to be taken."""
        if self.snapshots is not None:
            self.snapshots.append(Snapshot.take(self.caches))


class PromptCache:
    """Lines within a budget of memory, and of disk; only on the thread that owns MLX.

    Args:
        make_cache: Makes fresh caches, one per layer.
        budget: At most this many bytes of memory; 0 keeps nothing.
        fingerprint: Of the model, for what goes to disk.
        directory: Where lines go that memory has no room for; None forgets them.
    Raises:
        SessionError: The directory cannot be written.
    """

    def __init__(
        self, make_cache: Callable[[], list[Any]], budget: int, *, fingerprint: str, directory: Path | None = None
    ) -> None:
        self.budget = budget
        self._make_cache = make_cache
        self._fingerprint = fingerprint
        self._lines: list[Line] = []  # least recently used first
        self._written = 0
        self._closed = False
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        if directory is not None:
            try:
                self._directory = tempfile.TemporaryDirectory(prefix="mlx-qwen35-", dir=directory)
            except OSError as error:
                raise SessionError(f"{directory}: cannot be written ({error.strerror or error})") from error

    @property
    def nbytes(self) -> int:
        """Bytes of memory held; snapshots that lines share count once."""
        held = [array for line in list(self._lines) if line.data is not None for array in line.data.arrays()]
        return sum({id(array): array.nbytes for array in held}.values())

    @property
    def disk_bytes(self) -> int:
        """Bytes of disk held."""
        return sum(line.file_bytes for line in list(self._lines))

    def __len__(self) -> int:
        return len(self._lines)

    def begin(self, prompt: Prompt) -> Reading:
        """Caches that hold as much of a prompt as was read before, but never its last token."""
        images = images_of(prompt)
        while (found := self._find(prompt.input_ids, images)) is not None:
            line, place = found
            data = self._recall(line)
            if data is not None:
                kept = [snapshot for snapshot in data.snapshots if snapshot.tokens <= place]
                return Reading(prompt, data.restore(place), place, snapshots=kept)
        return Reading(prompt, self._make_cache(), snapshots=[] if self.budget else None)

    def keep(self, reading: Reading) -> None:
        """Remember what was read, in place of the lines that it continues."""
        tokens, prompt, snapshots = tokens_in(reading.caches), reading.prompt, reading.snapshots
        input_ids = np.concatenate([prompt.input_ids, np.array(reading.written, dtype=np.int32)])
        if snapshots is None or self._closed or not reading.start < tokens <= len(input_ids):
            return
        inside = prompt.layout is not None and prompt.layout.inside(tokens) is not None
        if not inside and (not snapshots or snapshots[-1].tokens < tokens):
            reading.take_snapshot()
        if not snapshots or snapshots[-1].tokens <= reading.start:
            return
        attention = [
            (cache.keys[...], cache.values[...]) if isinstance(cache, AttentionCache) else None
            for cache in reading.caches
        ]
        data = LineData(list(snapshots), attention)
        mx.eval(data.arrays())
        end = snapshots[-1].tokens
        images = tuple(image for image in images_of(prompt) if image.stop <= end)
        places = [snapshot.tokens for snapshot in snapshots]
        self.insert(Line(input_ids[:end], images, min(prompt.turn, end), places, data))

    def insert(self, line: Line) -> None:
        """Add a line as the newest, unless it is larger than the budget, or a part of another one.

        Lines that it continues go; so do those whose last turn it shows as the template writes it anew.
        """
        assert line.data is not None
        if line.data.nbytes > self.budget:
            line.thin(_NEWEST)
        if line.data.nbytes > self.budget:
            return
        for other in list(self._lines):
            shared = line.shared(other.input_ids, other.images)
            if shared == len(line) < len(other):
                self._touch(other)
                return
            if shared == len(other) or (shared >= other.turn and line.turn > other.turn):
                self._drop(other)
        self._lines.append(line)
        self.shrink(self.budget)

    def save(self, path: Path, prompt: Prompt | None) -> int:
        """Write what was read of a prompt's conversation, or of the newest; returns the number of tokens.

        Of a line that the prompt only begins like, just that beginning is written.

        Raises:
            SessionError: Nothing fits, or the file cannot be written.
        """
        line, place = (self._lines[-1], -1) if self._lines else (None, 0)
        if prompt is not None:
            line, place = self._find(prompt.input_ids, images_of(prompt)) or (None, 0)
        data = None if line is None else line.data or self._recall(line)
        if line is None or data is None:
            raise SessionError("session: expected a conversation that was read, found none in the prompt cache")
        if prompt is None or line.shared(prompt.input_ids, images_of(prompt)) >= line.turn:
            place = len(line)
        write_line(path, line.cut(data, place), self._fingerprint)
        return place

    def load(self, path: Path) -> int:
        """Add what `save` wrote; returns its tokens.

        Raises:
            SessionError: See `read_line`; or the session is larger than the budget.
        """
        with suppress(OSError):
            size = path.stat().st_size
            if size > self.budget:
                raise SessionError(
                    f"{path}: expected at most {self.budget} bytes (the prompt cache's budget), found {size}"
                )
        line = read_line(path, self._fingerprint, self._make_cache())
        self.insert(line)
        return len(line)

    def clear(self) -> None:
        """Forget everything, on disk too."""
        for line in list(self._lines):
            self._drop(line)

    def close(self) -> None:
        """Forget everything, keep nothing any more, and leave the directory."""
        self._closed = True
        self.clear()
        if self._directory is not None:
            self._directory.cleanup()

    def _find(self, input_ids: Any, images: tuple[ImageRun, ...]) -> tuple[Line, int] | None:
        """The line and the place on it from which the least is left to read."""
        best: tuple[Line, int] | None = None
        for line in reversed(self._lines):
            limit = min(line.shared(input_ids, images), len(input_ids) - 1)
            place = max((place for place in line.places if place <= limit), default=0)
            if place > (best[1] if best else 0):
                best = line, place
        return best

    def _recall(self, line: Line) -> LineData | None:
        """A line's arrays, from disk if need be, as the most recently used; a file that is gone costs the line."""
        self._touch(line)
        if line.data is None:
            assert line.file is not None
            try:
                line.data = read_line(line.file, self._fingerprint, self._make_cache()).data
            except SessionError:
                self._drop(line)
                return None
        data = line.data
        self.shrink(self.budget)
        return data

    def _touch(self, line: Line) -> None:
        self._lines.remove(line)
        self._lines.append(line)

    def _drop(self, line: Line) -> None:
        self._lines.remove(line)
        self._unlink(line)

    def _unlink(self, line: Line) -> None:
        if line.file is not None:
            with suppress(OSError):
                line.file.unlink()
            line.file, line.file_bytes = None, 0

    def shrink(self, size: int) -> None:
        """Come down to `size` bytes of memory: old snapshots go first, then lines, least recently used first."""
        held = self.nbytes
        for line in self._lines:
            if held > size and line.thin(_NEWEST):
                held = self.nbytes
        for line in list(self._lines):
            if held > size and line.data is not None:
                self._evict(line)
                held = self.nbytes
                mx.clear_cache()

    def _evict(self, line: Line) -> None:
        """To disk if there is a place for it, else out."""
        if self._directory is not None and line.file is None:
            self._written += 1
            file = Path(self._directory.name) / f"{self._written}.safetensors"
            # A full disk is no reason to fail the request that needs the room.
            with suppress(SessionError, OSError):
                write_line(file, line, self._fingerprint)
                line.file, line.file_bytes = file, file.stat().st_size
        if line.file is None:
            self._drop(line)
            return
        line.data = None
        for other in sorted(self._lines, key=lambda other: other.data is None):
            if self.disk_bytes <= _DISK_FACTOR * self.budget:
                return
            # What is in memory too can be written again.
            self._unlink(other)
            if other.data is None:
                self._lines.remove(other)
