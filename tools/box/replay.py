"""Batches for a device that learns faster than the processes beside it draw."""

from collections import deque
from collections.abc import Iterator
from queue import Empty, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Replay(Generic[Item]):
    """New batches as they come; where none is ready, an earlier one once more, the longest unused first.

    Args:
        new: Never ends; a thread of its own reads on in it until `close`.
        uses: How often one batch comes at most, the first time included.
        held: How many are kept, the latest; between two uses of one lie a quarter as many steps, at the least.
    Attributes:
        drawn: How many new ones there were.
    """

    def __init__(self, new: Iterator[Item], *, uses: int, held: int) -> None:
        self._uses, self._least = uses, max(held // 4, 1)
        self._kept: deque[tuple[int, Item]] = deque(maxlen=held)
        self._ready: Queue[Item | Exception] = Queue(4)
        self._closed = Event()
        self.drawn = 0
        self._reader = Thread(target=self._read, args=(new,), daemon=True)
        self._reader.start()

    def _read(self, new: Iterator[Item]) -> None:
        try:
            for item in new:
                if self._closed.is_set():
                    return
                self._ready.put(item)
        except Exception as error:
            self._ready.put(error)

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        try:
            found = self._ready.get(block=len(self._kept) < self._least)
        except Empty:
            left, item = self._kept.popleft()
        else:
            if isinstance(found, Exception):
                raise found
            left, item = self._uses, found
            self.drawn += 1
        if left > 1:
            self._kept.append((left - 1, item))
        return item

    def close(self) -> None:
        """Let go of what is kept, and of `new`."""
        self._closed.set()
        while self._reader.is_alive():
            while not self._ready.empty():
                self._ready.get()
            self._reader.join(0.01)
        self._kept.clear()
