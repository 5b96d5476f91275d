"""Values of a tool call's arguments: from the text that the model wrote to what the schema asks for."""

import ast
import json
from collections.abc import Mapping
from typing import Any

from mlx_qwen35.answers.schemas import TYPES, has_type, resolve_reference

_BOOLEANS = {"true": True, "True": True, "false": False, "False": False}
_LISTING = frozenset({"const", "enum"})
# Alternatives that a value is tried against.
_MOST_OPTIONS = 100
# RecursionError and MemoryError: values nested too deeply for Python's parsers.
_UNREADABLE = (ValueError, TypeError, SyntaxError, RecursionError, MemoryError)


def mapping_or_empty(value: Any) -> Mapping[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def coerce(text: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """A parameter's value by its schema.

    Strings stay as they are. Of several types the first that fits counts, a free string last. What
    has no type becomes what it is as JSON, unless it is a string there, or a number that would be
    written differently ("1.10"). What does not fit stays a string.

    Args:
        schema: The parameter's; anything else than a mapping says nothing about the type.
        root: The schema that references point into.
    """
    options = _single_types(schema, root)
    for option in sorted(options, key=lambda option: option.get("type") == "string" and not _LISTING & option.keys()):
        try:
            return _convert(text, option)
        except _UNREADABLE:
            continue
    return text


def _single_types(schema: Any, root: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The schemas that a value may follow, with references resolved and at most one type each.

    Each reference is followed once, and no more than `_MOST_OPTIONS` schemas are found.
    """
    pending: list[Any] = [schema]  # the next one last
    found: list[Mapping[str, Any]] = []
    seen: set[str] = set()
    while pending and len(found) < _MOST_OPTIONS:
        option = mapping_or_empty(pending.pop())
        reference, types = option.get("$ref"), option.get("type")
        choices = next((option[key] for key in ("anyOf", "oneOf") if isinstance(option.get(key), list)), None)
        if isinstance(reference, str):
            if reference not in seen:
                seen.add(reference)
                pending.append(resolve_reference(reference, root))
        elif isinstance(option.get("allOf"), list):
            # All of them hold at once: what one leaves open, another one says.
            whole = {key: value for key, value in option.items() if key != "allOf"}
            for part in option["allOf"]:
                whole.update(mapping_or_empty(part))
            pending.append(whole)
        elif choices:
            pending += reversed(choices)
        elif isinstance(types, list):
            names = dict.fromkeys(name for name in types if isinstance(name, str))
            pending += [{**option, "type": name} for name in reversed(names) if name in TYPES]
        else:
            found.append(option)
    return found


def _convert(text: str, option: Mapping[str, Any]) -> Any:
    """A value by a schema of one type.

    Raises:
        ValueError: It does not fit; reading it may raise the others of `_UNREADABLE` too.
    """
    kind = option.get("type")
    members = [option["const"]] if "const" in option else option.get("enum", ())
    if isinstance(members, list) and not any(has_type(member, kind) for member in members):
        # A list of what has another type, as some tools are published with, says nothing.
        members = ()
    value: Any = text
    if kind == "boolean":
        value = _BOOLEANS.get(text.strip())
    elif kind in ("array", "object"):
        value = _from_json_or_python(text)
    elif kind in ("integer", "number", "null"):
        value = _from_json(text)
        if kind == "integer" and isinstance(value, float) and value.is_integer():
            value = int(value)
    elif kind != "string" and text not in members:
        value = _of_any_type(text, members)
    if kind in TYPES and not has_type(value, kind):
        raise ValueError(f"expected {kind}, found {type(value).__name__}")
    if members and not _is_member(value, members):
        raise ValueError("expected a member of the enum")
    return value


def _is_member(value: Any, members: Any) -> bool:
    """Python's True is an int that equals 1, JSON's is not."""
    return any(value == member and isinstance(value, bool) == isinstance(member, bool) for member in members)


def _of_any_type(text: str, members: Any) -> Any:
    try:
        value = _from_json(text)
    except _UNREADABLE:
        return text
    same = _is_member(value, members) or not isinstance(value, (str, int, float)) or json.dumps(value) == text
    return value if same and not isinstance(value, str) else text


def _from_json(text: str) -> Any:
    """Strict about values that other JSON readers refuse (NaN, lone surrogates), not about raw newlines."""
    return _checked(json.loads(text, strict=False))


def _from_json_or_python(text: str) -> Any:
    try:
        return _from_json(text)
    except _UNREADABLE:
        return _checked(ast.literal_eval(text.strip()))


def _checked(value: Any) -> Any:
    """The value as JSON holds it: lists for tuples, strings for keys.

    Raises:
        ValueError: It holds infinities or lone surrogates; TypeError if something that JSON does not know.
    """
    return json.loads(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
