"""Lists of different values, as the lists that there are."""

from typing import Any

import pytest

from mlx_qwen35.answers.distinct import distinct_lists


@pytest.mark.parametrize(
    ("node", "values", "found"),
    [
        ({}, ["a", "b"], [[], ["a"], ["b"], ["a", "b"], ["b", "a"]]),
        ({"minItems": 2}, ["a", "b"], [["a", "b"], ["b", "a"]]),
        ({"maxItems": 1}, [1, None], [[], [1], [None]]),
        ({"minItems": 3}, ["a", "b"], []),
        ({"minItems": 7}, list("abcdefgh"), [*map(list, ("abcdefg", "abcdefh", "abcdegh", "abcdfgh", "abcefgh")),
         *map(list, ("abdefgh", "acdefgh", "bcdefgh", "abcdefgh"))]),
    ],
    ids=["every order", "at least two", "at most one", "more than there are", "in the order of the values"],
)  # fmt: skip
def test_lists_are_all_that_there_are(node: dict[str, Any], values: list[Any], found: list[list[Any]]) -> None:
    assert distinct_lists(node, values) == found


@pytest.mark.parametrize("node", [{}, {"minItems": 10_000}], ids=["any", "half of them"])
def test_too_many_are_given_up_at_once(node: dict[str, Any]) -> None:
    """Their numbers have tens of thousands of digits each."""
    assert distinct_lists(node, list(range(20_000))) is None
