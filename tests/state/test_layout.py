"""Arrays that come from a file against what a model's states look like."""

from dataclasses import replace

import mlx.core as mx
import pytest

from mlx_qwen35.state.cache import AttentionCache, GatedDeltaCache
from mlx_qwen35.state.layout import StateLayout
from mlx_qwen35.state.sequence import FrozenState, SequenceState, Snapshot


@pytest.fixture(scope="module")
def layout() -> StateLayout:
    """Of one GDN and one attention layer."""

    def read(tokens: mx.array, following: mx.array, state: SequenceState) -> None:
        gdn, attention = state.caches
        gdn.cache = [mx.zeros((1, 3, 8), mx.bfloat16), mx.zeros((1, 2, 4, 4))]
        attention.update_and_fetch(mx.zeros((1, 2, 1, 8)), mx.zeros((1, 2, 1, 6)))

    return StateLayout.of(read, SequenceState([GatedDeltaCache(), AttentionCache()]))


def mark_of(conv: mx.array | None = None, state: mx.array | None = None) -> tuple[mx.array, ...]:
    return (
        mx.ones((1, 3, 8), mx.bfloat16) if conv is None else conv,
        mx.ones((1, 2, 4, 4)) if state is None else state,
    )


def state_of(tokens: int = 7) -> FrozenState:
    snapshots = tuple(Snapshot(place, (mark_of(), ())) for place in (3, 5, tokens))
    return FrozenState(snapshots, ((), (mx.ones((1, 2, tokens, 8)), mx.ones((1, 2, tokens, 6)))))


def test_arrays_of_any_number_of_tokens_fit(layout: StateLayout) -> None:
    for tokens in (7, 700):
        layout.check(state_of(tokens))


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        ((1, 2, 7, 8), (1, 2, 8, 6), "layer 1: its arrays hold different numbers of tokens"),
        ((1, 3, 7, 8), (1, 2, 7, 6), r"held, layer 1: expected \(1, 2, None, 8\) of mlx.core.float32, found \(1, 3, 7"),
        ((1, 2, 7, 8), (1, 2, 7, 8), r"held, layer 1: expected \(1, 2, None, 6\) of mlx.core.float32, found \(1, 2, 7"),
        ((2, 2, 7, 8), (1, 2, 7, 6), "held, layer 1"),
        ((1, 2, 7, 8), None, "held, layer 1: expected 2 arrays, found 1"),
    ],
)
def test_keys_and_values_that_do_not_fit_are_named(
    layout: StateLayout, keys: tuple[int, ...], values: tuple[int, ...] | None, message: str
) -> None:
    held = (mx.ones(keys),) if values is None else (mx.ones(keys), mx.ones(values))
    with pytest.raises(ValueError, match=message):
        layout.check(replace(state_of(), held=((), held)))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    "mark",
    [
        mark_of(conv=mx.ones((1, 3, 8))),
        mark_of(conv=mx.ones((1, 4, 8), mx.bfloat16)),
        mark_of(state=mx.ones((1, 2, 4, 4), mx.int32)),
        mark_of()[:1],
    ],
    ids=["type", "shape", "whole numbers", "one is missing"],
)
def test_every_snapshot_has_to_fit(layout: StateLayout, place: int, mark: tuple[mx.array, ...]) -> None:
    state = state_of()
    snapshots = list(state.snapshots)
    snapshots[place] = replace(snapshots[place], marks=(mark, ()))
    with pytest.raises(ValueError, match=f"snapshot {snapshots[place].tokens}, layer 0: expected"):
        layout.check(replace(state, snapshots=tuple(snapshots)))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_refused_wherever_they_stand(layout: StateLayout, number: float) -> None:
    """One among many."""
    state = state_of()
    broken = mx.ones((1, 2, 7, 8))
    broken[0, 1, 3, 5] = number
    first, *others = state.snapshots
    recurrent = mx.ones((1, 2, 4, 4))
    recurrent[0, 1, 2, 3] = number
    for changed in (
        replace(state, held=((), (broken, state.held[1][1]))),
        replace(state, snapshots=(replace(first, marks=(mark_of(state=recurrent), ())), *others)),
    ):
        with pytest.raises(ValueError, match="some of its numbers are not finite"):
            layout.check(changed)
