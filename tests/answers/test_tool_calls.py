"""Tool calls found in streamed text: none is lost, and no text either."""

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_qwen35.answers import arguments, schemas
from mlx_qwen35.answers.tool_calls import Parsed, ToolCall, ToolCallParser
from mlx_qwen35.errors import OptionError


def tool(name: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "description": "", "parameters": {"type": "object", "properties": properties}},
    }


WRITE = tool("write", path={"type": "string"}, content={"type": "string"})
ADD = tool("add", a={"type": "integer"}, b={"type": "integer"})
NOW = tool("now")
TOOLS = [WRITE, ADD, NOW]


def split(text: str, tools: Any = TOOLS, size: int = 1) -> tuple[str, list[ToolCall]]:
    """Text and calls of a stream in pieces of one size."""
    parser = ToolCallParser(tools)
    pieces = [parser.add(text[at : at + size]) for at in range(0, len(text), size)] + [parser.close()]
    return "".join(piece.text for piece in pieces), [call for piece in pieces for call in piece.calls]


def run(text: str, tools: Any = TOOLS) -> tuple[str, list[ToolCall]]:
    """Text and calls, the same however the stream is cut."""
    whole = split(text, tools, max(len(text), 1))
    for size in (1, 2, 3, 7):
        assert split(text, tools, size) == whole, size
    return whole


def body(name: str, **values: Any) -> str:
    """A function as the chat template writes it."""
    lines = [f"<function={name}>\n"]
    for key, value in values.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"<parameter={key}>\n{shown}\n</parameter>\n")
    return "".join(lines) + "</function>"


def block(name: str, **values: Any) -> str:
    return f"<tool_call>\n{body(name, **values)}\n</tool_call>"


def value_of(text: str, schema: Any, **parameters: Any) -> Any:
    """What a value becomes by a schema."""
    tools = [{"name": "f", "parameters": {"type": "object", "properties": {"x": schema}, **parameters}}]
    rest, calls = run(block("f", x=text), tools)
    assert (rest, len(calls)) == ("", 1)
    return calls[0].arguments["x"]


def same(value: Any, expected: Any) -> bool:
    """Equal and of one type, which 1, 1.0 and True are not."""
    return bool(value == expected) and type(value) is type(expected)


# Text and calls


@pytest.mark.parametrize(
    "text", ["", " ", "  hello é 🦊\n\n there \n", "a < b <tool <function <parameter=", "</tool_call>"]
)
def test_text_without_calls_comes_out_as_it_went_in(text: str) -> None:
    assert run(text) == (text, [])


def test_a_call_in_the_template_s_form() -> None:
    text = (
        "<tool_call>\n<function=write>\n<parameter=path>\na.txt\n</parameter>\n"
        "<parameter=content>\none\ntwo\n</parameter>\n</function>\n</tool_call>"
    )
    assert run(text) == ("", [ToolCall("write", {"path": "a.txt", "content": "one\ntwo"})])
    assert text == block("write", path="a.txt", content="one\ntwo")


def test_a_call_without_parameters() -> None:
    assert run(block("now")) == ("", [ToolCall("now", {})])
    assert run("<tool_call><function=now></function></tool_call>") == ("", [ToolCall("now", {})])


def test_only_the_newlines_next_to_the_markers_are_no_part_of_a_value() -> None:
    value = "\n\n  if x:\n\treturn\n \n\n"
    assert run(block("write", content=value))[1] == [ToolCall("write", {"content": value})]


@pytest.mark.parametrize(("written", "value"), [("", ""), ("\n", ""), ("\n\n", ""), ("\n\n\n", "\n"), (" a ", " a ")])
def test_short_values(written: str, value: str) -> None:
    text = f"<function=write><parameter=path>{written}</parameter></function>"
    assert run(text)[1] == [ToolCall("write", {"path": value})]


