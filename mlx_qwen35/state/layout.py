"""What the arrays of a sequence look like, for arrays that come from a file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_qwen35.state.sequence import FrozenState, SequenceState


@dataclass(frozen=True)
class ArrayLayout:
    """Shape and type of one array; a dimension of None grows with the sequence."""

    shape: tuple[int | None, ...]
    dtype: mx.Dtype

    def fits(self, array: mx.array) -> bool:
        """Whether an array looks like this."""
        return (
            array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and all(wanted in (None, size) for wanted, size in zip(self.shape, array.shape, strict=True))
        )


@dataclass(frozen=True)
class StateLayout:
    """The arrays of every layer of a sequence.

    Args:
        held: Of each layer, those that all snapshots share; their third dimension is the tokens'.
        marks: Of each layer, those of a snapshot.
    """

    held: tuple[tuple[ArrayLayout, ...], ...]
    marks: tuple[tuple[ArrayLayout, ...], ...]

    @classmethod
    def of(cls, read: Callable[[mx.array, mx.array, SequenceState], object], state: SequenceState) -> "StateLayout":
        """From what one token would become; nothing is computed. Only where MLX runs.

        Args:
            read: Reads tokens (1, L), given those that follow each.
            state: In which nothing is read yet.
        """
        token = mx.zeros((1, 1), mx.int32)
        read(token, token, state)
        held = tuple(tuple(_layout(array, growing=True) for array in cache.held()) for cache in state.caches)
        marks = tuple(tuple(_layout(array, growing=False) for array in cache.mark()) for cache in state.caches)
        return cls(held, marks)

    def check(self, state: FrozenState) -> None:
        """Hold a state that was read from somewhere against this.

        Raises:
            ValueError: An array is missing, or has another shape or type; or a number in one is none.
        """
        _check("held", self.held, state.held)
        for layer, arrays in enumerate(state.held):
            if len({array.shape[2] for array in arrays}) > 1:
                raise ValueError(f"layer {layer}: its arrays hold different numbers of tokens")
        for snapshot in state.snapshots:
            _check(f"snapshot {snapshot.tokens}", self.marks, snapshot.marks)
        if not all(mx.isfinite(array).all().item() for array in state.arrays()):
            raise ValueError("some of its numbers are not finite")


def _layout(array: mx.array, *, growing: bool) -> ArrayLayout:
    shape: tuple[int | None, ...] = array.shape
    return ArrayLayout((*shape[:2], None, *shape[3:]) if growing else shape, array.dtype)


def _check(what: str, wanted: Sequence[Sequence[ArrayLayout]], found: Sequence[Sequence[mx.array]]) -> None:
    for layer, (layouts, arrays) in enumerate(zip(wanted, found, strict=True)):
        if len(layouts) != len(arrays):
            raise ValueError(f"{what}, layer {layer}: expected {len(layouts)} arrays, found {len(arrays)}")
        for layout, array in zip(layouts, arrays, strict=True):
            if not layout.fits(array):
                raise ValueError(
                    f"{what}, layer {layer}: expected {layout.shape} of {layout.dtype}, "
                    f"found {array.shape} of {array.dtype}"
                )
