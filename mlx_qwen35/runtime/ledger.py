"""Who holds how much memory: one account for the process, and one below it for each loaded checkpoint.

Whatever takes memory holds a lease: weights, the caches of running requests, activations of the step to come, kept
prefixes, image features, pictures that are being decoded. A lease that does not fit makes room first, by letting
kept things go, and is refused if that is not enough.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from weakref import WeakKeyDictionary, WeakSet

from mlx_qwen35.errors import InsufficientMemoryError
from mlx_qwen35.prompts.images import ImageMemory
from mlx_qwen35.runtime.estimates import default_limit, gigabytes

Reclaimer = Callable[[int], None]


class Ledger:
    """Leases within a limit, in bytes; any thread.

    Args:
        limit: At most this many bytes together.
        parent: Counts the same leases within a limit of its own; see `process_ledger`. It keeps nothing of a
            ledger alive, so that a checkpoint which is forgotten without being closed leaves nothing behind.
    """

    def __init__(self, limit: int, parent: "Ledger | None" = None) -> None:
        self.limit = limit
        self._parent = parent
        self._held: dict[Lease, int] = {}
        # Those of the ledgers below.
        self._held_below: WeakKeyDictionary[Lease, int] = WeakKeyDictionary()
        self._below: WeakSet[Ledger] = WeakSet()
        self._reclaimers: list[Reclaimer] = []
        self._released: list[Callable[[], None]] = []
        # Reentrant: the collector may release a lease while this very thread is in here.
        # Held by itself: a Condition is left by Python code, in front of which Ctrl-C would leave it held for ever.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        if parent is not None:
            parent._below.add(self)

    @property
    def held(self) -> int:
        """Bytes of all leases."""
        with self._lock:
            return sum(self._held.values()) + sum(self._held_below.values())

    @property
    def headroom(self) -> int:
        """Bytes that are left, here and above; negative if what already existed was entered beyond the limit."""
        room = self.limit - self.held
        return room if self._parent is None else min(room, self._parent.headroom)

    def by_purpose(self) -> dict[str, int]:
        """Bytes held for each purpose."""
        with self._lock:
            found: dict[str, int] = {}
            for lease, nbytes in [*self._held.items(), *self._held_below.items()]:
                found[lease.purpose] = found.get(lease.purpose, 0) + nbytes
            return found

    def open(self, purpose: str, nbytes: int = 0) -> "Lease":
        """A lease on something that exists already, whether or not it fits."""
        lease = Lease(self, purpose)
        lease.enter(nbytes)
        return lease

    def take(self, purpose: str, nbytes: int, *, place: str) -> "Lease":
        """A lease on something that is to come.

        Args:
            place: What an error is about.
        Raises:
            InsufficientMemoryError: There is no room, even after everything that may go has gone.
        """
        lease = Lease(self, purpose)
        try:
            lease.take(nbytes, place=place)
        except BaseException:  # Ctrl-C too
            lease.release()
            raise
        return lease

    @contextmanager
    def waiting(self, purpose: str, nbytes: int, *, place: str) -> Iterator[None]:
        """A lease for a moment, which waits while others of its purpose hold theirs.

        Raises:
            InsufficientMemoryError: There is no room, and nobody of this purpose who will make some.
        """
        lease = Lease(self, purpose)
        try:
            while not lease.resize(nbytes):
                with self._lock:
                    if not any(other.purpose == purpose for other in self._held):
                        break
                    # What was released since the try above is noticed by the next one.
                    self._changed.wait(0.05)
            if lease.nbytes < nbytes:
                lease.take(nbytes, place=place)
            yield
        finally:
            lease.release()

    def on_pressure(self, reclaimer: Reclaimer) -> None:
        """Register what can give memory back; called with the bytes that are missing, without a lock held."""
        self._reclaimers.append(reclaimer)

    def on_release(self, callback: Callable[[], None]) -> None:
        """Register who wants to know that there is more room; the callback must return at once."""
        self._released.append(callback)

    def close(self) -> None:
        """Give every lease back, and forget who could make room and who wants to know."""
        self._reclaimers, self._released = [], []
        with self._lock:
            leases = list(self._held)
        for lease in leases:
            lease.release()

    def make_room(self, nbytes: int) -> bool:
        """Let kept things go until so many bytes are left; whether that succeeded."""
        for ledger in self._family():
            # What another checkpoint gives back helps only where the limit in common is what is missing.
            limited = self if ledger is self or self._parent is None else self._parent
            for reclaimer in list(ledger._reclaimers):
                missing = nbytes - limited.headroom
                if missing > 0:
                    reclaimer(missing)
        return self.headroom >= nbytes

    def _family(self) -> "list[Ledger]":
        """All that share a limit with this one, itself first."""
        above = [] if self._parent is None else [self._parent, *self._parent._below]
        return [self, *(ledger for ledger in above if ledger is not self), *self._below]

    def _set(self, lease: "Lease", nbytes: int, *, only_if_it_fits: bool) -> bool:
        """Enter a size, here and above."""
        with self._lock:
            held = self._held if lease._ledger is self else self._held_below
            before = held.get(lease, 0)
            if only_if_it_fits and nbytes > before and self.held - before + nbytes > self.limit:
                return False
            if self._parent is not None and not self._parent._set(lease, nbytes, only_if_it_fits=only_if_it_fits):
                return False
            if nbytes:
                held[lease] = nbytes
            else:
                held.pop(lease, None)
            if nbytes >= before:
                return True
            self._changed.notify_all()
        if lease._ledger is self:
            for callback in [callback for ledger in self._family() for callback in ledger._released]:
                callback()
        return True


class Lease:
    """So many bytes of a ledger, for one purpose."""

    def __init__(self, ledger: Ledger, purpose: str) -> None:
        self.purpose = purpose
        self._ledger = ledger
        self.nbytes = 0

    def resize(self, nbytes: int) -> bool:
        """Change the size if it fits, making room first; otherwise nothing changes."""
        while not self._ledger._set(self, nbytes, only_if_it_fits=True):
            if not self._ledger.make_room(nbytes - self.nbytes):
                return False
        self.nbytes = nbytes
        return True

    def take(self, nbytes: int, *, place: str) -> None:
        """Change the size; see `Ledger.take`."""
        if not self.resize(nbytes):
            left, limit = gigabytes(max(0, self._ledger.headroom)), gigabytes(self._ledger.limit)
            raise InsufficientMemoryError(
                f"{place}: expected at most {left} (what is left of {limit}), found {gigabytes(nbytes)}"
            )

    def enter(self, nbytes: int) -> None:
        """Change the size to what is there, whether or not it fits."""
        self._ledger._set(self, nbytes, only_if_it_fits=False)
        self.nbytes = nbytes

    def release(self) -> None:
        """Give everything back."""
        self.enter(0)


class ImageLeases(ImageMemory):
    """The memory of images, in a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._pixels, self._features = ledger.open("image pixels"), ledger.open("image features")
        self._video_pixels = ledger.open("video pixels")

    def decoding(self, nbytes: int, place: str) -> AbstractContextManager[None]:
        """See `ImageMemory`."""
        return self._ledger.waiting("images being decoded", nbytes, place=place)

    def pixels(self, nbytes: int) -> None:
        """See `ImageMemory`."""
        self._pixels.enter(nbytes)

    def video_pixels(self, nbytes: int) -> None:
        """See `ImageMemory`."""
        self._video_pixels.enter(nbytes)

    def features(self, nbytes: int) -> None:
        """See `ImageMemory`."""
        self._features.enter(nbytes)


@cache
def process_ledger() -> Ledger:
    """What all checkpoints of this process hold together, within what the machine has."""
    return Ledger(default_limit())
