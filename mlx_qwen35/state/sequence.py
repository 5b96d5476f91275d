"""The whole state of a sequence: one cache per layer, which can be marked, rolled back, frozen and restored.

GDN states cannot be rewound: what they were after token n is known only if somebody kept them. Keys and values can be
cut. Each kind of cache knows how it is done for itself, and nobody here asks which kind it is.

MLX arrays do not change once computed: writing makes a new array unless nobody else holds the old one. So a snapshot
is a handful of references, and whatever continues from one leaves it as it was.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

MakeCaches = Callable[[], list[Any]]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What the caches cannot compute again of a place that they have passed.

    Args:
        tokens: Number of tokens that were read there.
        marks: For each layer what its cache's `mark` gave; empty for keys and values, which are cut.
    """

    tokens: int
    marks: tuple[tuple[mx.array, ...], ...] = field(repr=False)

    def arrays(self) -> list[mx.array]:
        """Everything it holds."""
        return [array for mark in self.marks for array in mark]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(array.nbytes for array in self.arrays())


class SequenceState:
    """What one sequence, or the rows of a batch, have read.

    Args:
        caches: One per layer, as the model takes them.
    """

    def __init__(self, caches: list[Any]) -> None:
        self.caches = caches

    @property
    def tokens(self) -> int:
        """Tokens read; 0 if no layer counts them."""
        return max((cache.size() for cache in self.caches), default=0)

    def evaluate(self) -> None:
        """Compute what is still to be computed."""
        mx.eval([cache.state for cache in self.caches])

    def mark(self) -> Snapshot:
        """Where the sequence is, to roll back to; costs nothing."""
        return Snapshot(self.tokens, tuple(cache.mark() for cache in self.caches))

    def roll_back(self, mark: Snapshot) -> None:
        """Forget what was read after `mark`.

        Raises:
            CacheError: That would cut an image.
        """
        for cache, state in zip(self.caches, mark.marks, strict=True):
            cache.roll_back(mark.tokens, state)

    def begin_step(self, layers: slice = slice(None)) -> None:
        """The few tokens that are read next, the same number in every row, may have to be forgotten again.

        Args:
            layers: Whose caches read them.
        """
        for cache in self.caches[layers]:
            cache.begin_step()

    def settle(self, length: int, kept: Sequence[int], layers: slice = slice(None)) -> None:
        """Of the `length` tokens that each row has read since `begin_step` keep its first `kept[row]`."""
        for cache in self.caches[layers]:
            cache.settle(length, kept)

    def snapshot(self) -> Snapshot:
        """A mark that outlives the sequence: its arrays are evaluated."""
        snapshot = self.mark()
        mx.eval(snapshot.arrays())
        return snapshot

    def freeze(self, snapshots: Sequence[Snapshot]) -> "FrozenState":
        """What `FrozenState.restore` takes sequences from, at any of these snapshots; this one may go on."""
        frozen = FrozenState(tuple(snapshots), tuple(cache.held() for cache in self.caches))
        mx.eval(frozen.arrays())
        return frozen

    @classmethod
    def merge(cls, states: Sequence["SequenceState"]) -> "SequenceState":
        """Sequences as the rows of one batch.

        Raises:
            CacheError: A row has an image that is not read yet.
        """
        layers = zip(*(state.caches for state in states), strict=True)
        return cls([type(caches[0]).merge(caches) for caches in layers])

    def extend(self, other: "SequenceState") -> None:
        """Append the rows of another batch."""
        for cache, more in zip(self.caches, other.caches, strict=True):
            cache.extend(more)

    def keep(self, rows: list[int]) -> None:
        """Keep these rows of a batch, in this order."""
        for cache in self.caches:
            cache.filter(rows)

    def extract(self, row: int) -> "SequenceState":
        """One row of a batch as a sequence of its own, which does not keep the others alive."""
        state = SequenceState([cache.extract(row) for cache in self.caches])
        state.evaluate()
        return state


@dataclass(frozen=True, eq=False)
class FrozenState:
    """A sequence that was read, to begin from at any of its snapshots.

    Args:
        snapshots: In order of their tokens, at least one.
        held: For each layer what its snapshots share.
    """

    snapshots: tuple[Snapshot, ...]
    held: tuple[tuple[mx.array, ...], ...] = field(repr=False)

    def arrays(self) -> list[mx.array]:
        """Everything it holds."""
        shared = [array for layer in self.held for array in layer]
        return [array for snapshot in self.snapshots for array in snapshot.arrays()] + shared

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(array.nbytes for array in self.arrays())

    def at(self, tokens: int) -> Snapshot:
        """The snapshot behind so many tokens."""
        return next(snapshot for snapshot in self.snapshots if snapshot.tokens == tokens)

    def restore(self, tokens: int, make_caches: MakeCaches) -> SequenceState:
        """A sequence that has read the first `tokens`, and may go its own way."""
        caches = make_caches()
        for cache, held, mark in zip(caches, self.held, self.at(tokens).marks, strict=True):
            cache.restore(tokens, held, mark)
        return SequenceState(caches)

    def without(self, dropped: Callable[[Snapshot], bool]) -> "FrozenState":
        """The same without some snapshots."""
        return FrozenState(tuple(s for s in self.snapshots if not dropped(s)), self.held)

    def cut(self, tokens: int) -> "FrozenState":
        """Its beginning, up to one of its snapshots; arrays of its own."""
        held = tuple(tuple(mx.contiguous(array[..., :tokens, :]) for array in layer) for layer in self.held)
        return FrozenState(tuple(s for s in self.snapshots if s.tokens <= tokens), held)


class SharedBytes:
    """Bytes of arrays that may be shared, each counted once."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._counts: dict[int, int] = {}

    def add(self, state: FrozenState) -> None:
        """Count a state's arrays."""
        for array in state.arrays():
            count = self._counts.get(id(array), 0)
            self._counts[id(array)] = count + 1
            self.nbytes += 0 if count else array.nbytes

    def remove(self, state: FrozenState) -> None:
        """No longer count a state that was added."""
        for array in state.arrays():
            count = self._counts.pop(id(array)) - 1
            if count:
                self._counts[id(array)] = count
            else:
                self.nbytes -= array.nbytes
