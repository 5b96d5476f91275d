"""What libraries write and llguidance refuses is rewritten: the same, or stricter."""

import json
from typing import Any

import pytest

from mlx_qwen35.answers.equivalents import SAFE_INTEGER, enforceable
from mlx_qwen35.answers.grammars import Grammars
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.prompts.tokenizer import Tokenizer

DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
UUID = "123e4567-e89b-42d3-a456-426614174000"


EVERY_MONTH = [f"2026-{month:02}-{day}T03:04:05.6Z" for month in range(1, 13) for day in ("02", "28")]


def a_record(names: Any, **further: Any) -> dict[str, Any]:
    return {"type": "object", "propertyNames": names, "additionalProperties": DIGIT, **further}


def a_case(kind: str, required: list[str], **further: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"kind": {"const": kind}, **further}, "required": required}


# Objects with one property, which has to be there.
CLOSED = {
    name: {"type": "object", "properties": {name: DIGIT}, "required": [name], "additionalProperties": False}
    for name in "ab"
}
# As pydantic writes a tree: a leaf's kind has a default, and the tree is inside itself.
BRANCHES = {"discriminator": {"propertyName": "kind"}, "oneOf": [{"$ref": "#/$defs/Tree"}, {"$ref": "#/$defs/Leaf"}]}
TREE = {
    "$defs": {
        "Leaf": a_case("leaf", ["v"], v=DIGIT),
        "Tree": a_case("tree", ["kind", "below"], below={"type": "array", "items": BRANCHES}),
    },
    "$ref": "#/$defs/Tree",
}
A_SET = {"type": "array", "uniqueItems": True, "items": {"enum": ["a", "b"], "type": "string"}}
NEEDS_A, NEEDS_B = {"required": ["a"]}, {"required": ["b"]}
NOTED = {"$ref": "#/$defs/N", "x-order": 1, "example": {}, "markdownDescription": "Itself."}
ZOD_EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
ZOD_DURATION = r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$"


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(Tokenizer(BOX), 1300)


