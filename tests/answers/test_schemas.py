"""Schemas that clients send: bounded in size, each reference resolved once."""

from typing import Any

import pytest

from mlx_qwen35.answers import schemas
from mlx_qwen35.answers.grammars import Grammars
from mlx_qwen35.answers.schemas import Accepted, SchemaAnalysis, check_size, resolve_reference
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.errors import OptionError
from mlx_qwen35.prompts.tokenizer import Tokenizer


def doubled(keyword: str, depth: int, last: Any) -> dict[str, Any]:
    """Definitions a0 to a`depth`, each of which names the next one twice."""
    definitions = {f"a{n}": {keyword: [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(depth)}
    return {"$defs": {**definitions, f"a{depth}": last}}


def nested(depth: int) -> Any:
    """A list in a list, and so on, `depth` levels with the one inside."""
    value: Any = 1
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("largest", "what"),
    [
        ([0] * (schemas.MAX_VALUES - 1), "values"),
        (["x" * 1000] * (schemas.MAX_CHARACTERS // 1000), "characters"),
        ([{"$ref": "#"}] * schemas.MAX_REFERENCES, "references"),
        (nested(schemas.MAX_DEPTH), "levels"),
    ],
)
def test_the_largest_schema_that_is_accepted(largest: Any, what: str) -> None:
    check_size(largest, "here")
    one_more: Any = [largest] if what == "levels" else [*largest, "x" if what == "characters" else largest[0]]
    with pytest.raises(OptionError, match=rf"^here: expected at most \d+ {what}, found more$"):
        check_size(one_more, "here")


def test_keys_are_counted_as_characters() -> None:
    with pytest.raises(OptionError, match="characters"):
        check_size({"x" * (schemas.MAX_CHARACTERS + 1): 1}, "here")


def test_a_schema_that_is_too_large_is_not_read_to_its_end() -> None:
    """Not even begun, if its length says enough."""

    class Unread(list[Any]):
        def __iter__(self) -> Any:
            yield from (0 for _ in range(schemas.MAX_VALUES))
            raise AssertionError("the rest was read")

    with pytest.raises(OptionError, match="values"):
        check_size([Unread([0] * schemas.MAX_VALUES)], "here")
    with pytest.raises(OptionError, match="levels"):
        check_size(nested(100_000), "here")


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        ("#/$defs/a", {"b": 1}),
        ("#/$defs/a/b", 1),
        ("#/$defs/x~1y", 2),
        ("#/$defs/x~0y", 3),
        ("#/$defs/~01", 4),
        ("#/$defs/none", None),
        ("#/$defs/a/b/c", None),
        ("#/$defs/list/1", 6),
        ("#/$defs/list/2", None),
        ("#/$defs/list/" + "9" * 5000, None),
        ("", None),
    ],
)
def test_where_references_lead(reference: str, target: Any) -> None:
    root = {"$defs": {"a": {"b": 1}, "x/y": 2, "x~y": 3, "~1": 4, "list": [5, 6]}}
    assert resolve_reference(reference, root) == target


STRING, LISTED = {"type": "string"}, {"enum": ["b", "a"]}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (True, Accepted(None, True)),
        ({}, Accepted(None, True)),
        ({"description": "anything"}, Accepted(None, True)),
        (STRING, Accepted(None, False)),
        ({"type": ["string"]}, Accepted(None, False)),
        ({"type": ["string", "null"]}, Accepted(None, True)),
        ({"type": "integer"}, Accepted([], True)),
        ({"type": "strings"}, Accepted([], True)),
        ({"enum": ["b", 1, "a", None]}, Accepted(["b", "a"], True)),
        (LISTED, Accepted(["b", "a"], False)),
        ({"enum": [1]}, Accepted([], True)),
        ({"const": "a"}, Accepted(["a"], False)),
        ({"const": 1, "enum": ["a"]}, Accepted([], True)),
        ({"type": ["string", "null"], "enum": ["a", None]}, Accepted(["a"], True)),
        ({"type": "string", "enum": ["a", None]}, Accepted(["a"], False)),
        ({"anyOf": [LISTED, {"const": "c"}, LISTED]}, Accepted(["b", "a", "c"], False)),
        ({"anyOf": [LISTED, STRING]}, Accepted(None, False)),
        ({"oneOf": [LISTED, {"type": "null"}]}, Accepted(["b", "a"], True)),
        ({"allOf": [LISTED, {"enum": ["a", "c"]}]}, Accepted(["a"], False)),
        ({"allOf": [LISTED, True]}, Accepted(["b", "a"], False)),
        ({"allOf": [STRING, {"type": ["string", "null"]}]}, Accepted(None, False)),
        ({"anyOf": [], "allOf": []}, Accepted(None, True)),
    ],
)
def test_which_strings_a_schema_accepts(schema: Any, expected: Accepted) -> None:
    assert SchemaAnalysis({}).accepted(schema, "here") == expected


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"anyOf": [{"oneOf": 5}]}, "here.oneOf: expected a list, found 5"),
        ({"enum": "a"}, "here.enum: expected a list, found 'a'"),
        ({"allOf": [5]}, "here: expected an object, found 5"),
        ({"$ref": "#/$defs/x"}, "here.$ref #/$defs/x: expected an object, found None"),
        (False, "here: expected an object, found False"),
    ],
)
def test_a_malformed_schema_is_refused_with_its_place(schema: Any, message: str) -> None:
    with pytest.raises(OptionError) as error:
        SchemaAnalysis({}).accepted(schema, "here")
    assert str(error.value) == message