def test_white_space_between_markers_is_nothing() -> None:
    text = (
        " <tool_call> \n\n <function=add> \n\t <parameter=a>\n1\n</parameter> \n\n <parameter=b>\n2\n</parameter> \r\n"
        " </function> \n </tool_call> \n "
    )
    assert run(text) == ("", [ToolCall("add", {"a": 1, "b": 2})])


def test_several_calls_in_one_block_and_in_several() -> None:
    one, two = ToolCall("add", {"a": 1}), ToolCall("add", {"a": 2})
    first, second = body("add", a=1), body("add", a=2)
    assert run(f"<tool_call>\n{first}\n{second}\n</tool_call>") == ("", [one, two])
    assert run(f"<tool_call>\n{first}\n</tool_call>\n<tool_call>\n{second}\n</tool_call>\n") == ("", [one, two])
    assert run(f"<tool_call>{first}</tool_call><tool_call>{second}</tool_call>") == ("", [one, two])
    assert run(f"{first}{second}") == ("", [one, two])


def test_a_call_without_the_block_around_it() -> None:
    assert run(f"I look.\n\n{body('add', a=1)}\n") == ("I look.", [ToolCall("add", {"a": 1})])
    assert run(f"I look.\n\n{body('add', a=1)}\n</tool_call>") == ("I look.", [ToolCall("add", {"a": 1})])


def test_white_space_around_calls_is_dropped_unless_it_keeps_texts_apart() -> None:
    call = block("now")
    assert run(f"one \n\n{call}\n\n{call}\n")[0] == "one"
    assert run(f"\n\n{call}\n\n two\n")[0] == "two\n"
    assert run(f"one\n\n{call}\n{call}\n\ntwo")[0] == "one\n\ntwo"
    assert run(f"one\n\n{body('now')} two")[0] == "one two"


def test_text_is_passed_on_at_once_and_a_call_as_soon_as_it_is_complete() -> None:
    parser = ToolCallParser(TOOLS)
    assert parser.add("Let me") == Parsed("Let me")
    assert parser.add(" see <tool") == Parsed(" see")
    assert parser.add("s>.\n\n<tool_call") == Parsed(" <tools>.")
    assert parser.add(">\n<function=add>\n<parameter=a>\n1\n</parameter>\n") == Parsed()
    assert parser.add("</function>") == Parsed(calls=(ToolCall("add", {"a": 1}),))
    assert parser.add("\n</tool_call>\n<tool_call>\n<function=now>\n</functio") == Parsed()
    assert parser.add("n>") == Parsed(calls=(ToolCall("now", {}),))
    assert parser.close() == Parsed()


def test_names_with_blanks_around_or_inside() -> None:
    assert run("<function=now ></function>")[1] == [ToolCall("now", {})]
    tools = [tool("look up", **{"first name": {"type": "integer"}})]
    assert run(block("look up", **{"first name": "7"}), tools)[1] == [ToolCall("look up", {"first name": 7})]


# What is not closed


@pytest.mark.parametrize(
    "end", ["\n</function>\n</tool_call>", "\n</function>", "\n</tool_call>", "\n", "", "\n</par", "\n</"]
)
def test_a_last_parameter_that_is_not_closed(end: str) -> None:
    start = "<tool_call>\n<function=write>\n<parameter=path>\na\n</parameter>\n<parameter=content>\none\n two"
    assert run(start + end) == ("", [ToolCall("write", {"path": "a", "content": "one\n two"})])


@pytest.mark.parametrize("value", ["one <", "one <p", "one <tool_call", "one <function=add"])
def test_what_an_open_value_ends_with_is_kept_unless_it_closes_something(value: str) -> None:
    assert run(f"<function=write>\n<parameter=path>\n{value}") == ("", [ToolCall("write", {"path": value})])


@pytest.mark.parametrize(
    "end", ["\n</function>\n", "\n</tool_call>\n", "", "\n", "\n<", "\n</f", "\n<para", "\n<parameter=b"]
)
def test_a_function_that_is_not_closed(end: str) -> None:
    assert run("<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>" + end) == ("", [ToolCall("add", {"a": 1})])


