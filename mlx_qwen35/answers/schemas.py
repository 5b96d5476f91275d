"""JSON schemas that clients send: bounds on their size, their references, and which strings they accept."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from mlx_qwen35.errors import OptionError
from mlx_qwen35.paths import shorten

# Of everything that one request describes. A hundred tools with twenty documented parameters each have 10,000 values.
MAX_VALUES = 50_000
MAX_CHARACTERS = 1_000_000
MAX_REFERENCES = 1_000
# Values inside each other, as written; schemas inside each other, with references followed.
MAX_DEPTH = 64
# Where references inside a function's parameters mostly point.
_DEFINITIONS = ("$defs", "definitions")
# What Python makes of JSON.
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}
# Strings that are compared while it is found out which ones a schema accepts.
MAX_COMPARISONS = 500_000


def check_size(value: Any, place: str) -> None:
    """Refuse a schema, or a list of tools, that is too large to work on; looks at no more than that.

    Args:
        place: Where it stands, for error messages.
    Raises:
        OptionError: Too many values, characters or references, or too deeply nested.
    """
    pending = [(value, 1)]
    seen = characters = references = 0
    while pending:
        node, depth = pending.pop()
        seen += 1
        children: Collection[Any] = ()
        if isinstance(node, str):
            characters += len(node)
        elif isinstance(node, Mapping):
            children = node.values()
            references += "$ref" in node
        elif isinstance(node, list | tuple):
            children = node
        _check_limit(place, "levels", depth, MAX_DEPTH)
        _check_limit(place, "values", seen + len(pending) + len(children), MAX_VALUES)
        if isinstance(node, Mapping):
            characters += sum(len(key) for key in node if isinstance(key, str))
        _check_limit(place, "characters", characters, MAX_CHARACTERS)
        _check_limit(place, "references", references, MAX_REFERENCES)
        pending += [(child, depth + 1) for child in children]


def _check_limit(place: str, what: str, found: int, limit: int) -> None:
    if found > limit:
        raise OptionError(f"{place}: expected at most {limit} {what}, found more")


def resolve_reference(reference: str, root: Any) -> Any:
    """What a `$ref` into the same document points to, None if to nothing.

    Args:
        reference: "#" and a JSON pointer.
        root: The schema that it points into.
    """
    node = root
    for key in pointer_parts(reference):
        if isinstance(node, list):
            # As many digits as the index of the last item at most: Python reads no number of thousands.
            within = key.isdecimal() and len(key) <= len(str(len(node))) and int(key) < len(node)
            node = node[int(key)] if within else None
        else:
            node = node.get(key) if isinstance(node, Mapping) else None
    return node


def pointer_parts(reference: str) -> list[str]:
    """The keys that a `$ref` into the same document goes through; one that is nowhere for any other."""
    if not reference.startswith("#"):
        return [""]
    return [key.replace("~1", "/").replace("~0", "~") for key in unquote(reference[1:]).split("/")[1:]]


def has_type(value: Any, types: Any) -> bool:
    """Whether a value is of a type, or of one of several; every value is where nothing is said."""
    names = [types] if isinstance(types, str) else types
    if not isinstance(names, list):
        return True
    return any(
        isinstance(value, TYPES.get(str(name), ())) and isinstance(value, bool) <= (name == "boolean") for name in names
    )


def alone(schema: Mapping[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """A schema from inside a root as one of its own, with what its references point to.

    zod-to-json-schema points to where a schema came first, like "#/properties/from"; the rest has definitions.
    """
    used = _references(schema)
    if not used:
        return dict(schema)
    shared: dict[str, dict[str, Any]] = {}
    while used:
        key, name, *_ = [*pointer_parts(used.pop()), "", ""]
        definitions = root.get(key)
        if key not in _DEFINITIONS or not isinstance(definitions, Mapping) or name not in definitions:
            return {**_moved(schema), "$defs": {"root": _moved(root)}}
        if name not in shared.setdefault(key, {}):
            shared[key][name] = definitions[name]
            used += _references(definitions[name])
    return {**shared, **schema}


def _references(node: Any) -> list[str]:
    children = node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()
    found = [node["$ref"]] if isinstance(node, Mapping) and isinstance(node.get("$ref"), str) else []
    return found + [reference for child in children for reference in _references(child)]


def _moved(node: Any) -> Any:
    if isinstance(node, list):
        return [_moved(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    moved = {key: _moved(value) for key, value in node.items()}
    if isinstance(node.get("$ref"), str) and node["$ref"].startswith("#"):
        moved["$ref"] = f"#/$defs/root{node['$ref'][1:]}"
    return moved


def mapping_at(value: Any, place: str) -> Mapping[str, Any]:
    """The value, which has to be a JSON object.

    Raises:
        OptionError: It is none.
    """
    if not isinstance(value, Mapping):
        raise OptionError(f"{place}: expected an object, found {shorten(repr(value))}")
    return value


def list_at(value: Any, place: str) -> list[Any]:
    """The value, which has to be a list.

    Raises:
        OptionError: It is none.
    """
    if not isinstance(value, list):
        raise OptionError(f"{place}: expected a list, found {shorten(repr(value))}")
    return value


class Accepted(NamedTuple):
    """What values a schema accepts.

    Args:
        strings: Each that it accepts, in the schema's order; None if they cannot be listed.
        others: Whether it accepts anything that is no string.
    """

    strings: list[str] | None
    others: bool


class SchemaAnalysis:
    """Finds which strings the schemas inside one root accept; resolves each reference once.

    Args:
        root: The schema that references point into; of a size that `check_size` lets through.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._resolved: dict[str, Accepted] = {}
        self._resolving: set[str] = set()
        self._depth = 0
        self._comparisons = 0

    def accepted(self, schema: Any, place: str) -> Accepted:
        """What a schema accepts, as far as type, enum, const, $ref, allOf, anyOf and oneOf say.

        Raises:
            OptionError: It is malformed, refers to itself, or takes too long.
        """
        if schema is True:
            return Accepted(None, True)
        schema = mapping_at(schema, place)
        _check_limit(place, "schemas inside each other", self._depth + 1, MAX_DEPTH)
        self._depth += 1
        try:
            return self._all(self._parts(schema, place), place)
        finally:
            self._depth -= 1

    def _parts(self, schema: Mapping[str, Any], place: str) -> list[Accepted]:
        """What each keyword of a schema accepts."""
        parts: list[Accepted] = []
        if "enum" in schema or "const" in schema:
            values = [schema["const"]] if "const" in schema else list_at(schema["enum"], f"{place}.enum")
            listed = [value for value in values if isinstance(value, str)]
            parts.append(Accepted(listed, len(listed) < len(values)))
        if "type" in schema:
            types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
            parts.append(Accepted(None if "string" in types else [], types != ["string"]))
        if "$ref" in schema:
            parts.append(self._referenced(str(schema["$ref"]), place))
        for keyword in ("allOf", "anyOf", "oneOf"):
            branches = list_at(schema.get(keyword, []), f"{place}.{keyword}")
            found = [self.accepted(branch, place) for branch in branches]
            if keyword == "allOf":
                parts += found
            elif found:
                parts.append(self._any(found, place))
        return parts

    def _referenced(self, reference: str, place: str) -> Accepted:
        if reference in self._resolving:
            raise OptionError(f"{place}.$ref: {shorten(reference)} leads back to itself")
        if reference not in self._resolved:
            target = mapping_at(resolve_reference(reference, self._root), f"{place}.$ref {shorten(reference)}")
            self._resolving.add(reference)
            self._resolved[reference] = self.accepted(target, place)
            self._resolving.remove(reference)
        return self._resolved[reference]

    def _any(self, options: list[Accepted], place: str) -> Accepted:
        lists = self._lists(options, place)
        union = list(dict.fromkeys(string for strings in lists for string in strings))
        return Accepted(union if len(lists) == len(options) else None, any(option.others for option in options))

    def _all(self, parts: list[Accepted], place: str) -> Accepted:
        lists = self._lists(parts, place)
        common = dict.fromkeys(lists[0]) if lists else None
        for strings in lists[1:]:
            allowed = set(strings)
            common = {string: None for string in common or () if string in allowed}
        return Accepted(None if common is None else list(common), all(part.others for part in parts))

    def _lists(self, parts: list[Accepted], place: str) -> list[list[str]]:
        lists = [part.strings for part in parts if part.strings is not None]
        self._comparisons += sum(map(len, lists))
        _check_limit(place, "strings to compare", self._comparisons, MAX_COMPARISONS)
        return lists
