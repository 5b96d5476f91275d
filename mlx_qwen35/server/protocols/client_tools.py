"""Anthropic's tools that a client runs itself, and sends without a schema, which its own models know: as functions.

Names and parameters are those of Anthropic's documentation and SDKs, by which clients read the calls.
"""

from collections.abc import Mapping
from typing import Any

_TEXT, _INTEGER, _BOOLEAN = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
_LINES = {"type": "array", "items": _INTEGER, "description": "First and last line to view, from 1; -1 for the end."}


def _told(schema: Mapping[str, Any], description: str) -> dict[str, Any]:
    return {**schema, "description": description}


def _tool(description: str, properties: Mapping[str, Any], *required: str) -> tuple[str, dict[str, Any]]:
    return description, {"type": "object", "properties": dict(properties), "required": list(required)}


def _bash() -> tuple[str, dict[str, Any]]:
    parameters = {
        "command": _told(_TEXT, "The command to run."),
        "restart": _told(_BOOLEAN, "Whether to restart the shell in place of running a command."),
    }
    return _tool("Runs commands in a bash shell that keeps its state between calls.", parameters, "command")


def _text_editor(inserted: str, *further: str) -> tuple[str, dict[str, Any]]:
    """The tool's description and schema.

    Args:
        inserted: The parameter that holds what is inserted.
        further: Commands that only some versions have.
    """
    commands = ["view", "create", "str_replace", "insert", *further]
    parameters = {
        "command": {"type": "string", "enum": commands},
        "path": _told(_TEXT, "Of the file, or the directory to view."),
        "file_text": _told(_TEXT, "For create: the content of the new file."),
        "old_str": _told(_TEXT, "For str_replace: the text to replace; it has to occur exactly once."),
        "new_str": _told(_TEXT, "For str_replace: the text in its place."),
        "insert_line": _told(_INTEGER, "For insert: the line after which the text goes, 0 for the beginning."),
        "view_range": _LINES,
    }
    if inserted == "new_str":
        parameters["new_str"] = _told(_TEXT, "For str_replace: the text in its place; for insert: the text to insert.")
    else:
        parameters[inserted] = _told(_TEXT, "For insert: the text to insert.")
    return _tool("Views, creates and edits text files.", parameters, "command", "path")


def _memory() -> tuple[str, dict[str, Any]]:
    parameters = {
        "command": {"type": "string", "enum": ["view", "create", "str_replace", "insert", "delete", "rename"]},
        "path": _told(_TEXT, "Of the file or directory, below /memories; for every command but rename."),
        "file_text": _told(_TEXT, "For create: the content of the file."),
        "old_str": _told(_TEXT, "For str_replace: the text to replace; it has to occur exactly once."),
        "new_str": _told(_TEXT, "For str_replace: the text in its place."),
        "insert_line": _told(_INTEGER, "For insert: the line after which the text goes, 0 for the beginning."),
        "insert_text": _told(_TEXT, "For insert: the text to insert."),
        "old_path": _told(_TEXT, "For rename: the path as it is."),
        "new_path": _told(_TEXT, "For rename: the path as it shall be."),
        "view_range": _LINES,
    }
    return _tool(
        "Files below /memories that stay between conversations: look there first for what is known already, and "
        "write down what will be of use later.",
        parameters,
        "command",
    )


# By their types: description and schema.
CLIENT_TOOLS = {
    "bash_20241022": _bash(),
    "bash_20250124": _bash(),
    "text_editor_20241022": _text_editor("new_str", "undo_edit"),
    "text_editor_20250124": _text_editor("new_str", "undo_edit"),
    "text_editor_20250429": _text_editor("insert_text"),
    "text_editor_20250728": _text_editor("insert_text"),
    "memory_20250818": _memory(),
}
