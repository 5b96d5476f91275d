"""Tools and calls in OpenAI's chat completions, as functions that a model may call, and calls back again."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, Tag

from mlx_qwen35.answers.tool_calls import ToolCall
from mlx_qwen35.server.protocols.common import arguments_json, new_id
from mlx_qwen35.server.protocols.functions import TEXT, Functions, free_text
from mlx_qwen35.server.wire import HostedTool, Items, WireObject, kind_of


class CallFunction(WireObject):
    """A call's function; `arguments` is JSON text."""

    name: str
    arguments: str | dict[str, JsonValue] | None = None


class CallCustom(WireObject):
    """A call's tool with free text."""

    name: str
    input: str = ""


class MessageCustomCall(WireObject):
    """A call of a tool with free text that an earlier answer made."""

    id: str | None = None
    type: Literal["custom"]
    custom: CallCustom
    index: int | None = None

    @property
    def called(self) -> dict[str, Any]:
        """As a call of the function that stands for the tool."""
        return {"name": self.custom.name, "arguments": {TEXT: self.custom.input}}


class MessageToolCall(WireObject):
    """A call of a function that an earlier answer made."""

    without_effect: ClassVar = frozenset({"extra_content"})

    id: str | None = None
    type: Literal["function"] = "function"
    function: CallFunction
    index: int | None = None

    @property
    def called(self) -> dict[str, Any]:
        """The function's name and its arguments."""
        arguments = self.function.arguments
        return {"name": self.function.name, "arguments": "{}" if arguments is None else arguments}


AnyCall = Annotated[
    Annotated[MessageToolCall, Tag("function")] | Annotated[MessageCustomCall, Tag("custom")],
    kind_of(("function", "custom"), "function", "function"),
]


class Function(WireObject):
    """A function's description; `parameters` is a JSON schema, which calls have to follow if it is strict."""

    name: str
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class FunctionTool(WireObject):
    """A function that the answer may call."""

    without_effect: ClassVar = frozenset({"strict", "cache_control"})

    type: Literal["function"] = "function"
    function: Function


class Custom(WireObject):
    """The description of a tool that takes free text; see `Functions.add_custom`."""

    name: str
    description: str | None = None
    format: dict[str, JsonValue] | None = None


class CustomTool(WireObject):
    """A tool that takes free text."""

    without_effect: ClassVar = frozenset({"cache_control"})

    type: Literal["custom"]
    custom: Custom


Tool = Annotated[
    Annotated[FunctionTool, Tag("function")]
    | Annotated[CustomTool, Tag("custom")]
    | Annotated[HostedTool, Tag("hosted")],
    kind_of(("function", "custom"), "function", "hosted"),
]


class Named(WireObject):
    """The name of a function or a tool."""

    name: str


class NamedTool(WireObject):
    """The one function that has to be called."""

    type: Literal["function"]
    function: Named


class NamedCustom(WireObject):
    """The one tool with free text that has to be called."""

    type: Literal["custom"]
    custom: Named


class SomeTools(WireObject):
    """Names of tools, each under its type."""

    mode: Literal["auto", "required"] = "auto"
    tools: Items[dict[str, JsonValue]]


class AllowedTools(WireObject):
    """Those tools that may be called, of all that are described."""

    type: Literal["allowed_tools"]
    allowed_tools: SomeTools


ToolChoice = Annotated[NamedTool | NamedCustom | AllowedTools, Field(discriminator="type")]


def functions_of(tools: Sequence[Any]) -> Functions:
    """Tools, as they came, as functions."""
    found = Functions()
    for tool in tools:
        if isinstance(tool, FunctionTool):
            called = tool.function
            found.add(called.name, called.description, called.parameters, strict=called.strict)
        elif isinstance(tool, CustomTool):
            found.add_custom(tool.custom.name, tool.custom.description, tool.custom.format)
    return found


def choose(functions: Functions, choice: str | NamedTool | NamedCustom | AllowedTools | None) -> str | dict[str, str]:
    """What may or must be called; leaves those functions that may be."""
    if isinstance(choice, AllowedTools):
        named = [tool.get(str(tool.get("type"))) for tool in choice.allowed_tools.tools]
        functions.keep({str(found["name"]) for found in named if isinstance(found, dict) and "name" in found})
        return choice.allowed_tools.mode
    if isinstance(choice, NamedTool):
        return {"name": choice.function.name}
    return {"name": choice.custom.name} if isinstance(choice, NamedCustom) else choice or "auto"


def tool_call(call: ToolCall, functions: Functions) -> dict[str, Any]:
    """A call as an entry of `tool_calls`."""
    if functions.original(call).custom:
        kind, called = "custom", {"name": call.name, "input": free_text(call)}
    else:
        kind, called = "function", {"name": call.name, "arguments": arguments_json(call)}
    return {"id": new_id("call_"), "type": kind, kind: called}
