"""What was read before, so that no later prompt has to read it again.

While a prompt is read and an answer is written, the state of the sequence is kept at `Prompt.branch_points` and at
the end. The next prompt begins at the last kept place up to which it is the same, images included, of whichever
prefix that is.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_qwen35.errors import SessionError
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.state.disk import read_prefix, write_prefix
from mlx_qwen35.state.disk_thread import DiskThread
from mlx_qwen35.state.layout import StateLayout
from mlx_qwen35.state.overflow import OverflowDirectory
from mlx_qwen35.state.prefix import ImageRun, Prefix, Reading, images_of, keys_of
from mlx_qwen35.state.prefix_tree import PrefixTree
from mlx_qwen35.state.sequence import FrozenState, MakeCaches, SequenceState, SharedBytes, Snapshot

# These many snapshots of a prefix survive when room is short: a conversation goes on near its end.
_NEWEST = 6
# The disk takes this many times what memory does.
_DISK_FACTOR = 10


class PrefixCache:
    """Prefixes within a budget of memory, and of disk; any thread, except that states are restored where MLX runs.

    Args:
        make_caches: Makes fresh caches, one per layer.
        budget: At most this many bytes of memory; 0 keeps nothing.
        fingerprint: Of the model and its arithmetic, for what goes to disk.
        directory: Where prefixes go that memory has no room for; None forgets them.
        account: Is told the bytes of memory held whenever they change, and says how many of them are too many.
        layout: Gives that of the model's states, which sessions are held against; not called where MLX runs.
    Raises:
        SessionError: The directory cannot be written.
    """

    def __init__(
        self,
        make_caches: MakeCaches,
        budget: int,
        *,
        fingerprint: str,
        directory: Path | None = None,
        account: Callable[[int], int] = lambda nbytes: 0,
        layout: Callable[[], StateLayout] | None = None,
    ) -> None:
        self.budget = budget
        self._make_caches = make_caches
        self._fingerprint = fingerprint
        self._account = account
        self._layout = layout
        self._prefixes: OrderedDict[Prefix, None] = OrderedDict()  # least recently used first
        self._tree: PrefixTree[tuple[str, Prefix]] = PrefixTree()
        self._held, self._leaving = SharedBytes(), SharedBytes()
        # Held for bookkeeping only, never while something is computed, read or written.
        self._lock = threading.RLock()
        self._disk = DiskThread()
        self._written = 0
        self._closed = False
        self._directory: OverflowDirectory | None = None
        if directory is not None:
            try:
                self._directory = OverflowDirectory(directory)
            except OSError as error:
                raise SessionError(f"{directory}: cannot be written ({error.strerror or error})") from error

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

    def begin(self, prompt: Prompt, on_ready: Callable[[], None] | None = None) -> Reading | None:
        """A state that holds as much of a prompt as was read before, but never its last token.

        Args:
            on_ready: Called, on another thread, once what is on disk only has been read back; until then the answer
                is None. Without it this waits.
        """
        images = images_of(prompt)
        keys = keys_of(prompt.input_ids, images)[:-1]
        while True:
            with self._lock:
                found = self._find(keys, images)
                if found is None:
                    snapshots: list[Snapshot] | None = [] if self.budget and not self._closed else None
                    return Reading(prompt, SequenceState(self._make_caches()), snapshots=snapshots)
                prefix, place = found
                self._prefixes.move_to_end(prefix)
                if prefix.state is not None:
                    self._stay(prefix)
                    kept = [snapshot for snapshot in prefix.state.snapshots if snapshot.tokens <= place]
                    return Reading(prompt, prefix.state.restore(place, self._make_caches), place, kept)
            if on_ready is not None:
                self._disk.post(self._fetch_for, prefix, on_ready)
                return None
            self._disk.call(self._fetch, prefix)

    def keep(self, reading: Reading) -> None:
        """Remember what was read, in place of the prefixes that it continues; only where MLX runs."""
        tokens, prompt, snapshots = reading.state.tokens, reading.prompt, reading.snapshots
        input_ids = np.concatenate([prompt.input_ids, np.array(reading.written, dtype=np.int32)])
        if snapshots is None or self._closed or not reading.start < tokens <= len(input_ids):
            return
        inside = prompt.layout is not None and prompt.layout.inside(tokens) is not None
        if not inside and (not snapshots or snapshots[-1].tokens < tokens):
            snapshots.append(reading.state.snapshot())
        if not snapshots or snapshots[-1].tokens <= reading.start:
            return
        end = snapshots[-1].tokens
        images = tuple(image for image in images_of(prompt) if image.stop <= end)
        places = [snapshot.tokens for snapshot in snapshots]
        self.insert(
            Prefix(input_ids[:end], images, min(prompt.turn_start, end), places, reading.state.freeze(snapshots))
        )

    def insert(self, prefix: Prefix) -> None:
        """Add a prefix as the newest, unless it is larger than the budget, or a part of another one.

        Prefixes that it continues go; so do those whose last turn it shows as the template writes it anew.
        """
        with self._lock:
            if self._closed or not self._fits(prefix):
                return
            longer = self._tree.beyond(prefix.keys)
            if longer is not None:
                self._prefixes.move_to_end(longer[1])
                return
            for _, (kind, other) in self._tree.along(prefix.keys):
                if other in self._prefixes and (
                    kind == "end" or (kind == "turn" and prefix.turn_start > other.turn_start)
                ):
                    self._drop(other)
            assert prefix.state is not None
            self._prefixes[prefix] = None
            self._held.add(prefix.state)
            for keys, item in self._items(prefix):
                self._tree.add(keys, item)
            self._settle()

    def save(self, path: Path, prompt: Prompt | None) -> int:
        """Write what was read of a prompt's conversation, or of the newest; returns the number of tokens.

        Of a prefix that the prompt only begins like, just that beginning is written.

        Raises:
            SessionError: Nothing fits, or the file cannot be written.
        """
        with self._lock:
            prefix, place = next(reversed(self._prefixes), None), -1
            if prompt is not None:
                images = images_of(prompt)
                keys = keys_of(prompt.input_ids, images)
                prefix, place = self._find(keys[:-1], images) or (None, 0)
                reached = [depth for depth, item in self._tree.along(keys) if item == ("turn", prefix)]
                place = -1 if reached else place
        state = None if prefix is None else prefix.state or self._disk.call(self._fetch, prefix)
        if prefix is None or state is None:
            raise SessionError("session: expected a conversation that was read, found none in the prompt cache")
        place = len(prefix) if place < 0 else place
        beginning = prefix.beginning(state, place)
        self._disk.call(lambda: write_prefix(path, beginning, state.cut(place), self._fingerprint))
        return place

    def load(self, path: Path) -> int:
        """Add what `save` wrote; returns its tokens.

        Raises:
            SessionError: See `read_prefix`; or the session is larger than the budget.
        """
        with suppress(OSError):
            size = path.stat().st_size
            if size > self.budget:
                raise SessionError(
                    f"{path}: expected at most {self.budget} bytes (the prompt cache's budget), found {size}"
                )
        layout = None if self._layout is None else self._layout()
        prefix: Prefix = self._disk.call(read_prefix, path, self._fingerprint, self._make_caches(), layout)
        self.insert(prefix)
        return len(prefix)

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
            self._report()

    def close(self) -> None:
        """Forget everything, keep nothing any more, and leave the directory."""
        with self._lock:
            self._closed = True
        self._disk.close()
        self.clear()
        if self._directory is not None:
            self._directory.close()

    def _items(self, prefix: Prefix) -> list[tuple[Any, tuple[str, Prefix]]]:
        """What stands for a prefix in the tree, and where."""
        places = [(tokens, "snapshot") for tokens in prefix.snapshot_tokens]
        places += [(prefix.turn_start, "turn"), (len(prefix), "end")]
        return [(prefix.keys[:tokens], (kind, prefix)) for tokens, kind in places]

    def _find(self, keys: Any, images: tuple[ImageRun, ...]) -> tuple[Prefix, int] | None:
        """The prefix and the place on it from which the least is left to read."""
        best: tuple[Prefix, int] | None = None
        for tokens, (kind, prefix) in self._tree.along(keys):
            if kind != "snapshot" or not prefix.has_images(images, tokens):
                continue
            # Of several at the same place, one that is in memory.
            if best is None or tokens > best[1] or best[0].state is None:
                best = prefix, tokens
        return best

    def _fits(self, prefix: Prefix) -> bool:
        assert prefix.state is not None
        if prefix.state.nbytes > self.budget:
            self._thin(prefix)
        return prefix.state.nbytes <= self.budget

    def _thin(self, prefix: Prefix) -> None:
        """Let old snapshots go, but not the first, not the one at `turn_start`, and not the newest."""
        state = prefix.state
        if state is None or prefix.file is not None or prefix.leaving:
            return
        kept = {prefix.snapshot_tokens[0], prefix.turn_start, *prefix.snapshot_tokens[-_NEWEST:]}
        if kept.issuperset(prefix.snapshot_tokens):
            return
        entered = prefix in self._prefixes
        if entered:
            self._held.remove(state)
            for keys, item in self._items(prefix):
                if item[0] == "snapshot" and len(keys) not in kept:
                    self._tree.remove(keys, item)
        prefix.state = state.without(lambda snapshot: snapshot.tokens not in kept)
        prefix.snapshot_tokens = [snapshot.tokens for snapshot in prefix.state.snapshots]
        if entered:
            self._held.add(prefix.state)

    def _drop(self, prefix: Prefix) -> None:
        del self._prefixes[prefix]
        for keys, item in self._items(prefix):
            self._tree.remove(keys, item)
        if prefix.state is not None:
            (self._leaving if prefix.leaving else self._held).remove(prefix.state)
            prefix.state, prefix.leaving = None, False
        self._unlink(prefix)

    def _unlink(self, prefix: Prefix) -> None:
        if prefix.file is not None:
            with suppress(OSError):
                prefix.file.unlink()
            prefix.file, prefix.file_bytes = None, 0

    def _evict(self, prefix: Prefix) -> None:
        """To disk if there is a place for it, else out."""
        assert prefix.state is not None
        if prefix.file is not None:
            self._held.remove(prefix.state)
            prefix.state = None
        elif self._directory is None or self._leaving.nbytes + prefix.state.nbytes > self.budget:
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

    def _write(self, prefix: Prefix) -> None:
        """On the disk's thread: write a prefix that is to leave memory, and let its arrays go."""
        with self._lock:
            state = prefix.state
            if self._closed or not prefix.leaving or state is None or self._directory is None:
                return
            self._written += 1
            file = self._directory.path / f"{self._written}.safetensors"
        # A full disk is no reason to fail the request that needs the room.
        with suppress(SessionError, OSError):
            write_prefix(file, prefix, state, self._fingerprint)
        with self._lock:
            if prefix in self._prefixes and file.exists():
                prefix.file, prefix.file_bytes = file, file.stat().st_size
            else:
                file.unlink(missing_ok=True)
            if prefix.leaving:
                prefix.leaving = False
                self._leaving.remove(state)
                prefix.state = None
                if prefix.file is None:
                    self._drop(prefix)
            self._bound_disk()
            self._report()

    def _bound_disk(self) -> None:
        used = sum(prefix.file_bytes for prefix in self._prefixes)
        for prefix in sorted(self._prefixes, key=lambda prefix: prefix.state is None):
            if used <= _DISK_FACTOR * self.budget:
                return
            used -= prefix.file_bytes
            # What is in memory too can be written again.
            if prefix.state is None:
                self._drop(prefix)
            else:
                self._unlink(prefix)

    def _fetch_for(self, prefix: Prefix, on_ready: Callable[[], None]) -> None:
        self._fetch(prefix)
        on_ready()

    def _fetch(self, prefix: Prefix) -> FrozenState | None:
        """On the disk's thread: read a prefix back; one that cannot be is forgotten."""
        with self._lock:
            if prefix.state is not None or prefix not in self._prefixes:
                return prefix.state
            assert prefix.file is not None
            file = prefix.file
            self.shrink(max(0, self.budget - prefix.file_bytes))
            room = self._account(self._held.nbytes + self._leaving.nbytes + prefix.file_bytes) == 0
        state = None
        if room:
            with suppress(SessionError):
                found = read_prefix(file, self._fingerprint, self._make_caches())
                same = np.array_equal(found.input_ids, prefix.input_ids) and found.images == prefix.images
                state = found.state if same and found.snapshot_tokens == prefix.snapshot_tokens else None
        with self._lock:
            if prefix in self._prefixes and state is not None:
                prefix.state = state
                self._held.add(state)
                self._prefixes.move_to_end(prefix)
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
