"""Which schemas of a `oneOf` no value can be valid by at once, so that `anyOf` says the same."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from mlx_qwen35.answers.schemas import resolve_reference

# Pairs of schemas that are compared for one union, and schemas inside each other.
_MOST_PAIRS = 2_000
_MOST_LEVELS = 8
_ALL_TYPES = ("string", "number", "boolean", "null", "array", "object")


def are_apart(branches: Any, root: Any) -> bool:
    """Whether each two of the schemas differ in type, in what they list, or in a property that one of them requires.

    Args:
        root: The schema that references point into.
    """
    if not isinstance(branches, list) or len(branches) < 2:
        return False
    comparing = _Comparing(root)
    return all(comparing.apart(one, other) for one, other in combinations(branches, 2))


class _Comparing:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._pairs = 0

    def apart(self, one: Any, other: Any, level: int = 0) -> bool:
        """Whether it is certain that nothing is valid by both."""
        one, other = self._followed(one), self._followed(other)
        self._pairs += 1
        if self._pairs > _MOST_PAIRS or level > _MOST_LEVELS:
            return False
        if not isinstance(one, Mapping) or not isinstance(other, Mapping):
            return False
        if not _types(one) & _types(other):
            return True
        if (listed := _listed(one)) is not None and (others := _listed(other)) is not None:
            return not listed & others
        for union, beside in ((one, other), (other, one)):
            for keyword in ("oneOf", "anyOf"):
                if isinstance(union.get(keyword), list) and union[keyword]:
                    return all(self.apart(branch, beside, level + 1) for branch in union[keyword])
        return self._told_apart(one, other, level)

    def _told_apart(self, one: Mapping[str, Any], other: Mapping[str, Any], level: int) -> bool:
        """Whether a property that one of two objects has to have is never the same in both."""
        if _types(one) != {"object"} and _types(other) != {"object"}:
            return False
        first, second = (node.get("properties") or {} for node in (one, other))
        if not isinstance(first, Mapping) or not isinstance(second, Mapping):
            return False
        if _lacks(one, other) or _lacks(other, one):
            return True
        required = {*(one.get("required") or ()), *(other.get("required") or ())}
        return any(
            name in required and self.apart(first[name], second[name], level + 1) for name in first if name in second
        )

    def _followed(self, node: Any) -> Any:
        for _ in range(_MOST_LEVELS):
            reference = node.get("$ref") if isinstance(node, Mapping) else None
            if not isinstance(reference, str) or not reference.startswith("#/"):
                break
            node = resolve_reference(reference, self._root)
        return node


def _lacks(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether an object may not have what another one has to: so Rust's enums are told apart."""
    if one.get("additionalProperties") is not False or one.get("patternProperties"):
        return False
    return not set(other.get("required") or ()) <= set(one.get("properties") or ())


def exclusive_requirements(branches: Any) -> list[dict[str, Any]] | None:
    """Schemas that each require what no other one may have then, so that one alone holds; None where that is not so.

    Args:
        branches: Those of a `oneOf`, which say nothing but what is required.
    """
    if not isinstance(branches, list) or not all(
        isinstance(node, Mapping) and node.keys() == {"required"} for node in branches
    ):
        return None
    names = [node["required"] for node in branches]
    if len(names) > _MOST_LEVELS or not all(isinstance(found, list) and len(found) == 1 for found in names):
        return None
    every = [str(name) for (name,) in names]
    if len(set(every)) < len(every):
        return None
    return [{"required": [name], "properties": {other: False for other in every if other != name}} for name in every]


def _types(node: Mapping[str, Any]) -> set[str]:
    """Integers are numbers: an integer may be valid by either."""
    values = [node["const"]] if "const" in node else node.get("enum")
    if "type" not in node and isinstance(values, list) and all(isinstance(value, str) for value in values):
        return {"string"}
    types = node.get("type", _ALL_TYPES)
    return {"number" if name == "integer" else str(name) for name in ([types] if isinstance(types, str) else types)}


def _listed(node: Mapping[str, Any]) -> set[str] | None:
    """What a schema lists, None where it does not; numbers, which are equal in several forms, are not told apart."""
    values = [node["const"]] if "const" in node else node.get("enum")
    if not isinstance(values, list) or any(isinstance(value, float | list | dict) for value in values):
        return None
    return {repr(value) for value in values}
