"""The kinds of tools that OpenAI's responses have, as functions that a model may call, and calls back again."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import JsonValue, Tag

from mlx_qwen35.answers.tool_calls import ToolCall
from mlx_qwen35.server.protocols.common import arguments_json, function_tool, new_id
from mlx_qwen35.server.wire import HostedTool, Items, WireObject, invalid_request, kind_of

# The one parameter of a function that stands for a tool with free text.
TEXT = "input"


class FunctionTool(WireObject):
    """A function that the answer may call."""

    without_effect: ClassVar = frozenset({"strict", "defer_loading", "output_schema", "cache_control"})

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None


class CustomTool(WireObject):
    """A tool that takes free text; the format that it asks for is told to the model, and not enforced."""

    without_effect: ClassVar = frozenset({"defer_loading"})

    type: Literal["custom"]
    name: str
    description: str | None = None
    format: dict[str, JsonValue] | None = None


_OwnTool = Annotated[
    Annotated[FunctionTool, Tag("function")] | Annotated[CustomTool, Tag("custom")] | Annotated[HostedTool, Tag("x")],
    kind_of(("function", "custom"), "function", "x"),
]


class NamespaceTool(WireObject):
    """Tools under a name in common."""

    type: Literal["namespace"]
    name: str
    description: str | None = None
    tools: Items[_OwnTool]


Tool = Annotated[
    Annotated[FunctionTool, Tag("function")]
    | Annotated[CustomTool, Tag("custom")]
    | Annotated[NamespaceTool, Tag("namespace")]
    | Annotated[HostedTool, Tag("hosted")],
    kind_of(("function", "custom", "namespace"), "function", "hosted"),
]


class NamedTool(WireObject):
    """The one tool that has to be called, or those that may be."""

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: Items[dict[str, JsonValue]] | None = None


@dataclass(frozen=True)
class _Original:
    """What a function stands for: a tool of a namespace perhaps, and of free text perhaps."""

    name: str
    namespace: str | None
    custom: bool


class Functions:
    """Tools as functions.

    Args:
        tools: As they came.
    """

    def __init__(self, tools: Sequence[Any]) -> None:
        self.functions: list[dict[str, Any]] = []
        self._originals: dict[str, _Original] = {}
        for tool in tools:
            if isinstance(tool, NamespaceTool):
                for inner in tool.tools:
                    self._add(inner, tool.name)
            else:
                self._add(tool, None)

    def _add(self, tool: FunctionTool | CustomTool | HostedTool, namespace: str | None) -> None:
        if isinstance(tool, HostedTool):
            return
        name = flat_name(tool.name, namespace)
        self._originals[name] = _Original(tool.name, namespace, isinstance(tool, CustomTool))
        if isinstance(tool, FunctionTool):
            self.functions.append(function_tool(name, tool.description, tool.parameters))
            return
        described = tool.description or ""
        if tool.format and tool.format.get("type") != "text":
            described += f"\n\nThe input has this format:\n{json.dumps(tool.format, ensure_ascii=False)}"
        text = {"type": "object", "properties": {TEXT: {"type": "string"}}, "required": [TEXT]}
        self.functions.append(function_tool(name, described.strip() or None, text))

    def choose(self, choice: str | NamedTool | None) -> str | dict[str, str]:
        """What of `functions` may or must be called; leaves those that may be.

        Raises:
            ApiError: No such tool is there.
        """
        if not isinstance(choice, NamedTool):
            return choice or "auto"
        if choice.type == "allowed_tools":
            names = {str(tool.get("name")) for tool in choice.tools or ()}
            self.functions = [tool for tool in self.functions if tool["function"]["name"] in names]
            return choice.mode or "auto"
        if choice.type not in ("function", "custom") or choice.name is None:
            message = f"tool_choice: expected a function or a custom tool with its name, found {choice.type[:40]!r}"
            raise invalid_request(f"{message}; tools of other kinds are not run here", "tool_choice")
        return {"name": choice.name}

    def item(self, call: ToolCall) -> tuple[dict[str, Any], str, str]:
        """A call as an output item, the key of what it is called with, and that."""
        original = self._originals.get(call.name, _Original(call.name, None, False))
        named = {"name": original.name} | ({"namespace": original.namespace} if original.namespace else {})
        kind, prefix = ("custom_tool_call", "ctc_") if original.custom else ("function_call", "fc_")
        item = {"type": kind, "id": new_id(prefix), "call_id": new_id("call_"), **named, "status": "in_progress"}
        if original.custom:
            text = call.arguments.get(TEXT, "")
            return item, "input", text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
        return item, "arguments", arguments_json(call)


def flat_name(name: str, namespace: str | None) -> str:
    """The function's name of a tool in a namespace."""
    return f"{namespace}__{name}" if namespace else name