def test_calls_go_on_after_one_that_is_not_closed() -> None:
    calls = [ToolCall("add", {"a": 1}), ToolCall("add", {"a": 2})]
    for end in ("\n</function>\n</tool_call>\n", "\n</function>\n", "\n</tool_call>\n"):
        assert run(f"<tool_call>\n<function=add>\n<parameter=a>\n1{end}{block('add', a=2)}") == ("", calls)
    assert run(f"<function=add><parameter=a>1</function>{body('add', a=2)}") == ("", calls)
    text = "<tool_call>\n<function=add>\n<parameter=a>\n1\n</function>\n</tool_call>\nDone."
    assert run(text) == ("Done.", calls[:1])


def test_a_declared_parameter_at_the_beginning_of_a_line_ends_one_that_was_not_closed() -> None:
    text = "<function=write>\n<parameter=path>\na\n<parameter=content>\nb\n</parameter>\n</function>"
    assert run(text)[1] == [ToolCall("write", {"path": "a", "content": "b"})]


@pytest.mark.parametrize("value", ["<parameter=other>\n1", "use <parameter=content> here", "x\n<parameter=path>\ny"])
def test_other_parameter_markers_in_a_value_are_part_of_it(value: str) -> None:
    assert run(block("write", path=value))[1] == [ToolCall("write", {"path": value})]


@pytest.mark.parametrize(
    "value",
    [
        "x\n<parameter=path>\ny\n<parameter=path>\nz",
        "x\n<parameter=content>\ny",
        "x\n<parameter=mode>\ny",
        "x\n <parameter=limit>\ny",
        "x <parameter=limit>\ny",
        "<parameter=limit",
        "<parameter=limit\n>",
    ],
)
def test_a_value_that_looks_like_the_next_parameter_is_kept_whole(value: str) -> None:
    """One that was written before, that is being written, that nobody declared, or not at the beginning of a line."""
    tools = [tool("write", path={"type": "string"}, content={"type": "string"}, limit={"type": "string"})]
    expected = {"path": "p", "content": value, "limit": "5"}
    assert run(block("write", **expected), tools) == ("", [ToolCall("write", expected)])
    del expected["limit"]
    assert run(body("write", **expected), tools) == ("", [ToolCall("write", expected)])


def test_the_end_inside_a_block_closes_it_but_a_name_in_text_is_no_call() -> None:
    assert run("<tool_call>\n<function=now>\n</tool_call>") == ("", [ToolCall("now", {})])
    assert run("<tool_call>\n<function=now>") == ("", [ToolCall("now", {})])
    for text in ("Call <function=now>", "Call <function=now>, please.", "`<function=now>`\n</tool_call>"):
        assert run(text) == (text, [])


def test_an_end_cut_off_after_a_call_is_no_text() -> None:
    assert run(f"{body('now')}\n</tool_c") == ("", [ToolCall("now", {})])
    assert run(f"{body('now')}\n<tool_c") == ("<tool_c", [ToolCall("now", {})])


# Markers inside values

EXAMPLE = block("add", a=1)
LITERALS = [
    "<a>\n<parameter>1</parameter>\n</a>",
    "one </parameter>",
    "</parameter>",
    "</parameter>\n</parameter>",
    "</parameter> text </parameter>\nmore",
    "the </function> marker",
    "</function>",
    "</function>\n</parameter>",
    "</tool_call>",
    "a </tool_call> b <tool_call> c",
    "<tool_call>",
    "<tool_call>\n<function=",
    "text <function=add> text",
    "'<tool_call>\\n<function=' + name + '>\\n' + '</function>\\n</tool_call>'",
    EXAMPLE,
    f"Examples:\n{EXAMPLE}\n{EXAMPLE}\nand {body('now')}\nEnd.",
    f"{body('now')}{body('add', a=1)}",
    f"{body('add', a=EXAMPLE)}\n</tool_call>",
    "<function=any>\n<parameter=x>\n1\n</parameter>\n<parameter=content>\n</function>",
]


