"""What is found of the tokens to come in those that stand there already."""

import pytest

from mlx_qwen35.runtime.lookup import Lookup


@pytest.mark.parametrize(
    ("tokens", "most", "found"),
    [
        ([1, 2, 3, 4, 5, 1, 2, 3], 2, [4, 5]),
        ([1, 2, 3, 4, 5, 1, 2, 3], 7, [4, 5]),
        ([1, 2, 3, 4, 5, 1, 2, 3, 4, 5], 7, [1, 2, 3]),
        ([1, 2, 3, 1, 2, 3, 1, 2, 3], 7, [1, 2, 3, 1]),
        ([*range(9, 23), *range(9, 22)], 9, [22, 9, 10, 11, 12, 13, 14]),
        ([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 1, [5]),
        ([7, 7, 7, 7], 3, [7, 7]),
        ([1, 2, 3, 4], 3, []),
        ([1, 2], 3, []),
        ([], 3, []),
        ([1, 2, 3, 4, 1, 2, 3], 0, []),
    ],
)
def test_what_followed_the_last_tokens_before(tokens: list[int], most: int, found: list[int]) -> None:
    assert Lookup(tokens).find(most) == found


def test_a_longer_match_may_be_asked_for() -> None:
    text = Lookup([9, 1, 2, 3, 4, 8, 1, 2, 3])
    assert text.find(1) == [4]
    assert text.find(1, matching=4) == []
    assert Lookup([8, 1, 2, 3, 4, 8, 1, 2, 3]).find(1, matching=4) == [4]


def test_tokens_of_the_answer_count_at_once() -> None:
    text = Lookup([1, 2, 3])
    for token in (4, 1, 2):
        text.add(token)
        assert text.find(2) == []
    text.add(3)
    assert text.find(2) == [4, 1]


@pytest.mark.parametrize("tokens", [[1, 2, 3, 3, 1, 2, 3], [1, 2, 3, 2, 3, 1, 2, 3], [5, 5, 5, 9, 9, 5, 5, 5]])
def test_before_the_first_token_there_is_nothing_that_could_be_the_same(tokens: list[int]) -> None:
    """Not the last ones, at which a list begins again when it is counted from its end."""
    text = Lookup(tokens)
    assert text.find(1) == [tokens[3]]
    for matching in (4, 5, 8):
        assert text.find(1, matching=matching) == []


def test_the_newest_of_several_places_is_taken() -> None:
    text = Lookup([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3, 6, 1, 2, 3])
    assert text.find(1) == [6]
    assert text.find(2) == [6, 1]


def test_a_match_of_exactly_so_many_tokens_is_enough() -> None:
    text = Lookup([9, 0, 1, 2, 3, 4, 8, 0, 1, 2, 3])
    assert [text.find(1, matching=matching) for matching in (3, 4, 5)] == [[4], [4], []]
