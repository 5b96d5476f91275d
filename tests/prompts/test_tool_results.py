"""Which result is of which call, for templates that show no ids."""

from typing import Any

import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.prompts.tool_results import order_of


def calls(*ids: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"id": one, "function": {"name": "f"}} for one in ids]}


def results(*ids: Any) -> list[dict[str, Any]]:
    return [{"role": "tool", "tool_call_id": one, "content": f"of {one}"} for one in ids]


USER = {"role": "user", "content": "?"}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([USER, calls("a", "b", "c"), *results("c", "a", "b"), USER], [0, 1, 3, 4, 2, 5]),
        ([USER, calls("a", "b"), *results("b", "a"), calls("a", "c"), *results("c", "a")], [0, 1, 3, 2, 4, 6, 5]),
        ([USER, calls("a", "b", "c"), *results("c", "b")], [0, 1, 3, 2]),
        # Of these nobody knows better than who sent them.
        ([USER, calls("a", "b"), *results("b", "x")], [0, 1, 2, 3]),
        ([USER, calls("a", "b"), *results("b", "b", "a")], [0, 1, 2, 3, 4]),
        ([USER, calls(None, None), *results(None, None)], [0, 1, 2, 3]),
        ([*results("b", "a"), "text", {"role": "assistant", "tool_calls": ["x"]}, *results("a")], [0, 1, 2, 3, 4]),
    ],
)
def test_results_come_in_the_order_of_the_calls(messages: list[Any], expected: list[int]) -> None:
    assert order_of(messages) == expected


def test_many_results_take_no_more_than_looking_at_each() -> None:
    names = [f"call {number}" for number in range(50_000)]
    assert order_of([calls(*names), *results(*reversed(names))]) == [0, *range(50_000, 0, -1)]


def test_a_prompt_does_not_depend_on_which_result_came_first(kit: ModelKit) -> None:
    one, other = (
        kit.process_prompt([USER, calls("a", "b"), *results(*ids)]).input_ids.tolist() for ids in ("ab", "ba")
    )
    assert one == other