@pytest.mark.parametrize("value", LITERALS)
def test_markers_inside_a_value_are_part_of_it(value: str) -> None:
    expected = [ToolCall("write", {"content": value, "path": "p"}), ToolCall("add", {"b": 2})]
    assert run(block("write", content=value, path="p") + block("add", b=2)) == ("", expected)
    expected[0] = ToolCall("write", {"path": "p", "content": value})
    assert run(body("write", path="p", content=value) + block("add", b=2)) == ("", expected)


def test_a_piece_that_looks_like_the_end_of_a_call_is_taken_for_it() -> None:
    """The limit of the rule: nothing but the end follows a real end either."""
    text = block("write", content="x\n</parameter>\n</function>\nmore")
    rest, calls = run(text)
    assert calls == [ToolCall("write", {"content": "x"})]
    assert rest == "more\n</parameter>\n</function>\n</tool_call>"


def test_half_a_call_in_the_last_value_leaves_its_closing_markers_alone() -> None:
    value = "```\n<tool_call>\n<function=add>\n<parameter=a>\n...\n```"
    assert run(block("write", content=value)) == ("", [ToolCall("write", {"content": value})])


# What is no call


@pytest.mark.parametrize(
    "text",
    [
        block("unknown", a="1"),
        f"Before\n\n{block('unknown', a=EXAMPLE)}\n\nafter",
        body("unknown", a="1") + "\n",
        "<tool_call>\n<function=unknown>\n<parameter=a>\n1\n</func",
        "<tool_call>\n<function=unknown>\n<parameter=a>\n1\n</function>\n</tool_call>\n<tool_c",
        '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
        "<tool_call>\nadd(1, 2)\n</tool_call>",
        "The <tool_call> marker and\n\n<function=add> and <parameter=a>.",
        "<tool_call>\n<function=>\n</function>\n</tool_call>",
        "<tool_call>\n<function= >\n</function>\n</tool_call>",
        "<tool_call>\n<function=add\n</function>\n</tool_call>",
        "<tool_call>\n<function=add>\nplain\n</function>\n</tool_call>",
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=\n2\n</parameter>\n</function>",
        "<tool_call>\n<function=add>\n<parameter= >\n</function>\n</tool_call>",
        "<tool_call>",
        "<tool_call>\n",
        "<tool_call> \n{",
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}',
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}\n</tool_call>\n',
        '<tool_call>\n{"name": "add", "arguments": {"a": "1}}\n</tool_call>\n',
        '<tool_call>\n{"name": "add", "arguments": [1]}\n</tool_call>',
        '<tool_call>\n{"name": "add", "arguments": "no"}\n</tool_call>',
        '<tool_call>\n{"name": "add", "arguments": {"a": NaN}}\n</tool_call>',
        '<tool_call>\n{"name": 5, "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "}"}}\n</tool_call>',
        '<tool_call>\n{"name": "add", "arguments": ' + '{"a":' * 5000 + "1" + "}" * 5001 + "\n</tool_call>",
    ],
)
def test_what_is_no_call_stays_text_to_the_character(text: str) -> None:
    assert run(text) == (text, [])


def test_calls_are_found_after_what_is_none() -> None:
    call = block("now")
    for text in (
        '<tool_call>\n{"name": "add", "arguments": {"a": "1}\n</tool_call>',
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}\n</tool_call>',
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}\n</tool_call>\nSorry.',
        block("unknown", a="1"),
        "<tool_call>",
        "<function=add>",
    ):
        assert run(f"{text}\n{call}") == (text, [ToolCall("now", {})])
    assert run(f"{call}\n{block('unknown')}") == (block("unknown"), [ToolCall("now", {})])


def test_every_name_is_accepted_without_tools() -> None:
    assert run(block("any", a="1", b="x"), []) == ("", [ToolCall("any", {"a": 1, "b": "x"})])
    assert run("<function= ></function>", []) == ("<function= ></function>", [])


