"""Fields of a JSON object: in their bounds, or told with their place."""

from typing import Any

import pytest

from mlx_qwen35.checkpoints.fields import MAX_SIZE, Fields
from mlx_qwen35.errors import ConfigError


@pytest.fixture
def fields() -> Fields:
    return Fields("file")


@pytest.mark.parametrize("value", [1, 7, MAX_SIZE])
def test_whole_numbers_are_from_one_to_the_largest_size(fields: Fields, value: int) -> None:
    assert fields.integer({"a": value}, "", "a") == value
    assert fields.problems == []


@pytest.mark.parametrize("value", [0, -1, MAX_SIZE + 1])
def test_other_sizes_are_told(fields: Fields, value: int) -> None:
    """A number that can be divided by stands in their place."""
    assert fields.integer({"a": value}, "text.", "a") == 1
    assert fields.problems == [f"text.a: expected 1 to {MAX_SIZE}, found {value}"]
    assert MAX_SIZE == 2**24


@pytest.mark.parametrize("value", [True, False, 1.0, "1", [1]])
def test_only_a_whole_number_is_one(fields: Fields, value: Any) -> None:
    assert fields.integer({"a": value}, "text.", "a", least=0) == 1
    assert fields.problems == [f"text.a: expected an integer, found {value!r}"]


def test_other_bounds_count_where_they_are_given(fields: Fields) -> None:
    assert [fields.integer({"a": value}, "", "a", least=0, most=5) for value in (0, 5)] == [0, 5]
    assert fields.problems == []
    fields.integer({"a": 6}, "", "a", least=0, most=5)
    assert fields.problems == ["a: expected 0 to 5, found 6"]


@pytest.mark.parametrize("source", [{}, {"a": None}], ids=["missing", "null"])
def test_a_field_that_is_null_is_not_there(fields: Fields, source: dict[str, Any]) -> None:
    assert fields.integer(source, "", "a", default=3) == 3
    assert fields.number(source, "", "a", default=0.5) == 0.5
    assert fields.boolean(source, "", "a", default=True) is True
    assert fields.problems == []
    fields.integer(source, "", "a")
    fields.number(source, "", "b")
    assert fields.problems == ["a: expected an integer, found nothing", "b: expected a number, found nothing"]


def test_what_is_false_or_zero_is_there(fields: Fields) -> None:
    assert fields.boolean({"a": False}, "", "a", default=True) is False
    assert fields.integer({"a": 0}, "", "a", default=3, least=0) == 0
    fields.number({"a": 0}, "", "a", default=3.0)
    assert fields.problems == ["a: expected a number above 0, at most 1e+12, found 0"]


def test_a_size_may_be_a_list_of_equal_numbers(fields: Fields) -> None:
    assert [fields.size({"a": value}, "", "a", most=20) for value in (16, [16], [16, 16], [20, 20, 20])] == [
        16, 16, 16, 20,
    ]  # fmt: skip
    assert fields.problems == []
    for value in ([16, 14], [], [21, 21]):
        fields.size({"a": value}, "v.", "a", most=20)
    assert fields.problems == [
        "v.a: expected an integer, found [16, 14]", "v.a: expected an integer, found []",
        "v.a: expected 1 to 20, found 21",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [2, 0.25, 1e12])
def test_numbers_are_above_zero(fields: Fields, value: float) -> None:
    found = fields.number({"a": value}, "", "a")
    assert found == value
    assert isinstance(found, float)
    assert fields.problems == []


@pytest.mark.parametrize(
    ("value", "expected"), [(-1, "a number above 0, at most 8"), (9, "a number above 0, at most 8"), (True, "a number")]
)
def test_other_numbers_are_told(fields: Fields, value: Any, expected: str) -> None:
    assert fields.number({"a": 8}, "", "a", most=8) == 8
    assert fields.number({"a": value}, "text.", "a", most=8) == 1
    assert fields.problems == [f"text.a: expected {expected}, found {value!r}"]


def test_what_is_not_allowed_is_told_even_where_it_is_nothing(fields: Fields) -> None:
    """Null and false may be settings too."""
    fields.only({}, "", "a", (True,))
    fields.only({"a": None}, "", "a", (False, None))
    assert fields.problems == []
    for value in (False, None, 0.0):
        fields.only({"a": value}, "text.", "a", (True, 2))
    assert fields.problems == [f"text.a: only True or 2 is supported, found {value}" for value in (False, None, 0.0)]


def test_all_problems_are_raised_together(fields: Fields) -> None:
    fields.raise_if_any()
    fields.problem("one")
    fields.problem("other")
    with pytest.raises(ConfigError, match="^file: one; other$"):
        fields.raise_if_any()