def accepts(grammars: Grammars, schema: Any, value: Any) -> bool:
    matcher = grammars.json_schema(schema, in_reasoning=False)._known.matcher
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    tokens = Tokenizer(BOX).encode(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.some(20)
@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        # pydantic's dict[Literal["a", "b"], int], dict[Enum, int] and dict[UUID, int]; zod's records.
        (a_record({"enum": ["a", "b"]}), [{}, {"a": 1}, {"a": 1, "b": 2}], [{"c": 1}, {"a": "x"}]),
        (a_record({"type": "string", "enum": ["a", "b"]}, required=["a", "b"]), [{"a": 1, "b": 2}], [{}, {"a": 1}]),
        (a_record({"$ref": "#/$defs/E"}, **{"$defs": {"E": {"enum": ["a"]}}}), [{"a": 1}], [{"b": 1}]),
        (a_record({"anyOf": [{"const": "a"}, {"const": "b"}]}), [{"b": 1}], [{"c": 1}]),
        (a_record({"enum": ["a", "b.c"]}, maxProperties=1), [{}, {"b.c": 1}], [{"a": 1, "b.c": 2}, {"bxc": 1}]),
        (a_record({"enum": ["a", "b"]}, minProperties=1), [{"b": 1}, {"a": 1, "b": 2}], [{}, {"c": 1}]),
        (a_record({"type": "string", "pattern": r"^-?\d+$"}), [{"12": 1}], [{"a": 1}]),
        (a_record({"format": "uuid"}), [{UUID: 1}], [{"a": 1}]),
        (a_record({"minLength": 2, "maxLength": 3}), [{"ab": 1}, {"éèà": 1}], [{"a": 1}, {"abcd": 1}]),
        # int64, float32, float64, and the least of numbers that are more than nothing.
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, [-5, SAFE_INTEGER], [2**63]),
        ({"type": "number", "minimum": -3.4028234663852886e38, "maximum": 3.4028234663852886e38}, [-1.5, 2], ["a"]),
        ({"type": "number", "maximum": 1.7976931348623157e308}, [-1.5, 2], []),
        ({"type": "number", "exclusiveMinimum": 5e-324}, [0.5], [0, -1]),
        ({"type": "integer", "minimum": 0, "exclusiveMinimum": True}, [1], [0, -1]),
        # Of numbers between a whole one that is excluded and the next.
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, [0.25, 0.5, 0.001], [0, 1]),
        ({"type": "number", "exclusiveMinimum": 1000, "exclusiveMaximum": 1000.5}, [1000.25], [1000, 1000.5]),
        ({"type": "number", "minimum": -1.5, "exclusiveMaximum": -1}, [-1.5, -1.001], [-1, -2]),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, [0.5], [0, 1]),
        ({"type": "array", "items": DIGIT, "maxItems": 2.0}, [[], [1, 2]], [[1, 2, 3]]),
        # Unions of objects inside themselves; a discriminator has to be there, or pydantic cannot read it.
        (
            TREE,
            [{"kind": "tree", "below": [{"kind": "leaf", "v": 1}, {"kind": "tree", "below": []}]}],
            [{"kind": "tree", "below": [{"v": 1}]}, {"kind": "leaf", "v": 1}],
        ),
        ({"oneOf": [{"$ref": "#/$defs/A"}, {"type": "string"}], "$defs": {"A": a_case("a", [])}}, ["x", {}], [1]),
        # zod's never(), email(), iso.duration(), includes(); pydantic's UUID4; apischema's dialect.
        ({"type": "object", "properties": {"a": {"not": {}}, "b": DIGIT}}, [{"b": 1}], [{"a": 1, "b": 1}]),
        ({"type": "string", "format": "email", "pattern": ZOD_EMAIL}, ["a.b@c.de"], ["a..b@c.de", ".a@c.de"]),
        ({"type": "string", "format": "duration", "pattern": ZOD_DURATION}, ["P1D", "PT1H5M", "P1W"], ["P", "PT"]),
        ({"type": "string", "format": "includes", "allOf": [{"pattern": "^a"}, {"pattern": "c$"}]}, ["abc"], ["ab"]),
        ({"type": "string", "format": "uuid4"}, [UUID], [UUID.replace("-4", "-1")]),
        ({"$schema": "http://json-schema.org/draft/2020-12/schema#", **DIGIT}, [1], [10]),
        (a_record({"format": "date"}), [{"2024-12-31": 1}, {"2023-02-28": 1}], [{"2023-04-31": 1}, {"2023-02-30": 1}]),
        (a_record({"format": "date-time"}), [{"2024-12-31T00:00:00Z": 1}], [{"2024-12-31": 1}]),
        (a_record({"format": "time"}), [{"23:59:59Z": 1}], [{"23:59:60Z": 1}, {"a": 1}]),
        ({"type": "string", "format": "date-time"}, EVERY_MONTH, ["2026-01-02T03:04:60Z", "2026-01T03:04:05Z"]),
        (
            {"type": "string", "format": "date"},
            ["2024-02-29", "2000-02-29", "0400-02-29", "2023-12-31", "1900-02-28", "0001-01-01"],
            ["2023-02-29", "1900-02-29", "0000-01-01", "0000-02-29", "2024-02-30", "2024-04-31", "2024-00-01"],
        ),
        ({"type": "string", "format": "time"}, ["03:04:05Z", "03:04:05.25-07:00"], ["03:04:05z", "03:04:60Z"]),
        (
            {"type": "string", "format": "date-time"},
            ["2024-02-29T03:04:05Z", "2023-02-28T23:59:59+01:00"],
            ["2023-02-29T03:04:05Z", "0000-01-01T00:00:00Z", "2024-01-01t00:00:00Z", "2024-01-01T00:00:00z"],
        ),
        # OpenAPI's bytes and ids; JSON Schema's that llguidance has not.
        ({"type": "string", "format": "byte"}, ["QUI="], ["QUI", "é"]),
        ({"type": "string", "format": "guid"}, [UUID], ["a"]),
        ({"type": "string", "format": "uri-reference"}, ["", "/a?b#c", "http://a.b/c"], ["a b", "a#b#c"]),
        ({"type": "string", "format": "iri"}, ["http://a.b/c"], ["a"]),
        ({"type": "string", "format": "json-pointer"}, ["", "/a/0", "/~1"], ["a", "/~2"]),
        # pydantic's set[Literal["a", "b"]] and set[Enum]: every order of few values, the schema's order of many.
        (A_SET, [[], ["a"], ["b", "a"]], [["a", "a"], ["c"], ["a", "b", "a"]]),
        (A_SET | {"minItems": 1, "maxItems": 1}, [["a"]], [[], ["a", "b"]]),
        (
            {"type": "array", "items": A_SET | {"items": {"$ref": "#/$defs/E"}}, "$defs": {"E": {"enum": ["a", "b"]}}},
            [[["a", "b"]]],
            [[["b", "b"]]],
        ),
        (A_SET | {"items": {"enum": list("abcdefgh")}}, [["a", "h"], list("abcdefgh")], [["a", "a"]]),
        # schemars' enums of Rust; one of several properties.
        (
            {"oneOf": [{"enum": ["u"]}, *({"$ref": f"#/$defs/{name}"} for name in "ab")], "$defs": CLOSED},
            ["u", {"a": 1}],
            [{"a": 1, "b": 1}, {}],
        ),
        (
            {"type": "object", "properties": dict.fromkeys("abc", DIGIT), "oneOf": [NEEDS_A, NEEDS_B]},
            [{"a": 1}, {"b": 1, "c": 1}],
            [{"a": 1, "b": 1}, {"c": 1}],
        ),
        # Passwords, what is not blank, and what does not begin with a character.
        (
            {"type": "string", "pattern": r"^(?=.*[a-z])(?=.*\d|.*[(|])[a-z\d(]{3,}$"},
            ["ab1", "a(b"],
            ["abc", "123", "a1"],
        ),
        ({"type": "string", "pattern": r"^(?!\s*$).+"}, ["a", " a"], ["", " "]),
        ({"type": "string", "pattern": r"^(?!-)(?![0-9])[a-z0-9-]*$"}, ["", "a-1"], ["-a", "1a"]),
        ({"type": "string", "pattern": r"^(?!\.)[a.]+$"}, ["a."], [".a", ""]),
        # References beside notes, in objects inside themselves; names of generics, as they are and encoded.
        (
            {"$ref": "#/$defs/N", "$defs": {"N": {"type": "object", "properties": {"n": NOTED}, "required": []}}},
            [{"n": {"n": {}}}],
            [{"n": 1}],
        ),
        ({"$ref": "#/definitions/A<B[]>", "definitions": {"A<B[]>": DIGIT}}, [1], ["x"]),
        ({"$ref": "#/definitions/A%3CB%3E", "definitions": {"A<B>": DIGIT}}, [1], ["x"]),
    ],
)
def test_schemas_of_libraries_are_enforced(grammars: Grammars, schema: Any, valid: Any, invalid: Any) -> None:
    assert [value for value in valid if not accepts(grammars, schema, value)] == []
    assert [value for value in invalid if accepts(grammars, schema, value)] == []


