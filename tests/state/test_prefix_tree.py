"""The tree against a list that is searched from end to end."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_qwen35.state import prefix_tree
from mlx_qwen35.state.prefix_tree import Keys, PrefixTree

# Few keys, so that sequences begin alike.
SEQUENCE = st.lists(st.integers(-1, 1), max_size=7).map(tuple)
ACTION = st.tuples(st.sampled_from(["add", "add", "add", "remove"]), SEQUENCE, st.integers(0, 9))


def keys_of(sequence: tuple[int, ...]) -> Keys:
    return np.array(sequence, dtype=np.int64)


def nodes(tree: PrefixTree[Any]) -> list[Any]:
    found = [tree._root]
    for node in found:
        found += node.children.values()
    return found


@pytest.mark.thorough
@settings(max_examples=200, deadline=None, derandomize=True)
@given(actions=st.lists(ACTION, max_size=25), asked=st.lists(SEQUENCE, min_size=1, max_size=8))
def test_it_finds_what_a_list_finds(
    actions: list[tuple[str, tuple[int, ...], int]], asked: list[tuple[int, ...]]
) -> None:
    tree: PrefixTree[int] = PrefixTree()
    kept: list[tuple[tuple[int, ...], int]] = []
    for what, sequence, item in actions:
        if what == "add":
            tree.add(keys_of(sequence), item)
            kept.append((sequence, item))
        elif kept:
            there, one = kept.pop(item % len(kept))
            tree.remove(keys_of(there), one)
    for sequence in [*asked, *(there for there, _ in kept)]:
        along = tree.along(keys_of(sequence))
        assert [depth for depth, _ in along] == sorted(depth for depth, _ in along)
        assert sorted(along) == sorted((len(there), item) for there, item in kept if sequence[: len(there)] == there)
        longer = {item for there, item in kept if len(there) > len(sequence) and there[: len(sequence)] == sequence}
        beyond = tree.beyond(keys_of(sequence))
        assert beyond in longer if longer else beyond is None
    # No more nodes than there are places and partings, so that nothing that is gone is kept.
    assert len(nodes(tree)) <= 2 * len({there for there, _ in kept}) + 1
    assert all(node.items or len(node.children) > 1 for node in nodes(tree)[1:])


@pytest.mark.parametrize("shared", [0, 40])
def test_a_lookup_does_not_depend_on_the_number_of_sequences(monkeypatch: pytest.MonkeyPatch, shared: int) -> None:
    """Compared keys are counted: 10 sequences against 2000, which begin alike or not at all."""
    compared = []

    def counting(one: Keys, other: Keys) -> int:
        compared.append(min(len(one), len(other)))
        return share(one, other)

    share = prefix_tree._shared
    monkeypatch.setattr(prefix_tree, "_shared", counting)

    def cost(count: int) -> tuple[int, int]:
        tree: PrefixTree[int] = PrefixTree()
        begin = np.arange(shared)
        for number in range(count):
            tree.add(np.concatenate([begin, [1000 + number], np.arange(60)]), number)
        sequence = np.concatenate([begin, [1003], np.arange(60), [7, 7, 7]])
        compared.clear()
        assert tree.along(sequence) == [(shared + 61, 3)]
        assert tree.beyond(sequence[: shared + 9]) == 3
        return len(compared), sum(compared)

    assert cost(10) == cost(2000)


def test_a_sequence_does_not_live_on_in_what_was_kept_of_it() -> None:
    tree: PrefixTree[str] = PrefixTree()
    sequence = np.arange(100)
    tree.add(sequence[:30], "a")
    tree.add(sequence[:10], "b")
    assert all(node.keys.base is None for node in nodes(tree))


def test_what_was_never_put_there_cannot_be_taken_away() -> None:
    tree: PrefixTree[str] = PrefixTree()
    tree.add(np.arange(5), "a")
    with pytest.raises(ValueError, match="not in list"):
        tree.remove(np.arange(5), "b")
    with pytest.raises(AssertionError):
        tree.remove(np.arange(9), "a")
