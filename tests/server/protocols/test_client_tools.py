"""Anthropic's tools that clients run, against what Anthropic's own library knows of them."""

from typing import Any, get_args

import pytest

from mlx_qwen35.server.protocols.client_tools import CLIENT_TOOLS
from mlx_qwen35.server.protocols.messages import CountRequest
from mlx_qwen35.server.wire import unused_fields

EDITS = {"view", "create", "str_replace", "insert"}
IN_EDITOR = {"command", "path", "file_text", "old_str", "new_str", "insert_line", "view_range"}


def asked(*tools: dict[str, Any]) -> CountRequest:
    messages = [{"role": "user", "content": "hi"}]
    return CountRequest.model_validate({"model": "m", "messages": messages, "tools": list(tools)})


@pytest.mark.parametrize(
    ("kind", "name", "parameters", "commands"),
    [
        ("bash_20241022", "bash", {"command", "restart"}, None),
        ("bash_20250124", "bash", {"command", "restart"}, None),
        ("text_editor_20241022", "str_replace_editor", IN_EDITOR, EDITS | {"undo_edit"}),
        ("text_editor_20250124", "str_replace_editor", IN_EDITOR, EDITS | {"undo_edit"}),
        ("text_editor_20250429", "str_replace_based_edit_tool", IN_EDITOR | {"insert_text"}, EDITS),
        ("text_editor_20250728", "str_replace_based_edit_tool", IN_EDITOR | {"insert_text"}, EDITS),
    ],
)
def test_a_tool_without_a_schema_is_a_function(
    kind: str, name: str, parameters: set[str], commands: set[str] | None
) -> None:
    tool = {"type": kind, "name": name, "cache_control": {"type": "ephemeral"}, "max_characters": 9}
    body = asked(tool)
    assert [unused.place for unused in unused_fields(body)] == ["tools.cache_control", "tools.max_characters"]
    (found,) = body.generation_requests()[0].tools
    assert (found["type"], found["function"]["name"]) == ("function", name)
    schema = found["function"]["parameters"]
    assert set(schema["properties"]) == parameters
    assert set(schema["properties"]["command"].get("enum", ())) == (commands or set())
    assert set(schema["required"]) <= parameters


def test_the_memory_tool_has_the_commands_of_anthropics_library() -> None:
    """Whose helper runs them."""
    beta = pytest.importorskip("anthropic.types.beta")
    found: dict[str, Any] = CLIENT_TOOLS["memory_20250818"][1]["properties"]
    models = get_args(get_args(beta.BetaMemoryTool20250818Command)[0])
    assert {get_args(model.model_fields["command"].annotation)[0] for model in models} == set(found["command"]["enum"])
    assert {name for model in models for name in model.model_fields} == set(found)


def test_tools_that_look_at_a_screen_are_left_out_and_named() -> None:
    body = asked({"type": "computer_20250124", "name": "computer", "display_width_px": 9, "display_height_px": 9})
    assert body.generation_requests()[0].tools == []
    assert [unused.place for unused in unused_fields(body)] == ["tools.computer_20250124"]
