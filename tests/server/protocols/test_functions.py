"""Tools as functions, and calls back again, whatever protocol they came in."""

from typing import Any

import pytest

from mlx_qwen35.answers.tool_calls import ToolCall
from mlx_qwen35.server.protocols.functions import Functions, Original, free_text

TEXT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"input": "a\n'b'"}, "a\n'b'"), ({}, ""), ({"text": "a"}, ""), ({"input": {"ä": "b"}}, '{"ä": "b"}'),
        ({"input": ["a", 1]}, '["a", 1]'), ({"input": None}, "null"), ({"input": True}, "true"),
        ({"input": 1.5}, "1.5"),
    ],
)  # fmt: skip
def test_free_text_that_is_no_text_is_its_json(arguments: dict[str, Any], text: str) -> None:
    """A model that wrote something else than a text meant what it wrote."""
    assert free_text(ToolCall("write", arguments)) == text


@pytest.mark.parametrize(
    ("description", "format_", "told"),
    [
        (None, None, None), ("", {"type": "text"}, None), (None, {}, None), (" Writes. ", {"type": "text"}, "Writes."),
        (None, {"type": "ä"}, 'The input has this format:\n{"type": "ä"}'),
        ("Writes.", {"type": "x"}, 'Writes.\n\nThe input has this format:\n{"type": "x"}'),
    ],
)  # fmt: skip
def test_a_tool_of_free_text_is_described_by_what_it_says_and_asks_for(
    description: str | None, format_: dict[str, Any] | None, told: str | None
) -> None:
    functions = Functions()
    functions.add_custom("write", description, format_)
    described = {"name": "write", "description": told, "parameters": TEXT}
    expected = {key: value for key, value in described.items() if value is not None}
    assert functions.described == [{"type": "function", "function": expected}]


def test_a_call_is_told_by_the_name_of_its_function() -> None:
    """Also of one that may not be called, and of one that nobody described."""
    functions = Functions()
    functions.add("read", None, {"type": "object"})
    functions.add("read", "Reads.", None, namespace="disk")
    functions.add_custom("write", None, None, namespace="disk")
    functions.keep({"disk__read"})
    assert [tool["function"]["name"] for tool in functions.described] == ["disk__read"]
    found = [functions.original(ToolCall(name, {})) for name in ("read", "disk__read", "disk__write", "other")]
    assert found == [
        Original("read"), Original("read", "disk"), Original("write", "disk", custom=True), Original("other"),
    ]  # fmt: skip