def test_bare_function_descriptions() -> None:
    assert run(block("add", a="1"), [ADD["function"]]) == ("", [ToolCall("add", {"a": 1})])
    assert run(block("f", a="1"), [{"name": "f"}, {"name": "g", "parameters": None}])[1] == [ToolCall("f", {"a": 1})]


# Types


@pytest.mark.parametrize("text", ["1", "true", "null", "[1]", '{"a": 1}', '"quoted"', " 7 ", "None"])
def test_strings_stay_as_they_are(text: str) -> None:
    assert same(value_of(text, {"type": "string"}), text)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("integer", "5", 5),
        ("integer", " -5\n", -5),
        ("integer", "5.0", 5),
        ("integer", "123456789012345678901234567890", 123456789012345678901234567890),
        ("number", "5", 5),
        ("number", "0.5", 0.5),
        ("number", "1e3", 1000.0),
        ("boolean", "true", True),
        ("boolean", "True", True),
        ("boolean", "false", False),
        ("boolean", "False", False),
        ("null", "null", None),
        ("array", '[1, "a", null]', [1, "a", None]),
        ("array", "[1, 'a', None, True]", [1, "a", None, True]),
        ("array", "(1, 2)", [1, 2]),
        ("array", "1, 'a'", [1, "a"]),
        ("object", '{"a": {"b": [true]}}', {"a": {"b": [True]}}),
        ("object", "{'a': {'b': (1, None)}, 2: False}", {"a": {"b": [1, None]}, "2": False}),
        ("object", '{"a": "one\ntwo"}', {"a": "one\ntwo"}),
    ],
)
def test_values_take_the_type_of_the_schema(kind: str, text: str, value: Any) -> None:
    assert same(value_of(text, {"type": kind}), value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("integer", "5.5"),
        ("integer", "five"),
        ("integer", "true"),
        ("integer", ""),
        ("integer", "9" * 5000),
        ("integer", "1e999"),
        ("number", "NaN"),
        ("number", "Infinity"),
        ("number", "1e999"),
        ("number", '"5"'),
        ("boolean", "yes"),
        ("boolean", "1"),
        ("null", "none"),
        ("array", '{"a": 1}'),
        ("array", "one, two"),
        ("array", "[1e999]"),
        ("array", "[b'bytes']"),
        ("array", r'["\ud800"]'),
        ("array", "[" * 100000),
        ("array", "[" * 100000 + "]" * 100000),
        ("array", "[" + "-" * 100000 + "1]"),
        ("object", "[1]"),
        ("object", "{1, 2}"),
        ("object", "{(1, 2): 3}"),
        ("object", "{'a': open('b')}"),
        ("object", '{"a":' * 100000),
    ],
)
def test_what_does_not_fit_stays_a_string(kind: str, text: str) -> None:
    tools = [tool("f", x={"type": kind})]
    assert split(block("f", x=text), tools, 1000) == ("", [ToolCall("f", {"x": text})])


@pytest.mark.parametrize("key", ["anyOf", "oneOf"])
@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("null", None), ("[1]", [1]), ("5.5", "5.5"), ("true", "true"), ('{"a": 1}', '{"a": 1}')],
)
def test_the_first_alternative_that_fits_counts_and_a_string_last(key: str, text: str, value: Any) -> None:
    kinds = ["string", "null", "integer", "array"]
    assert same(value_of(text, {key: [{"type": kind} for kind in kinds]}), value)
    assert same(value_of(text, {"type": kinds}), value)


