"""Which prefixes there are, which was used last, and from which a prompt can go on."""

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_qwen35.state.prefix import ImageRun, Prefix
from mlx_qwen35.state.prefix_tree import PrefixTree

Keys = NDArray[np.int64]


class PrefixIndex:
    """Prefixes, least recently used first."""

    def __init__(self) -> None:
        self._prefixes: OrderedDict[Prefix, None] = OrderedDict()
        # For every prefix its snapshots, where its turn starts, and its end.
        self._tree: PrefixTree[tuple[str, Prefix]] = PrefixTree()

    def __len__(self) -> int:
        return len(self._prefixes)

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._prefixes)

    def __reversed__(self) -> Iterator[Prefix]:
        return reversed(self._prefixes)

    def __contains__(self, prefix: Prefix) -> bool:
        return prefix in self._prefixes

    def add(self, prefix: Prefix) -> None:
        """Add one as the newest."""
        self._prefixes[prefix] = None
        for keys, item in _items(prefix):
            self._tree.add(keys, item)

    def remove(self, prefix: Prefix) -> None:
        """Take one out."""
        del self._prefixes[prefix]
        for keys, item in _items(prefix):
            self._tree.remove(keys, item)

    def use(self, prefix: Prefix) -> None:
        """Make one the newest."""
        self._prefixes.move_to_end(prefix)

    def forget_snapshots(self, prefix: Prefix, kept: Collection[int]) -> None:
        """Let the snapshots of a prefix go that are not behind so many tokens."""
        for keys, item in _items(prefix):
            if item[0] == "snapshot" and len(keys) not in kept:
                self._tree.remove(keys, item)

    def find(self, keys: Keys, images: Sequence[ImageRun]) -> tuple[Prefix, int] | None:
        """The prefix and the place on it from which the least is left to read."""
        best: tuple[Prefix, int] | None = None
        for tokens, (kind, prefix) in self._tree.along(keys):
            if kind != "snapshot" or not prefix.has_images(images, tokens):
                continue
            # Of several at the same place, one that is in memory.
            if best is None or tokens > best[1] or best[0].state is None:
                best = prefix, tokens
        return best

    def longer(self, keys: Keys) -> Prefix | None:
        """One that begins like this, and may go on."""
        found = self._tree.beyond(keys)
        return None if found is None else found[1]

    def continued_by(self, new: Prefix) -> list[tuple[Prefix, int]]:
        """Those that a new one continues, or whose last turn it shows as the template writes it anew; and how far."""
        found: dict[Prefix, int] = {}
        for depth, (kind, other) in self._tree.along(new.keys):
            if kind == "end" or (kind == "turn" and new.turn_start > other.turn_start):
                found[other] = depth
        return list(found.items())

    def reaches_turn(self, prefix: Prefix, keys: Keys) -> bool:
        """Whether a sequence goes on at least to where the last turn of a prefix starts."""
        return any(item == ("turn", prefix) for _, item in self._tree.along(keys))


def _items(prefix: Prefix) -> list[tuple[Any, tuple[str, Prefix]]]:
    """What stands for a prefix in the tree, and where."""
    places = [(tokens, "snapshot") for tokens in prefix.snapshot_tokens]
    places += [(prefix.turn_start, "turn"), (len(prefix), "end")]
    return [(prefix.keys[:tokens], (kind, prefix)) for tokens, kind in places]
