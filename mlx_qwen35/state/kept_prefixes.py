"""Prefixes that are held: in memory within a budget, and on disk, from where they outlive the process."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from weakref import WeakMethod

import mlx.core as mx
import numpy as np

from mlx_qwen35.errors import SessionError
from mlx_qwen35.state.disk import read_prefix
from mlx_qwen35.state.disk_thread import Alarm, DiskThread
from mlx_qwen35.state.kept_files import KeptFiles
from mlx_qwen35.state.layout import StateLayout
from mlx_qwen35.state.prefix import Prefix
from mlx_qwen35.state.prefix_index import PrefixIndex
from mlx_qwen35.state.sequence import FrozenState, MakeCaches, SharedBytes

logger = logging.getLogger(__name__)

# These many snapshots of a prefix survive when room is short: a conversation goes on near its end.
_NEWEST = 6
# Seconds after which a prefix is written to disk: soon if what is not there yet is more than this share of it, for that
# would have to be read again.
_SOON, _LATER = 3.0, 60.0
_SHARE = 1 / 16


class KeptPrefixes:
    """Prefixes within a budget of memory, and on disk; any thread, except that states are restored where MLX runs.

    What is kept is written to disk some seconds later, so that another process may go on from it when this one is gone.

    Args:
        make_caches: Makes fresh caches, one per layer.
        budget: At most this many bytes of memory; 0 keeps nothing.
        fingerprint: Of the model and its arithmetic, for what goes to disk.
        files: Where prefixes are kept on disk, those of other processes too; None keeps them in memory only.
        account: Is told the bytes of memory held whenever they change, and says how many of them are too many.
        layout: Gives that of the model's states, which sessions are held against; not called where MLX runs.
    """

    def __init__(
        self,
        make_caches: MakeCaches,
        budget: int,
        *,
        fingerprint: str,
        files: KeptFiles | None = None,
        account: Callable[[int], int] = lambda nbytes: 0,
        layout: Callable[[], StateLayout] | None = None,
    ) -> None:
        self.budget = budget
        self._make_caches = make_caches
        self._fingerprint = fingerprint
        self._account = account
        self._layout = layout
        self._files = files
        self._prefixes = PrefixIndex()
        self._held, self._leaving = SharedBytes(), SharedBytes()
        # Held for bookkeeping only, never while something is computed, read or written.
        self._lock = threading.RLock()
        self._disk = DiskThread()
        # Waiting keeps nobody alive: what is forgotten without being closed goes at once.
        self._alarm = Alarm(WeakMethod(self._post_due))
        self._closed = False
        self._look()

    @property
    def nbytes(self) -> int:
        """Bytes of memory held, without what is on its way to disk; snapshots that prefixes share count once."""
        return self._held.nbytes

    @property
    def disk_bytes(self) -> int:
        """Bytes of disk held; waits until what is on its way has arrived."""
        self._disk.wait()
        with self._lock:
            return sum(prefix.file_bytes for prefix in self._prefixes)

    def __len__(self) -> int:
        return len(self._prefixes)

    def shrink(self, size: int) -> None:
        """Come down to `size` bytes of memory: old snapshots go first, then prefixes, least recently used first."""
        with self._lock:
            for prefix in self._prefixes:
                if self.nbytes > size:
                    self._thin(prefix)
            for prefix in list(self._prefixes):
                if self.nbytes > size and prefix.state is not None and not prefix.leaving:
                    self._evict(prefix)
            self._report()

    def reclaim(self, nbytes: int) -> None:
        """Give back so many bytes, as far as there are as many."""
        self.shrink(max(0, self.nbytes - nbytes))
        mx.clear_cache()

    def clear(self) -> None:
        """Forget everything, on disk too."""
        with self._lock:
            for prefix in list(self._prefixes):
                self._drop(prefix)
                if self._files is not None:
                    self._files.remove_all(prefix)
            self._report()

    def close(self) -> None:
        """Write what is not on disk yet, forget everything, and keep nothing any more."""
        self._alarm.close()
        with self._lock:
            newest_first = [] if self._files is None or self._closed else list(reversed(self._prefixes))
        for prefix in newest_first:
            self._disk.call(self._write, prefix)
        with self._lock:
            self._closed = True
        self._disk.close()
        with self._lock:
            for prefix in list(self._prefixes):
                self._drop(prefix)
            self._report()

    def _fits(self, prefix: Prefix) -> bool:
        assert prefix.state is not None
        if prefix.state.nbytes > self.budget:
            self._thin(prefix)
        return prefix.state.nbytes <= self.budget

    def _thin(self, prefix: Prefix) -> None:
        """Let old snapshots go, but not the first, not the one at `turn_start`, and not the newest."""
        state = prefix.state
        if state is None or prefix.file is not None or prefix.leaving or prefix.writing:
            return
        kept = {prefix.snapshot_tokens[0], prefix.turn_start, *prefix.snapshot_tokens[-_NEWEST:]}
        if kept.issuperset(prefix.snapshot_tokens):
            return
        entered = prefix in self._prefixes
        if entered:
            self._held.remove(state)
            self._prefixes.forget_snapshots(prefix, kept)
        prefix.state = state.without(lambda snapshot: snapshot.tokens not in kept)
        prefix.snapshot_tokens = [snapshot.tokens for snapshot in prefix.state.snapshots]
        if entered:
            self._held.add(prefix.state)

    def _drop(self, prefix: Prefix) -> None:
        """Forget a prefix; its files stay."""
        self._prefixes.remove(prefix)
        if prefix.state is not None:
            (self._leaving if prefix.leaving else self._held).remove(prefix.state)
            prefix.state, prefix.leaving = None, False

    def _evict(self, prefix: Prefix) -> None:
        """To disk if there is a place for it, else out."""
        assert prefix.state is not None
        if prefix.file is not None:
            self._held.remove(prefix.state)
            prefix.state = None
        elif self._files is None or self._leaving.nbytes + prefix.state.nbytes > self.budget:
            self._drop(prefix)
        else:
            self._held.remove(prefix.state)
            self._leaving.add(prefix.state)
            prefix.leaving = True
            self._disk.post(self._write, prefix)

    def _stay(self, prefix: Prefix) -> None:
        """Of a prefix that is on its way to disk and is wanted again."""
        if prefix.leaving:
            assert prefix.state is not None
            prefix.leaving = False
            self._leaving.remove(prefix.state)
            self._held.add(prefix.state)
            self._settle()

    def _plan(self, prefix: Prefix) -> None:
        """Have a new prefix written; not later for being continued all the time."""
        if self._files is None:
            return
        soon = len(prefix) - prefix.saved > _SHARE * len(prefix)
        due = monotonic() + (_SOON if soon else _LATER)
        prefix.due = due if prefix.due is None else min(due, prefix.due)
        self._alarm.ring_at(prefix.due)

    def _post_due(self) -> None:
        self._disk.post(self._write_due)

    def _write_due(self) -> None:
        """On the disk's thread: write what has waited long enough."""
        with self._lock:
            due = [prefix for prefix in self._prefixes if prefix.due is not None and prefix.due <= monotonic()]
        for prefix in due:
            self._write(prefix)
        with self._lock:
            waiting = [prefix.due for prefix in self._prefixes if prefix.due is not None]
        if waiting:
            self._alarm.ring_at(min(waiting))

    def _write(self, prefix: Prefix) -> None:
        """On the disk's thread: write a prefix, and let its arrays go if it is to leave memory."""
        with self._lock:
            state = prefix.state
            if self._closed or state is None or self._files is None:
                return
            prefix.due, prefix.writing = None, True
        written = None if prefix.file is not None else self._files.write(prefix, state)
        with self._lock:
            prefix.writing = False
            if written is not None and prefix in self._prefixes:
                self._files.remove_all(prefix, but=written[0])
                prefix.is_in(*written)
            elif prefix.file is None:
                prefix.due = monotonic() + _LATER
            if prefix.leaving:
                prefix.leaving = False
                self._leaving.remove(state)
                prefix.state = None
                if prefix.file is None:
                    self._drop(prefix)
            self._notice_removed()
            self._report()

    def _notice_removed(self) -> None:
        """Forget the files that had to make room for others, or that another process removed."""
        for prefix in list(self._prefixes):
            if prefix.file is not None and not prefix.file.exists():
                prefix.file, prefix.file_bytes, prefix.saved = None, 0, 0
                if prefix.state is None:
                    self._drop(prefix)

    def _look(self) -> None:
        """Learn which prefixes are on disk that nobody knows of here, and that memory would have room for."""
        if self._files is None or self._closed:
            return
        for found in self._files.scan(self._known_files()):
            with self._lock:
                # Once more: it may have been written here meanwhile.
                if found.file_bytes <= self.budget and found.file not in self._known_files():
                    self._prefixes.add(found)

    def _known_files(self) -> set[Path | None]:
        """The files of prefixes that there are here, also of those that are being written."""
        with self._lock:
            known = {file for prefix in self._prefixes for file in (prefix.file, *prefix.earlier)}
            if self._files is not None:
                known |= {self._files.path_of(prefix) for prefix in self._prefixes if prefix.writing}
            return known

    def _fetch_for(self, prefix: Prefix, on_ready: Callable[[], None]) -> None:
        self._fetch(prefix)
        on_ready()

    def _fetch(self, prefix: Prefix) -> FrozenState | None:
        """On the disk's thread: read a prefix back; one that cannot be is forgotten."""
        with self._lock:
            if prefix.state is not None or prefix not in self._prefixes:
                return prefix.state
            assert prefix.file is not None
            assert self._files is not None
            file = prefix.file
            self.shrink(max(0, self.budget - prefix.file_bytes))
            room = self._account(self._held.nbytes + self._leaving.nbytes + prefix.file_bytes) == 0
        state = None
        if room:
            try:
                found = read_prefix(file, self._fingerprint, self._make_caches())
            except SessionError as error:
                self._files.discard(file, error)
            except (RuntimeError, MemoryError) as error:
                # MLX's own, as where there is no memory: the file may be whole. Who waits for it reads the prompt.
                logger.warning("%s: cannot be read back: %s", file, error)
            else:
                same = np.array_equal(found.input_ids, prefix.input_ids) and found.images == prefix.images
                state = found.state if same and found.snapshot_tokens == prefix.snapshot_tokens else None
        with self._lock:
            if prefix in self._prefixes and state is not None:
                prefix.state = state
                self._held.add(state)
                self._prefixes.use(prefix)
            elif prefix in self._prefixes:
                self._drop(prefix)
            self._settle()
        return state

    def _settle(self) -> None:
        """Come down to the budget, and to what the memory of the process has room for."""
        if self.nbytes > self.budget:
            self.shrink(self.budget)
        excess = self._report()
        if excess:
            self.shrink(max(0, self.nbytes - excess))

    def _report(self) -> int:
        """Tell how much memory is held; returns how much of it is too much."""
        return self._account(self._held.nbytes + self._leaving.nbytes)