def test_alternatives_are_tried_in_order() -> None:
    assert same(value_of("5.0", {"type": ["number", "integer"]}), 5.0)
    assert same(value_of("5.0", {"type": ["integer", "number"]}), 5)
    nested = {"anyOf": [{"oneOf": [{"type": "boolean"}, {"type": ["null"]}]}, {"type": "string"}]}
    assert [value_of(text, nested) for text in ("true", "null", "1")] == [True, None, "1"]


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"enum": [1, 2]}, "1", 1),
        ({"enum": [1, 2]}, "true", "true"),
        ({"enum": [1, 2]}, "3", "3"),
        ({"enum": [True, None]}, "null", None),
        ({"enum": ["a", 2, "2"]}, "2", "2"),
        ({"type": "string", "enum": ["a", "b"]}, "c", "c"),
        ({"type": "integer", "enum": [1, 2]}, "2", 2),
        ({"type": ["string", "null"], "enum": ["null?", None]}, "null", None),
        ({"anyOf": [{"type": "string", "enum": ["1"]}, {"type": "integer"}]}, "1", "1"),
        ({"anyOf": [{"type": "string", "enum": ["1"]}, {"type": "integer"}]}, "2", 2),
        ({"anyOf": [{"type": "integer", "enum": [1]}, {"type": "string"}]}, "2", "2"),
        # One value is a list of one; numbers are equal however they are written.
        ({"const": "1"}, "1", "1"),
        ({"const": "true"}, "true", "true"),
        ({"const": 1}, "2", "2"),
        ({"const": 1e-7}, "0.0000001", 1e-7),
        ({"enum": [1.5, 2]}, "1.50", 1.5),
        ({"anyOf": [{"type": "integer", "const": 1}, {"type": "string"}]}, "2", "2"),
        ({"anyOf": [{"type": "integer"}, {"type": "string", "const": "1"}]}, "1", 1),
        ({"anyOf": [{"type": "string", "const": "1"}, {"type": "integer"}]}, "1", "1"),
        # A list that contradicts the type, as published tools have them, says nothing.
        ({"type": "integer", "enum": ["1", "2"]}, "2", 2),
        ({"type": "boolean", "enum": ["true", "false"]}, "true", True),
        ({"type": "array", "items": {"type": "string"}, "enum": ["a"]}, '["a"]', ["a"]),
    ],
)
def test_values_from_a_list(schema: Any, text: str, value: Any) -> None:
    assert same(value_of(text, schema), value)


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"allOf": [{"description": "x"}, {"type": "string"}]}, "5", "5"),
        ({"allOf": [{"type": "string"}, {"description": "x"}]}, "5", "5"),
        ({"type": "string", "allOf": [{"pattern": "5"}]}, "5", "5"),
        ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, "5", 5),
        ({"allOf": [{"type": ["integer", "string"]}, {"enum": ["5", 7]}]}, "5", "5"),
        ({"allOf": [{"type": ["integer", "string"]}, {"enum": ["5", 7]}]}, "7", 7),
        ({"allOf": [{"anyOf": [{"type": "integer"}, {"type": "null"}]}]}, "null", None),
        ({"allOf": [{"allOf": [{"type": "string"}]}, {"maxLength": 9}]}, "true", "true"),
        ({"allOf": [{"$ref": "#/$defs/Name"}], "description": "x"}, "5", "5"),
        ({"allOf": []}, "5", 5),
        ({"allOf": [5]}, "5", 5),
    ],
)
def test_all_of_several_schemas_hold_at_once(schema: Any, text: str, value: Any) -> None:
    assert same(value_of(text, schema, **{"$defs": {"Name": {"type": "string"}}}), value)


@pytest.mark.parametrize("where", ["$defs", "definitions"])
def test_references_into_the_parameters(where: str) -> None:
    kinds = {"Count": {"type": "integer"}, "More": {"$ref": f"#/{where}/Count"}, "Loop": {"$ref": f"#/{where}/Loop"}}
    for name, value in (("Count", 5), ("More", 5), ("Loop", "5"), ("Missing", 5)):
        assert value_of("5", {"$ref": f"#/{where}/{name}"}, **{where: kinds}) == value
    either = {"anyOf": [{"$ref": f"#/{where}/Count"}, {"type": "null"}]}
    assert [value_of(text, either, **{where: kinds}) for text in ("5", "null", "x")] == [5, None, "x"]


