"""Sequences of keys in a radix tree: what was kept for a beginning is found in the time it takes to walk down it."""

from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Keys = NDArray[np.int64]


class _Node(Generic[T]):
    """The end of an edge; `keys` are those between its parent and it."""

    __slots__ = ("children", "depth", "items", "keys", "parent")

    def __init__(self, keys: Keys, parent: "_Node[T] | None", depth: int) -> None:
        self.keys, self.parent, self.depth = keys, parent, depth
        self.children: dict[int, _Node[T]] = {}
        self.items: list[T] = []


class PrefixTree(Generic[T]):
    """Items at places of sequences; finding them does not depend on how many sequences there are."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node(np.zeros(0, np.int64), None, 0)

    def add(self, keys: Keys, item: T) -> None:
        """Put an item at the end of a sequence."""
        node = self._root
        while node.depth < len(keys):
            child = node.children.get(int(keys[node.depth]))
            if child is None:
                # A copy: a slice would keep the whole sequence alive.
                child = _Node(keys[node.depth :].copy(), node, len(keys))
                node.children[int(child.keys[0])] = child
            elif (shared := _shared(child.keys, keys[node.depth :])) < len(child.keys):
                child = self._split(child, shared)
            node = child
        node.items.append(item)

    def remove(self, keys: Keys, item: T) -> None:
        """Take an item away from where it was put."""
        node: _Node[T] | None = self._root
        while node is not None and node.depth < len(keys):
            node = node.children.get(int(keys[node.depth]))
        assert node is not None
        node.items.remove(item)
        while node.parent is not None and not node.items and len(node.children) < 2:
            parent = node.parent
            if node.children:
                (child,) = node.children.values()
                child.keys, child.parent = np.concatenate([node.keys, child.keys]), parent
                parent.children[int(child.keys[0])] = child
                return
            del parent.children[int(node.keys[0])]
            node = parent

    def along(self, keys: Keys) -> list[tuple[int, T]]:
        """The items at every beginning of a sequence, with the number of keys each, shortest first."""
        found: list[tuple[int, T]] = []
        node = self._root
        while True:
            found += [(node.depth, item) for item in node.items]
            child = node.children.get(int(keys[node.depth])) if node.depth < len(keys) else None
            if child is None or _shared(child.keys, keys[node.depth :]) < len(child.keys):
                return found
            node = child

    def beyond(self, keys: Keys) -> T | None:
        """An item of a longer sequence that begins with this one; None if there is none."""
        node = self._root
        while node.depth < len(keys):
            child = node.children.get(int(keys[node.depth]))
            if child is None or _shared(child.keys, keys[node.depth :]) < min(len(child.keys), len(keys) - node.depth):
                return None
            node = child
        while node.depth == len(keys) or not node.items:
            if not node.children:
                return None
            node = next(iter(node.children.values()))
        return node.items[0]

    def _split(self, node: _Node[T], shared: int) -> _Node[T]:
        """A node in the middle of an edge, above the edge's end."""
        parent = node.parent
        assert parent is not None
        middle: _Node[T] = _Node(node.keys[:shared].copy(), parent, parent.depth + shared)
        parent.children[int(middle.keys[0])] = middle
        node.keys, node.parent = node.keys[shared:].copy(), middle
        middle.children[int(node.keys[0])] = node
        return middle


def _shared(one: Keys, other: Keys) -> int:
    """How many keys two sequences begin with in common."""
    length = min(len(one), len(other))
    different = one[:length] != other[:length]
    return int(different.argmax()) if different.any() else length
