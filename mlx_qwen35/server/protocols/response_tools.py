"""The kinds of tools that OpenAI's responses have, as functions that a model may call, and calls back again."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import JsonValue, Tag

from mlx_qwen35.answers.tool_calls import ToolCall
from mlx_qwen35.server.protocols.common import arguments_json, new_id
from mlx_qwen35.server.protocols.functions import Functions, free_text
from mlx_qwen35.server.wire import HostedTool, Items, WireObject, invalid_request, kind_of


class FunctionTool(WireObject):
    """A function that the answer may call, by its schema if it is strict."""

    without_effect: ClassVar = frozenset({"defer_loading", "output_schema", "cache_control"})

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


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


def functions_of(tools: Sequence[Any]) -> Functions:
    """Tools, as they came, as functions."""
    found = Functions()
    for tool in tools:
        inner, namespace = (tool.tools, tool.name) if isinstance(tool, NamespaceTool) else ((tool,), None)
        for one in inner:
            if isinstance(one, FunctionTool):
                found.add(one.name, one.description, one.parameters, namespace=namespace, strict=one.strict)
            elif isinstance(one, CustomTool):
                found.add_custom(one.name, one.description, one.format, namespace=namespace)
    return found


def shown(tool: WireObject) -> dict[str, Any]:
    """A tool as answers repeat it: the types of a function have its fields whether they were sent or not."""
    always = dict.fromkeys(("description", "parameters", "strict")) if isinstance(tool, FunctionTool) else {}
    return always | tool.model_dump(exclude_none=True)


def choose(functions: Functions, choice: str | NamedTool | None) -> str | dict[str, str]:
    """What may or must be called; leaves those functions that may be.

    Raises:
        ApiError: No such tool is there.
    """
    if not isinstance(choice, NamedTool):
        return choice or "auto"
    if choice.type == "allowed_tools":
        functions.keep({str(tool.get("name")) for tool in choice.tools or ()})
        return choice.mode or "auto"
    if choice.type not in ("function", "custom") or choice.name is None:
        message = f"tool_choice: expected a function or a custom tool with its name, found {choice.type[:40]!r}"
        raise invalid_request(f"{message}; tools of other kinds are not run here", "tool_choice")
    return {"name": choice.name}


def call_item(functions: Functions, call: ToolCall) -> tuple[dict[str, Any], str, str]:
    """A call as an output item, the key of what it is called with, and that."""
    original = functions.original(call)
    named = {"name": original.name} | ({"namespace": original.namespace} if original.namespace else {})
    kind, prefix = ("custom_tool_call", "ctc_") if original.custom else ("function_call", "fc_")
    item = {"type": kind, "id": new_id(prefix), "call_id": new_id("call_"), **named, "status": "in_progress"}
    return (item, "input", free_text(call)) if original.custom else (item, "arguments", arguments_json(call))