@pytest.mark.parametrize("schema", [{}, None, True, {"description": "any"}, {"type": "unheard of"}])
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1.10}', {"a": 1.1}),
        ("[1]", [1]),
        ("5", 5),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("True", "True"),
        ("1.10", "1.10"),
        ("007", "007"),
        ("1e5", "1e5"),
        (" 5", " 5"),
        ('"a"', '"a"'),
        ("{'a': 1}", "{'a': 1}"),
        ("[" * 100000, "[" * 100000),
        ("text", "text"),
    ],
)
def test_without_a_type_json_is_json_and_the_rest_text(schema: Any, text: str, value: Any) -> None:
    tools = [tool("f", x=schema)]
    assert same(split(block("f", x=text), tools, 1000)[1][0].arguments["x"], value)
    assert same(split(block("f", y=text), tools, 1000)[1][0].arguments["y"], value)


@pytest.mark.parametrize(
    "parameters",
    [
        {"anyOf": [{"properties": {"x": {"type": "string"}}}, {"properties": {"y": {"type": "integer"}}}]},
        {"allOf": [{"properties": {"x": {"type": "string"}, "y": {"type": "integer"}}}]},
        {"$ref": "#/$defs/F", "$defs": {"F": {"properties": {"x": {"type": "string"}, "y": {"type": "integer"}}}}},
        {"properties": {"y": {"type": "integer"}, "z": {"type": "string"}, "x": {"$ref": "#/properties/z"}}},
    ],
)
def test_parameters_that_are_not_declared_at_the_top(parameters: Any) -> None:
    """By unions of objects and references, as zod and pydantic write them."""
    tools = [{"name": "f", "parameters": parameters}]
    assert run(block("f", x="5", y="6"), tools)[1] == [ToolCall("f", {"x": "5", "y": 6})]


def test_undeclared_parameters_follow_the_schema_for_further_ones() -> None:
    tools = [{"name": "f", "parameters": {"additionalProperties": {"type": "string"}}}]
    assert run(block("f", x="5"), tools)[1] == [ToolCall("f", {"x": "5"})]


@pytest.mark.parametrize(
    "schema", [{"type": {}}, {"type": 5}, {"anyOf": 5}, {"anyOf": [5]}, {"enum": 5}, {"$ref": 5}, {"type": [[]]}]
)
def test_a_malformed_schema_costs_no_call(schema: Any) -> None:
    assert value_of("text", schema) == "text"


def test_descriptions_that_are_too_large_are_refused_before_the_answer_begins() -> None:
    many = {"enum": list(range(schemas.MAX_VALUES))}
    with pytest.raises(OptionError, match="tools: expected at most 50000 values, found more"):
        ToolCallParser([tool("f", x=many)])