@pytest.mark.parametrize(
    "schema",
    [
        a_record({"type": "integer"}),
        a_record({"format": "date", "pattern": "^1"}),
        a_record({"enum": ["a", "bb"], "minLength": 2}),
        a_record({"enum": ["a", "bb"]}, minProperties=2),
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        {"oneOf": [a_case("a", []), a_case("b", [])]},
        {"oneOf": [{"const": 1}, {"const": 1.0}]},
        {"type": "integer", "minimum": 2**60},
        {"type": "string", "format": "regex"},
        {"type": "string", "pattern": "^(?=a)ab|c"},
        {"type": "string", "pattern": "^(?!.*b)a"},
        {"type": "string", "pattern": "^(?=a(?!b))a"},
        {"type": "string", "pattern": "^(?=a"},
        {"type": "array", "uniqueItems": True, "items": {"type": "string"}},
        {"type": "array", "uniqueItems": True, "items": {"enum": list("abcdefghij")}},
        {"oneOf": [{"required": ["a"]}, {"required": ["a", "b"]}]},
        {"type": "string", "format": "date", "pattern": "^1"},
        {"type": "object", "properties": {"format": {"const": "path"}}, "additionalProperties": True},
        {"type": "object", "properties": {"not": {}, "oneOf": {"type": "string"}, "propertyNames": {"enum": ["a"]}}},
        {"type": "array", "default": {"not": {}}, "items": {"enum": [{"not": {}}]}},
    ],
)
def test_what_cannot_be_said_otherwise_stays(schema: Any) -> None:
    assert enforceable(schema) == schema


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        # pydantic's Path and SecretStr; zod's cuid(), base64() and record(), whose patterns say what is meant.
        ({"type": "string", "format": "path"}, {"type": "string"}),
        ({"type": "string", "format": "password"}, {"type": "string"}),
        ({"type": "string", "format": "cuid", "pattern": "^c"}, {"type": "string", "pattern": "^c"}),
        # JSON Schema has formats that it does not define allow every text, as validators do.
        ({"type": "string", "format": "shoe"}, {"type": "string"}),
        ({"type": "array", "uniqueItems": False}, {"type": "array"}),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, {"type": "array", "maxItems": 1}),
        ({"type": "object", "propertyNames": {"type": "string"}}, {"type": "object"}),
    ],
)
def test_what_forbids_nothing_is_left_out(schema: Any, expected: Any) -> None:
    assert enforceable({"type": "array", "items": schema}) == {"type": "array", "items": expected}
