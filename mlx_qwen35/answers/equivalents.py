"""A JSON schema in words that llguidance can follow: what libraries write otherwise, exactly or more strictly."""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from mlx_qwen35.answers.distinct import distinct_lists
from mlx_qwen35.answers.lookahead import without_lookahead
from mlx_qwen35.answers.schemas import resolve_reference
from mlx_qwen35.answers.unions import are_apart, exclusive_requirements

# Keywords whose values are no schemas; keywords whose values are schemas by a name that no keyword is.
DATA = frozenset({"enum", "const", "default", "examples"})
NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
# What holds in every language, and what llguidance finds an expression for.
SAFE_INTEGER = 2**53 - 1
_SMALLEST = 1e-15
# Of a number, what its next one is away at least.
_FRACTION = 1e-12
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains")
_NOTES = frozenset({"title", "description", "$comment", "default", "examples", "deprecated"})
# What says nothing to llguidance, but hinders it beside references that lead back.
_REFERRING = frozenset({"$ref", "anyOf", "oneOf", "allOf"})
_HINDERING = frozenset({
    "title", "description", "markdownDescription", "summary", "example", "discriminator", "deprecated", "nullable",
    "readOnly", "writeOnly", "externalDocs", "xml",
})  # fmt: skip
_DIALECT = re.compile(r"^https?://json-schema\.org/(draft-0[3467]|draft/(?:2019-09|2020-12))/schema#?$")

