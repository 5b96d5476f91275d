"""A JSON schema, tightened to what an answer should look like where the schema leaves it open.

Every answer is still valid by the schema that was asked for. Small models use every freedom: digits and invented
properties without an end.
"""

from collections.abc import Mapping
from typing import Any

from mlx_qwen35.answers.equivalents import DATA, NAMED, SAFE_INTEGER

# Keywords that bound a number, or say all of it.
_LIMITS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "enum", "const"})
# With these, another part of the schema may ask for properties that an object does not name itself.
_JOINED = frozenset({"allOf", "not", "if", "then", "else", "dependentSchemas", "dependentRequired", "$dynamicRef"})
_ALTERNATIVES = frozenset({"anyOf", "oneOf", "$ref"})
_OPEN = frozenset({
    "additionalProperties", "unevaluatedProperties", "patternProperties", "propertyNames", "minProperties",
})  # fmt: skip


def tightened(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with bounds on its integers, as in most languages, and with the properties that it names alone.

    Objects stay open where `additionalProperties` or a like keyword says so, and where parts of the schema are joined
    so that one may name what another does not. xgrammar's strict mode closes objects too.
    """
    found: dict[str, Any] = _tightened(schema, _names_all(schema))
    return found


def _tightened(node: Any, closes: bool) -> Any:
    if isinstance(node, list):
        return [_tightened(item, closes) for item in node]
    if not isinstance(node, Mapping):
        return node
    found = {key: _value(key, value, closes) for key, value in node.items()}
    if found.get("type") == "integer" and not _LIMITS & found.keys():
        found |= {"minimum": -SAFE_INTEGER, "maximum": SAFE_INTEGER}
    named, required = node.get("properties"), node.get("required") or ()
    is_object = node.get("type") == "object" and isinstance(named, Mapping) and named
    if closes and is_object and not _OPEN & node.keys() and set(required) <= set(named or ()):
        found["additionalProperties"] = False
    return found


def _value(key: str, value: Any, closes: bool) -> Any:
    if key in DATA:
        return value
    if key in NAMED and isinstance(value, Mapping):
        return {name: _tightened(schema, closes) for name, schema in value.items()}
    return _tightened(value, closes)


def _names_all(node: Any) -> bool:
    """Whether an object in this schema names, by itself, all the properties that are wanted of it."""
    if isinstance(node, list):
        return all(map(_names_all, node))
    if not isinstance(node, Mapping):
        return True
    joined = _JOINED & node.keys()
    if (joined and not (joined == {"allOf"} and _only_patterns(node["allOf"]))) or (
        "properties" in node and _ALTERNATIVES & node.keys()
    ):
        return False
    children = (
        list(value.values()) if key in NAMED and isinstance(value, Mapping) else [value]
        for key, value in node.items()
        if key not in DATA
    )
    return all(map(_names_all, children))


def _only_patterns(parts: Any) -> bool:
    """Whether what is joined are patterns of a string."""
    return isinstance(parts, list) and all(isinstance(part, Mapping) and part.keys() == {"pattern"} for part in parts)
