"""What is left of a tool's parameters where not all of them can be enforced.

A call of a tool is a proposal that its owner checks: it may break a rule, but must not fail to be made.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from mlx_qwen35.answers.arguments import mapping_or_empty
from mlx_qwen35.answers.equivalents import DATA, NAMED
from mlx_qwen35.answers.schemas import has_type, resolve_reference

# What gives a value its shape.
_SHAPE = frozenset({
    "type", "enum", "const", "properties", "required", "additionalProperties", "items", "prefixItems", "anyOf", "allOf",
    "$ref", "$defs", "definitions",
})  # fmt: skip
# Where further properties may be named: in alternatives and parts, which are followed, and for what is given.
_UNIONS = ("allOf", "anyOf", "oneOf")
_DEPENDENT = ("dependentSchemas", "dependencies")
# Shapes that the parameters of a function may have; schemas inside each other of which they are made, and all that
# are looked at, for references may lead back and unions multiply.
_MOST_SHAPES = 64
_MOST_LEVELS = 16
_MOST_VISITS = 1000


def loosened(node: Any) -> Any:
    """A schema without all but the shape of its values; a list of values of which none has the type says nothing."""
    if isinstance(node, list):
        return [loosened(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    node = {"anyOf" if key == "oneOf" and "anyOf" not in node else key: value for key, value in node.items()}
    found: dict[str, Any] = {}
    for key in sorted(node.keys() & _SHAPE, key=list(node).index):
        value = node[key]
        if key in DATA:
            found[key] = value
        elif key in NAMED and isinstance(value, Mapping):
            found[key] = {name: loosened(schema) for name, schema in value.items()}
        else:
            found[key] = loosened(value)
    if "allOf" in found:
        # OpenAPI's authors close an object whose properties only its parts name.
        found.pop("additionalProperties", None)
    for key in ("enum", "const"):
        values = node.get(key) if key == "enum" else [node.get(key)]
        if key in found and isinstance(values, list) and not any(has_type(value, node.get("type")) for value in values):
            del found[key]
    return found


def shapes(root: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of a function's parameters, the objects that they may be: what unions and parts of the whole say, put together.

    Args:
        root: A schema, whose properties are parameters.
    """
    found = _shapes(root, root, _MOST_LEVELS, iter(range(_MOST_VISITS)))
    further = {key: root[key] for key in ("$defs", "definitions", "additionalProperties") if key in root}
    return [{**further, **shape} for shape in found] or [dict(root)]


def with_all_properties(root: Mapping[str, Any]) -> Mapping[str, Any]:
    """A function's parameters with the properties of all their shapes, each what one of the shapes says."""
    if not root.keys() & {"$ref", "allOf", "anyOf", "oneOf"}:
        return root
    options: dict[str, list[Any]] = {}
    for shape in shapes(root):
        properties = shape.get("properties")
        for name, schema in properties.items() if isinstance(properties, Mapping) else ():
            if schema not in options.setdefault(name, []):
                options[name].append(schema)
    properties = {name: found[0] if len(found) == 1 else {"anyOf": found} for name, found in options.items()}
    return {**root, "properties": properties}


def takes_others(parameters: Any) -> bool:
    """Whether a call may have parameters that its function does not name: an object that says nothing else, or so."""
    if not isinstance(parameters, Mapping) or not parameters:
        return False
    found = shapes(parameters)
    names = {name for shape in found for name in mapping_or_empty(shape.get("properties"))}
    pending: list[Any] = [parameters]
    seen: set[int] = set()
    while pending:
        node = mapping_or_empty(pending.pop())
        if id(node) in seen:
            continue
        seen.add(id(node))
        if node.get("additionalProperties", False) is not False or "patternProperties" in node:
            return True
        if mapping_or_empty(node.get("properties")).keys() - names:
            return True
        if isinstance(node.get("$ref"), str):
            pending.append(resolve_reference(node["$ref"], parameters))
        pending += [part for key in _UNIONS if isinstance(node.get(key), list) for part in node[key]]
        pending += [node.get("then"), node.get("else")]
        pending += [part for key in _DEPENDENT for part in mapping_or_empty(node.get(key)).values()]
    return "additionalProperties" not in parameters and any("properties" not in shape for shape in found)


def _shapes(node: Any, root: Mapping[str, Any], levels: int, visits: Iterator[int]) -> list[dict[str, Any]]:
    if not isinstance(node, Mapping) or levels == 0 or not has_type({}, node.get("type")) or next(visits, None) is None:
        return []
    found = [{key: node[key] for key in ("properties", "required") if node.get(key) is not None}]
    groups: list[list[Any]] = [[resolve_reference(node["$ref"], root)]] if isinstance(node.get("$ref"), str) else []
    groups += [[part] for part in node["allOf"]] if isinstance(node.get("allOf"), list) else []
    groups += [node[key] for key in ("anyOf", "oneOf") if isinstance(node.get(key), list)]
    for group in groups:
        options = [shape for branch in group for shape in _shapes(branch, root, levels - 1, visits)][:_MOST_SHAPES]
        found = list(islice((_joined(one, other) for one in found for other in options or [{}]), _MOST_SHAPES))
    return found


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    if not one or not other:
        return one or other
    joined = {**one, **other}
    if isinstance(one.get("properties"), Mapping) and isinstance(other.get("properties"), Mapping):
        joined["properties"] = {**one["properties"], **other["properties"]}
    if isinstance(one.get("required"), list) and isinstance(other.get("required"), list):
        joined["required"] = [*one["required"], *other["required"]]
    return joined