_BYTE = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = rf"({_BYTE}\.){{3}}{_BYTE}"
_DATE = r"[12]\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
# Of dates that are written as such, those of the calendar: of all years but the one before the first.
_YEAR = r"(\d{3}[1-9]|\d\d[1-9]0|\d[1-9]00|[1-9]000)"
_LEAP_YEAR = r"(\d\d(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DAY_THAT_IS = rf"({_YEAR}-(0[13-9]|1[0-2]|02-([01]\d|2[0-8]))|{_LEAP_YEAR}-02-29)"
_TIME = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d"
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-%s[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_BASE64 = "^([0-9a-zA-Z+/]{4})*([0-9a-zA-Z+/]{2}==|[0-9a-zA-Z+/]{3}=)?$"
_URI = r"([A-Za-z0-9._~!$&'()*+,;=/-]|%[0-9A-Fa-f]{2})"
# Formats of pydantic and msgspec, and those of JSON Schema where they stand for names; not all that they allow.
_OF_LIBRARIES = {
    **{f"uuid{version}": f"^{_UUID % version}$" for version in range(1, 9)},
    "base64": _BASE64,
    "base64url": "^([0-9a-zA-Z_-]{4})*([0-9a-zA-Z_-]{2}==|[0-9a-zA-Z_-]{3}=)?$",
    "decimal": r"^-?(0|[1-9]\d{0,14})(\.\d{1,9})?$",
    "ipvanyaddress": f"^{_IPV4}$",
    **dict.fromkeys(("ipv4interface", "ipvanyinterface"), rf"^{_IPV4}/(3[0-2]|[12]?\d)$"),
    # OpenAPI's.
    "byte": _BASE64,
    "guid": f"^{_UUID % '[1-8]'}$",
    # JSON Schema's that llguidance has not.
    **dict.fromkeys(
        ("uri-reference", "iri-reference"), rf"^([a-z][a-z0-9+.-]*://)?{_URI}*(\?({_URI}|\?)*)?(#{_URI}*)?$"
    ),
    "json-pointer": r"^(/([^/~]|~[01])*)*$",
}
_OF_NAMES = {
    "uuid": f"^{_UUID % '[1-8]'}$",
    "date": f"^{_DATE}$",
    "date-time": f"^{_DATE}T{_TIME}Z$",
    "time": f"^{_TIME}Z$",
    "email": r"^[a-z0-9]+([._+-][a-z0-9]+)*@[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)*\.[a-z]{2,}$",
    "ipv4": f"^{_IPV4}$",
    **_OF_LIBRARIES,
}
# llguidance writes leap seconds at any time of any day, leap days in any year, and the year 0: nothing reads them.
# Small letters, which RFC 3339 advises against, Python's `datetime` does not read either.
_BESIDE_FORMATS = {
    "date": f"^{_DAY_THAT_IS}",
    "time": r"^[^:]*:\d\d:[0-5]\d[^z]*$",
    # Of most months the day above is no part: its format has the rest.
    "date-time": rf"^{_DAY_THAT_IS}[-\d]*T\d\d:\d\d:[0-5]\d[^z]*$",
}
# Formats that JSON Schema defines; any other is a name that only who wrote it knows, and forbids nothing.
_FORMATS = frozenset({
    "date-time", "date", "time", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4", "ipv6", "uri",
    "uri-reference", "iri", "iri-reference", "uuid", "uri-template", "json-pointer", "relative-json-pointer", "regex",
})  # fmt: skip
# What is a format of those too, of those that llguidance has.
_NARROWER = {"iri": "uri", "idn-email": "email", "idn-hostname": "hostname"}
_DIGITS = r"(\d+H(\d+M)?(\d+([.,]\d+)?S)?|\d+M(\d+([.,]\d+)?S)?|\d+([.,]\d+)?S)"
_DAYS = r"(\d+Y(\d+M)?(\d+D)?|\d+M(\d+D)?|\d+D)"
_LABEL = "[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
# What zod 4 and zod 3 look ahead for, without. Their keys are as `z.toJSONSchema` writes them.
_LOOKING_AHEAD = {
    **{
        rf"^(?!\.)(?!.*\.\.)([{letters}0-9_'+\-\.]*)[{letters}0-9_+-]"
        rf"@([{letters}0-9][{letters}0-9\-]*\.)+[{letters}]{{2,}}$":
        r"^([A-Za-z0-9_'+-]+\.)*[A-Za-z0-9_'+-]*[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9-]*\.)+[A-Za-z]{2,}$"
        for letters in ("A-Za-z", "a-zA-Z")
    },
    r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$":
    rf"^P(\d+W|{_DAYS}(T{_DIGITS})?|T{_DIGITS})$",
    r"^(?=.{1,253}\.?$)[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[-0-9a-zA-Z]{0,61}[0-9a-zA-Z])?)*\.?$":
    rf"^{_LABEL}(\.{_LABEL}){{0,2}}$",
    r"^(?=[\s\S]*[\p{Extended_Pictographic}\p{Regional_Indicator}\u20E3])"
    r"[\p{Extended_Pictographic}\p{Emoji_Component}]+$":
    r"^\p{Extended_Pictographic}+$",
}  # fmt: skip


def enforceable(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema, rewritten where it says what llguidance refuses but could enforce.

    Every answer to it is valid by the schema that was asked for.
    """
    found = _Rewriting(schema).of(schema)
    return found if isinstance(found, dict) else {"not": {}}


class _Rewriting:
    """Of the schemas inside one root, which references point into."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        # By the identity of an object's schema, the properties that tell it from the others of its unions.
        self._tags: dict[int, set[str]] = {}
        self._tag(root)

    def _tag(self, node: Any) -> None:
        """Find the objects of unions with a discriminator, which has to be there for programs to read them."""
        if isinstance(node, Mapping) and isinstance(node.get("discriminator"), Mapping):
            name = node["discriminator"].get("propertyName")
            if isinstance(name, str):
                self._tag_branches(node, name)
        for child in _children(node):
            self._tag(child)

    def _tag_branches(self, union: Mapping[str, Any], name: str) -> None:
        branches = union.get("oneOf") or union.get("anyOf")
        for branch in branches if isinstance(branches, list) else ():
            target = self._followed(branch)
            if isinstance(target, Mapping) and name not in self._tags.setdefault(id(target), set()):
                self._tags[id(target)].add(name)
                self._tag_branches(target, name)

    def _followed(self, node: Any) -> Any:
        reference = node.get("$ref") if isinstance(node, Mapping) else None
        if isinstance(reference, str) and reference.startswith("#/"):
            return resolve_reference(reference, self._root)
        return node

    def of(self, node: Any) -> Any:
        """A schema, or a list of schemas."""
        if isinstance(node, list):
            return [self.of(item) for item in node]
        if not isinstance(node, Mapping):
            return node
        if node.get("not") in ({}, True) and isinstance(node["not"], bool | Mapping):
            return False
        found = {key: self._value(key, value) for key, value in node.items()}
        properties, required = found.get("properties") or {}, found.get("required") or []
        tags = {tag for tag in self._tags.get(id(node), ()) if tag in properties and tag not in required}
        if tags and isinstance(required, list):
            found["required"] = [*required, *sorted(tags)]
        _name_dialect(found)
        _round_counts(found)
        _bound(found)
        if not _says_something(found):
            del found["format"]
        _spell_format(found)
        if "oneOf" in found and "anyOf" not in found:
            if are_apart(node["oneOf"], self._root):
                found["anyOf"] = found.pop("oneOf")
            elif alternatives := exclusive_requirements(node["oneOf"]):
                found["anyOf"] = alternatives
                del found["oneOf"]
        if isinstance(found.get("$ref"), str):
            # As ts-json-schema-generator names what is generic.
            found["$ref"] = quote(found["$ref"], safe="#/%:?=&~!$'()*+,;@")
        if _REFERRING & found.keys():
            found = {key: value for key, value in found.items() if key not in _HINDERING and key[:2] != "x-"}
        if "uniqueItems" in found:
            found = self._with_lists(found)
        return self._with_names(found)

    def _with_lists(self, node: dict[str, Any]) -> dict[str, Any]:
        """Without `uniqueItems`, where items cannot be the same or are listed, as in pydantic's set[Literal["a"]]."""
        others = {key: value for key, value in node.items() if key != "uniqueItems"}
        if node["uniqueItems"] is False or others.get("maxItems") in (0, 1):
            return others
        if others.keys() - _NOTES - {"type", "items", "minItems", "maxItems"} or others.get("type") != "array":
            return node
        items = self._followed(others.get("items"))
        values: list[Any] | None = self._listed(items)
        if values is None and isinstance(items, Mapping) and items.get("type") == "boolean":
            values = [False, True]
        lists = distinct_lists(others, values) if values else None
        return {"enum": lists} if lists else node

    def _value(self, key: str, value: Any) -> Any:
        if key in DATA:
            return value
        if key in NAMED and isinstance(value, Mapping):
            return {name: self.of(schema) for name, schema in value.items()}
        return self.of(value)

    def _with_names(self, node: dict[str, Any]) -> dict[str, Any]:
        """Without `propertyNames`, where other keywords can say which names there may be."""
        if "propertyNames" not in node or not isinstance(node.get("properties") or {}, Mapping):
            return node
        if node["propertyNames"] == {"type": "string"}:
            # As zod writes records; there are no other names.
            return {key: item for key, item in node.items() if key != "propertyNames"}
        named, patterns = node.get("properties") or {}, node.get("patternProperties") or {}
        value = node.get("additionalProperties", True)
        if "additionalProperties" not in node and isinstance(patterns, Mapping) and patterns.keys() == {""}:
            # As effect writes all names.
            value, patterns = patterns[""], {}
        others = {key: item for key, item in node.items() if key not in ("propertyNames", "patternProperties")}
        if patterns:
            return node
        names = self._listed(node["propertyNames"])
        if names and not {"minProperties", "maxProperties"} & node.keys():
            properties = {name: named.get(name, value) for name in names}
            return others | {"properties": properties, "additionalProperties": False}
        if names and node.get("minProperties", 0) not in (0, 1):
            # A name that comes twice would count twice.
            return node
        pattern = f"^({'|'.join(map(re.escape, names))})$" if names else _pattern_of_names(node["propertyNames"])
        if named or pattern is None:
            return node
        return others | {"patternProperties": {pattern: value}, "additionalProperties": False}

    def _listed(self, schema: Any, depth: int = 0) -> list[str] | None:
        """The strings that a schema accepts, where it lists them; None where it may say something else."""
        schema = self._followed(schema)
        if not isinstance(schema, Mapping) or depth > 8:
            return None
        keys = schema.keys() - _NOTES
        if schema.get("type") == "string":
            keys -= {"type"}
        if keys == {"const"} and isinstance(schema["const"], str):
            return [schema["const"]]
        if keys == {"enum"} and isinstance(schema["enum"], list):
            return [name for name in schema["enum"] if isinstance(name, str)]
        if keys == {"anyOf"} and isinstance(schema["anyOf"], list):
            lists = [self._listed(branch, depth + 1) for branch in schema["anyOf"]]
            return None if None in lists else list(dict.fromkeys(name for names in lists for name in names or ()))
        return None


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, list):
        return node
    return [value for key, value in node.items() if key not in DATA] if isinstance(node, Mapping) else ()


def _name_dialect(node: dict[str, Any]) -> None:
    """Only dialects that llguidance knows; the same as the newest are OpenAPI's, and unknown ones are read as it."""
    uri = node.get("$schema")
    if isinstance(uri, str):
        known = _DIALECT.match(uri)
        scheme = "https" if known and "/" in known[1] else "http"
        if known:
            node["$schema"] = f"{scheme}://json-schema.org/{known[1]}/schema"
        else:
            del node["$schema"]


def _round_counts(node: dict[str, Any]) -> None:
    for key in _COUNTS:
        if isinstance(node.get(key), float) and node[key].is_integer():
            node[key] = int(node[key])


def _bound(node: dict[str, Any]) -> None:
    """Bounds that llguidance finds no expression for, as those of int64, float32 and float64, become narrower."""
    for limit, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        # As OpenAPI 3.0 and draft 4 write them.
        if isinstance(node.get(exclusive), bool) and node.pop(exclusive) and limit in node:
            node[exclusive] = node.pop(limit)
    bounds = {
        key: node[key]
        for key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
        if isinstance(node.get(key), int | float) and not isinstance(node[key], bool)
    }
    narrowed = {key: _narrowed(value, -1 if "axi" in key else 1) for key, value in bounds.items()}
    lowest = max((value for key, value in narrowed.items() if "axi" not in key), default=-SAFE_INTEGER)
    highest = min((value for key, value in narrowed.items() if "axi" in key), default=SAFE_INTEGER)
    if lowest < highest:
        node |= narrowed
        _leave_out_whole(node, lowest, highest)


def _leave_out_whole(node: dict[str, Any], lowest: float, highest: float) -> None:
    """A whole number that is excluded, where no other whole one is allowed: llguidance would write it."""
    for exclusive, inclusive, way in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        bound = node.get(exclusive)
        if node.get("type") != "integer" and bound in (lowest, highest) and highest - lowest < 1 and bound % 1 == 0:
            del node[exclusive]
            node[inclusive] = bound + way * max(_SMALLEST, abs(bound) * _FRACTION)


def _narrowed(value: float, way: int) -> float:
    """A bound moved up (1) or down (-1), but no further than it has to be."""
    value *= way
    if value < -SAFE_INTEGER:
        value = -SAFE_INTEGER
    elif 0 < abs(value) < _SMALLEST:
        value = _SMALLEST if value > 0 else 0
    return value * way


def _says_something(node: Mapping[str, Any]) -> bool:
    """Whether a format forbids anything that the schema allows without it: not one that JSON Schema leaves open."""
    name = node.get("format")
    if not isinstance(name, str) or name in _FORMATS:
        return True
    parts = [node, *(part for part in node.get("allOf") or () if isinstance(part, Mapping))]
    return name in _OF_LIBRARIES and not any(isinstance(part.get("pattern"), str) for part in parts)


def _spell_format(node: dict[str, Any]) -> None:
    pattern, name = node.get("pattern"), node.get("format")
    if isinstance(pattern, str):
        node["pattern"] = _LOOKING_AHEAD.get(pattern, pattern)
        patterns = without_lookahead(node["pattern"])
        if patterns and isinstance(node.get("allOf", []), list):
            del node["pattern"]
            node["allOf"] = [*node.get("allOf", []), *({"pattern": part} for part in patterns)]
    elif name in _NARROWER:
        node["format"] = _NARROWER[name]
    elif isinstance(name, str) and name in _OF_LIBRARIES:
        node["pattern"] = _OF_LIBRARIES[name]
        del node["format"]
    elif isinstance(name, str) and name in _BESIDE_FORMATS:
        node["pattern"] = _BESIDE_FORMATS[name]


def _pattern_of_names(schema: Any) -> str | None:
    """What all names have to match, None where a schema says more than that."""
    if not isinstance(schema, Mapping) or schema.get("type", "string") != "string":
        return None
    keys = schema.keys() - _NOTES - {"type"}
    pattern = schema.get("pattern")
    if keys == {"pattern", "format"} and pattern == _BESIDE_FORMATS.get(str(schema["format"])):
        return _OF_NAMES[schema["format"]]
    if isinstance(pattern, str):
        # A pattern of the whole name says what its format does, as zod writes both.
        whole = pattern.startswith("^") and pattern.endswith("$")
        return pattern if keys == {"pattern"} or (keys == {"pattern", "format"} and whole) else None
    if keys == {"format"} and isinstance(schema["format"], str):
        return _OF_NAMES.get(schema["format"])
    if keys and keys <= {"minLength", "maxLength"} and all(type(schema[key]) is int for key in keys):
        return f"^(?s:.){{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}$"
    return None
