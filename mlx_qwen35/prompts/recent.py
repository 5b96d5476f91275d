"""Pixels of what was prepared lately; a conversation sends its images and videos again with every turn."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_Prepared = TypeVar("_Prepared")


class RecentPixels(Generic[_Prepared]):
    """The most recently used ones that fit into so many bytes; safe from several threads.

    Args:
        room: Bytes of pixels.
        size_of: Bytes of one of them.
        report: Told how many bytes are kept, whenever that changes.
    """

    def __init__(self, room: int, size_of: Callable[[_Prepared], int], report: Callable[[int], None]) -> None:
        self._room, self._size_of, self._report = room, size_of, report
        self._kept: OrderedDict[Hashable, _Prepared] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def find(self, key: Hashable) -> _Prepared | None:
        """What was kept under a key."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: Hashable, prepared: _Prepared) -> None:
        """Keep one; those that were not used for longest make room."""
        with self._lock:
            if key not in self._kept:
                self._nbytes += self._size_of(prepared)
            self._kept[key] = prepared
            self._shrink(self._room)

    def reclaim(self, nbytes: int) -> int:
        """Give back so many bytes, as far as there are as many; returns how many it was."""
        with self._lock:
            before = self._nbytes
            self._shrink(max(0, before - nbytes))
            return before - self._nbytes

    def _shrink(self, room: int) -> None:
        while self._nbytes > room:
            self._nbytes -= self._size_of(self._kept.popitem(last=False)[1])
        self._report(self._nbytes)