def test_a_value_is_tried_against_each_reference_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty definitions that each name the next one twice are twenty steps, not a million."""
    followed: list[str] = []

    def resolve(reference: str, root: Any) -> Any:
        followed.append(reference)
        return schemas.resolve_reference(reference, root)

    monkeypatch.setattr(arguments, "resolve_reference", resolve)
    definitions: dict[str, Any] = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(20)}
    definitions["a20"] = {"type": "integer"}
    assert value_of("5", {"$ref": "#/$defs/a0"}, **{"$defs": definitions}) == 5
    assert followed == [f"#/$defs/a{n}" for n in range(21)] * (len(followed) // 21)
    # `value_of` reads the call five times, in pieces of five sizes.
    assert len(followed) == 5 * 21


def test_no_more_than_a_hundred_alternatives_are_tried() -> None:
    for before, value in ((99, 5), (100, "5")):
        assert value_of("5", {"anyOf": [{"type": "array"}] * before + [{"type": "integer"}]}) == value


# Streams of any kind

MARKERS = ["<tool_call>", "</tool_call>", "<function=write>", "<function=no>", "</function>", "<parameter=path>"]
MARKERS += ["<parameter=content>", "<parameter=", "</parameter>", "<"]
PARTS = ["\n", "\n\n", " ", "x", "é", '{"', "}", '{"name": "now"}', "<function=now></function>"]
SOUP = st.lists(st.sampled_from(MARKERS + PARTS), max_size=20).map("".join)
NO_MARKER = st.text(st.sampled_from('ab é漢🦊{}[]":\\/>=\n\t '), max_size=12)
# A marker that text follows directly ends nothing.
LITERAL = st.sampled_from(
    ["</parameter>x", "</function>.", "</tool_call>`", "<tool_call>y", "<function=a>;", "< ", "</p"]
)
VALUES = st.one_of(
    st.lists(st.one_of(NO_MARKER, LITERAL, st.just(EXAMPLE + "\n")), max_size=4).map("".join),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.lists(st.one_of(st.integers(), NO_MARKER, LITERAL), max_size=3),
    st.dictionaries(NO_MARKER, st.one_of(NO_MARKER, LITERAL, st.none()), max_size=3),
)
KINDS = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
    list: "array",
    dict: "object",
}


def cut(text: str, data: st.DataObject) -> list[str]:
    at = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[start:end] for start, end in zip([0, *at], [*at, len(text)], strict=True)]


def stream(pieces: list[str], tools: Any) -> tuple[str, list[ToolCall]]:
    parser = ToolCallParser(tools)
    parsed = [*map(parser.add, pieces), parser.close()]
    return "".join(part.text for part in parsed), [call for part in parsed for call in part.calls]


@settings(max_examples=80)
@given(
    st.lists(st.tuples(NO_MARKER, st.dictionaries(st.sampled_from("abc"), VALUES)), max_size=3), NO_MARKER, st.data()
)
def test_calls_and_text_survive_however_the_stream_is_cut(
    parts: list[tuple[str, dict[str, Any]]], last: str, data: st.DataObject
) -> None:
    tools = [
        tool(f"f{index}", **{key: {"type": KINDS[type(value)]} for key, value in values.items()})
        for index, (_, values) in enumerate(parts)
    ]
    text = "".join(f"{before}{block(f'f{index}', **values)}" for index, (before, values) in enumerate(parts)) + last
    rest, calls = split(text, tools, max(len(text), 1))
    assert [(call.name, call.arguments) for call in calls] == [
        (f"f{index}", values) for index, (_, values) in enumerate(parts)
    ]
    assert [[type(value) for value in call.arguments.values()] for call in calls] == [
        [type(value) for value in values.values()] for _, values in parts
    ]
    assert "".join(rest.split()) == "".join("".join([*(before for before, _ in parts), last]).split())
    assert split(text, tools) == (rest, calls)
    assert stream(cut(text, data), tools) == (rest, calls)


@settings(max_examples=200)
@given(SOUP, st.data())
def test_any_text_gives_the_same_however_it_is_cut(text: str, data: st.DataObject) -> None:
    whole = split(text, TOOLS, max(len(text), 1))
    assert split(text, TOOLS) == whole
    assert stream(cut(text, data), TOOLS) == whole


@settings(max_examples=100)
@given(SOUP, st.integers(1, 5))
def test_without_a_call_nothing_is_lost(text: str, size: int) -> None:
    assert split(text, [tool("none of these")], size) == (text, [])


@pytest.mark.parametrize("value", ["abcd " * 40000, "<a>b</a>\n" * 20000, "</parameter>" + "\n" * 200000])
def test_long_arguments_take_time_in_proportion(value: str) -> None:
    """A fraction of a second; reading what came before again with every piece takes minutes."""
    text = block("write", content=value)
    before = time.process_time()
    assert split(text, TOOLS, 4) == ("", [ToolCall("write", {"content": value})])
    assert time.process_time() - before < 3


def test_values_are_what_json_can_hold() -> None:
    text = block("f", a='{"a": [1, 2.5, null, "é"]}', b="x")
    call = run(text, [])[1][0]
    assert json.loads(json.dumps(call.arguments)) == call.arguments
    assert not any(isinstance(value, float) and math.isinf(value) for value in call.arguments.values())
