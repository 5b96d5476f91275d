"""Tools of every kind as functions, which is what a checkpoint's template knows, and calls back again."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_qwen35.answers.tool_calls import ToolCall
from mlx_qwen35.server.protocols.common import function_tool

# The one parameter of a function that stands for a tool with free text.
TEXT = "input"


@dataclass(frozen=True)
class Original:
    """What a function stands for: a tool of a namespace perhaps, and of free text perhaps."""

    name: str
    namespace: str | None = None
    custom: bool = False


class Functions:
    """The functions that stand for a request's tools, in their order; `described` has them in OpenAI's form, `strict`
    the names of those whose calls have to follow their schemas.
    """

    def __init__(self) -> None:
        self.described: list[dict[str, Any]] = []
        self.strict: set[str] = set()
        self._originals: dict[str, Original] = {}

    def add(
        self,
        name: str,
        description: str | None,
        parameters: Mapping[str, Any] | None,
        *,
        namespace: str | None = None,
        custom: bool = False,
        strict: bool | None = None,
    ) -> None:
        """One more function.

        Args:
            parameters: JSON schema of the arguments.
            strict: Whether each call has to follow it.
        """
        flat = flat_name(name, namespace)
        if strict:
            self.strict.add(flat)
        self._originals[flat] = Original(name, namespace, custom)
        self.described.append(function_tool(flat, description, parameters))

    def add_custom(
        self, name: str, description: str | None, format_: Mapping[str, Any] | None, *, namespace: str | None = None
    ) -> None:
        """A tool that takes free text; the format that it asks for is told to the model, and not enforced."""
        told = description or ""
        if format_ and format_.get("type") != "text":
            told += f"\n\nThe input has this format:\n{json.dumps(format_, ensure_ascii=False)}"
        text = {"type": "object", "properties": {TEXT: {"type": "string"}}, "required": [TEXT]}
        self.add(name, told.strip() or None, text, namespace=namespace, custom=True)

    def keep(self, names: Collection[str]) -> None:
        """Leave only those that may be called."""
        self.described = [tool for tool in self.described if tool["function"]["name"] in names]
        self.strict &= set(names)

    def original(self, call: ToolCall) -> Original:
        """What a call is of."""
        return self._originals.get(call.name, Original(call.name))


def flat_name(name: str, namespace: str | None) -> str:
    """The function's name of a tool in a namespace."""
    return f"{namespace}__{name}" if namespace else name


def free_text(call: ToolCall) -> str:
    """What a tool with free text is called with."""
    text = call.arguments.get(TEXT, "")
    return text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
