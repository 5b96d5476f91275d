"""What is made of a schema before a grammar is: still valid by it, and less open."""

from typing import Any

import pytest

from mlx_qwen35.answers.tightening import tightened

SAFE = {"minimum": 1 - 2**53, "maximum": 2**53 - 1}
INTEGER, BOUNDED = {"type": "integer"}, {"type": "integer", **SAFE}


def an_object(**further: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], **further}


CLOSED = an_object(additionalProperties=False)
# Of a string, which says nothing about objects.
PATTERNS = {"type": "string", "allOf": [{"pattern": "^a"}, {"pattern": "b$"}]}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (INTEGER, BOUNDED),
        ({"type": "array", "items": INTEGER}, {"type": "array", "items": BOUNDED}),
        ({"anyOf": [INTEGER, {"type": "null"}]}, {"anyOf": [BOUNDED, {"type": "null"}]}),
        *(
            ({"type": "integer", name: value}, {"type": "integer", name: value})
            for name, value in (("minimum", 0), ("maximum", 9), ("exclusiveMinimum", 0), ("exclusiveMaximum", 9),
                                ("multipleOf", 3), ("enum", [1]), ("const", 1))
        ),
        ({"enum": [INTEGER], "default": INTEGER}, {"enum": [INTEGER], "default": INTEGER}),
    ],
)  # fmt: skip
def test_integers_have_bounds_where_nothing_says_which(schema: Any, expected: Any) -> None:
    assert tightened(schema) == expected


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (an_object(), CLOSED),
        ({"type": "array", "items": an_object()}, {"type": "array", "items": CLOSED}),
        ({"$ref": "#/$defs/A", "$defs": {"A": an_object()}}, {"$ref": "#/$defs/A", "$defs": {"A": CLOSED}}),
        ({"anyOf": [an_object(), {"type": "null"}]}, {"anyOf": [CLOSED, {"type": "null"}]}),
        ({"anyOf": [an_object(), PATTERNS]}, {"anyOf": [CLOSED, PATTERNS]}),
    ],
)
def test_objects_have_the_properties_that_they_name(schema: Any, expected: Any) -> None:
    assert tightened(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": [1]},
        an_object(additionalProperties=True),
        an_object(additionalProperties={"type": "string"}),
        an_object(patternProperties={"^x": {"type": "string"}}),
        an_object(unevaluatedProperties=True),
        an_object(propertyNames={"pattern": "^a"}),
        an_object(minProperties=2),
        an_object(required=["a", "b"]),
        an_object(anyOf=[{"required": ["b"]}]),
        {"allOf": [an_object(), {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}]},
        {"allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": an_object()}},
        {"if": {"type": "object"}, "then": an_object()},
    ],
)
def test_objects_stay_open_where_more_may_be_wanted(schema: Any) -> None:
    assert tightened(schema) == schema


def test_the_schema_itself_is_left_as_it_is() -> None:
    schema = an_object(properties={"a": {"type": "integer"}})
    tightened(schema)
    assert schema == an_object(properties={"a": {"type": "integer"}})