def test_the_deepest_schema_that_is_accepted() -> None:
    schema: Any = STRING
    for _ in range(schemas.MAX_DEPTH - 1):
        schema = {"anyOf": [schema]}
    analysis = SchemaAnalysis({})
    # Twice: the depth is counted anew.
    for _ in range(2):
        assert analysis.accepted(schema, "here") == Accepted(None, False)
    with pytest.raises(OptionError, match="^here: expected at most 64 schemas inside each other, found more$"):
        analysis.accepted({"anyOf": [schema]}, "here")


def test_comparisons_of_all_schemas_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "MAX_COMPARISONS", 50)
    analysis = SchemaAnalysis({})
    for _ in range(5):
        analysis.accepted({"enum": [str(n) for n in range(10)]}, "here")
    for schema in (LISTED, {"anyOf": [LISTED]}):
        with pytest.raises(OptionError, match="^there: expected at most 50 strings to compare, found more$"):
            analysis.accepted(schema, "there")


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_each_reference_is_resolved_once(keyword: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty definitions that each name the next one twice are twenty steps, not a million."""
    followed: list[str] = []

    def resolve(reference: str, root: Any) -> Any:
        followed.append(reference)
        return resolve_reference(reference, root)

    monkeypatch.setattr(schemas, "resolve_reference", resolve)
    analysis = SchemaAnalysis(doubled(keyword, 20, {"enum": ["b", "a", 1]}))
    for _ in range(3):
        assert analysis.accepted({"$ref": "#/$defs/a0"}, "here") == Accepted(["b", "a"], True)
    assert followed == [f"#/$defs/a{n}" for n in range(21)]


def test_long_chains_of_references_are_refused() -> None:
    """Before Python's own limit is reached."""
    analysis = SchemaAnalysis(doubled("anyOf", 200, {"type": "integer"}))
    with pytest.raises(OptionError, match="^here: expected at most 64 schemas inside each other, found more$"):
        analysis.accepted({"$ref": "#/$defs/a0"}, "here")


def test_lists_are_compared_in_as_many_steps_as_they_are_long() -> None:
    """The strings count how often they are compared; each by each would be some 10^9 comparisons."""

    class Counted(str):
        __slots__ = ()
        comparisons = 0

        def __eq__(self, other: object) -> bool:
            Counted.comparisons += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    one, other = ([Counted(n) for n in range(20_000)] for _ in range(2))
    found = SchemaAnalysis({}).accepted({"allOf": [{"enum": one}, {"enum": other[::-1]}]}, "here")
    assert found == Accepted(one, False)
    assert Counted.comparisons < 10 * len(one)


def test_comparing_lists_again_and_again_is_refused() -> None:
    values = [str(n) for n in range(40_000)]
    schema = {"allOf": [{"$ref": "#/$defs/a"}] * 20}
    with pytest.raises(OptionError, match="^here: expected at most 500000 strings to compare, found more$"):
        SchemaAnalysis({"$defs": {"a": {"enum": values}}}).accepted(schema, "here")


def test_grammars_are_only_made_of_what_is_not_too_large() -> None:
    """And a schema whose references double twenty times is one of these."""
    grammars = Grammars(Tokenizer(BOX), 1300)
    fine = {**doubled("allOf", 20, {"type": "integer"}), "$ref": "#/$defs/a0"}
    large = {"allOf": [{"enum": [str(n) for n in range(30_000)]}] * 2}
    tools = [
        [{"name": "f", "parameters": {"properties": {"x": {"$ref": "#/$defs/a0"}}, "$defs": fine["$defs"]}}],
        [{"name": "f", "parameters": {"properties": {"x": large}}}],
    ]
    grammars.json_schema(fine, in_reasoning=False)
    grammars.tool_calls(tools[0], in_reasoning=False)
    with pytest.raises(OptionError, match="response_format.json_schema.schema: expected at most 50000 values"):
        grammars.json_schema(large, in_reasoning=False)
    with pytest.raises(OptionError, match="response_format.json_schema.schema: expected at most 50000 values"):
        grammars.tool_calls(tools[0], schema=large, in_reasoning=False)
    with pytest.raises(OptionError, match="tools: expected at most 50000 values"):
        grammars.tool_calls(tools[1], in_reasoning=False)
