"""Constrained answers: whatever a model prefers, what comes out parses and is valid."""

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import generate_step

from mlx_qwen35 import ModelKit
from mlx_qwen35.answers import grammars as grammars_module
from mlx_qwen35.answers.constraints import ThinkingBudget
from mlx_qwen35.answers.grammars import Grammars
from mlx_qwen35.answers.sampling import LogitsProcessor
from mlx_qwen35.answers.text import AnswerText
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.errors import OptionError
from mlx_qwen35.prompts.tokenizer import Tokenizer

# Wider than the tokenizer, as the published models are.
# Of the checkpoint in the package: its tokens, the first that stands for no text, and logits for a few more.
TOKENS, FIRST_CONTROL, WIDTH = 1280, 1254, 1300
PROMPT = 5


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Qwen's layout: `<think>` and `<tool_call>` are single tokens that are not marked special."""
    return Tokenizer(BOX)


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer, WIDTH)


def changed_tokenizer(directory: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Tokenizer:
    """The same tokenizer with other control tokens."""
    for name in ("config.json", "tokenizer_config.json"):
        (directory / name).write_text((BOX / name).read_text())
    settings = json.loads((BOX / "tokenizer.json").read_text())
    settings["added_tokens"] = change(settings["added_tokens"])
    (directory / "tokenizer.json").write_text(json.dumps(settings))
    return Tokenizer(directory)


@cache
def texts(tokenizer: Tokenizer) -> list[str]:
    """What each token stands for."""
    return [tokenizer.decode([token]) for token in range(WIDTH)]


def shape(kind: str, value: Any) -> dict[str, Any]:
    """Of an object that says of which kind it is."""
    return {"type": "object", "properties": {"kind": {"const": kind}, "v": value}, "required": ["kind", "v"]}


class Model:
    """Random preferences, with a strong taste for ending things early and for tokens that make no text.

    Args:
        likes: Texts of tokens that are preferred above all others.
        closing: A text that is continued wherever its beginning was written by chance.
    """

    def __init__(self, tokenizer: Tokenizer, seed: int, *, likes: Sequence[str] = (), closing: str = "") -> None:
        self.tokenizer = tokenizer
        self.random = np.random.default_rng(seed)
        self.closing = closing
        self.taste = np.zeros(WIDTH)
        for token, text in enumerate(texts(tokenizer)):
            self.taste[token] = 30 * (text in likes) if text else 9
            if text and not text.strip('"}],\n'):
                self.taste[token] += 5
        self.taste[[*tokenizer.eos_token_ids, *range(FIRST_CONTROL + 3, TOKENS - 2)]] += 9

    def logits(self, written: list[int]) -> mx.array:
        logits = self.random.normal(size=WIDTH) + self.taste
        if self.closing and self.random.random() < 0.5:
            text = self.tokenizer.decode(written[-20:])
            begun = max(n for n in range(len(self.closing)) if text.endswith(self.closing[:n]))
            logits[self.tokenizer.encode_text(self.closing[begun:])[0]] += 30
        return mx.array(logits.astype(np.float32))[None]


def write(
    model: Model, processors: Sequence[LogitsProcessor], *, greedy: bool = False, limit: int = 3000
) -> tuple[list[int], list[np.ndarray]]:
    """Tokens of one answer, the end included, and what each was chosen from; as mlx-lm's loop does it."""
    tokens, seen = [1] * PROMPT, []
    while len(tokens) < PROMPT + limit:
        logits = model.logits(tokens[PROMPT:])
        for processor in processors:
            logits = processor(mx.array(tokens), logits)
        assert logits.shape == (1, WIDTH)
        seen.append(np.array(logits[0]))
        chances = seen[-1] if greedy else seen[-1] + model.random.gumbel(size=WIDTH)
        tokens.append(int(chances.argmax()))
        assert np.isfinite(seen[-1][tokens[-1]])
        if tokens[-1] in model.tokenizer.eos_token_ids:
            for after in ([], tokens[-1:]):  # mlx-lm's loop asks once more before it hands out the end
                for processor in processors:
                    logits = processor(mx.array(tokens + after), logits)
                assert np.isfinite(np.array(logits)).any()
            return tokens[PROMPT:], seen
    raise AssertionError(f"no end: {model.tokenizer.decode(tokens[-200:])!r}")


def accepts(tokenizer: Tokenizer, processor: LogitsProcessor, text: str) -> bool:
    """Whether an answer can be exactly this text."""
    tokens = [1] * PROMPT
    for token in [*tokenizer.encode(text), max(tokenizer.eos_token_ids)]:
        if not np.isfinite(np.array(processor(mx.array(tokens), mx.zeros((1, WIDTH)))))[0, token]:
            return False
        tokens.append(token)
    return True


def valid(value: Any, schema: Any, root: Any) -> bool:
    """JSON Schema's definition, as far as the schemas here use it."""
    if schema is True:
        return True
    if "$ref" in schema:
        return valid(value, root["$defs"][schema["$ref"].rsplit("/")[-1]], root)
    kinds: dict[str, Callable[[Any], bool]] = {
        "object": lambda v: isinstance(v, dict),
        "array": lambda v: isinstance(v, list),
        "string": lambda v: isinstance(v, str),
        "null": lambda v: v is None,
        "boolean": lambda v: isinstance(v, bool),
        "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
        "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    }
    types = schema.get("type", [])
    checks = [not types or any(kinds[kind](value) for kind in ([types] if isinstance(types, str) else types))]
    checks.append("enum" not in schema or value in schema["enum"])
    checks.append("const" not in schema or value == schema["const"])
    checks.append("anyOf" not in schema or any(valid(value, branch, root) for branch in schema["anyOf"]))
    if isinstance(value, dict):
        known = schema.get("properties", {})
        other = schema.get("additionalProperties", True)
        checks += [key in value for key in schema.get("required", [])]
        checks += [valid(item, known[key], root) if key in known else other is not False for key, item in value.items()]
    if isinstance(value, list):
        checks.append(schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 1e9))
        checks += [valid(item, schema.get("items", True), root) for item in value]
    if isinstance(value, str):
        checks.append(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 1e9))
        checks.append(re.search(schema.get("pattern", ""), value) is not None)
    if isinstance(value, int | float):
        checks.append(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    return all(checks)


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "home": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "code": {"type": "string", "pattern": "^[0-9]{5}$"}},
            "required": ["code"],
            "additionalProperties": False,
        },
        "nick": {"type": ["string", "null"], "maxLength": 4},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"anyOf": [{"type": "number"}, {"enum": ["small", "größer", None]}]},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["value", "children"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
SCHEMAS = {
    "nested": PERSON,
    "recursive": TREE,
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "enum": {"enum": ["rot", "grün", "青", "🙂", '"quoted"\n', 3, None]},
    "bounds": {"type": "number", "minimum": -1.5, "maximum": 2.25},
    "pattern": {"type": "string", "pattern": "^[a-f]+-\\d{2,3}$"},
    "unicode": {
        "type": "object",
        "properties": {"größe": {"type": "string", "minLength": 3}, "名前 🙂": {"const": "é"}},
        "required": ["名前 🙂"],
        "additionalProperties": False,
    },
    "open": {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"]},
}


@pytest.mark.parametrize("greedy", [True, False], ids=["greedy", "sampled"])
@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_json_is_valid_by_its_schema(tokenizer: Tokenizer, grammars: Grammars, schema: Any, greedy: bool) -> None:
    """Nothing but the end follows, although the model would rather end at once, or write ids without text."""
    for seed in range(3):
        constraint = grammars.json_schema(schema, in_reasoning=False)
        tokens, _ = write(Model(tokenizer, seed), [constraint], greedy=greedy)
        assert valid(json.loads(tokenizer.decode(tokens[:-1])), schema, schema), tokenizer.decode(tokens)
        assert not set(tokens[:-1]) & {*tokenizer.eos_token_ids, *range(FIRST_CONTROL, WIDTH)}


def test_a_finished_answer_can_only_end(tokenizer: Tokenizer, grammars: Grammars) -> None:
    """With any of the ids that end an answer, and before the end with none."""
    _, seen = write(Model(tokenizer, 0), [grammars.json_schema({"const": [1, 2]}, in_reasoning=False)])
    assert set(np.flatnonzero(np.isfinite(seen[-1]))) == tokenizer.eos_token_ids
    for logits in seen[:-1]:
        assert not np.isfinite(logits[list(tokenizer.eos_token_ids)]).any()


@pytest.mark.parametrize("seed", range(4))
def test_a_json_object_is_an_object(tokenizer: Tokenizer, grammars: Grammars, seed: int) -> None:
    tokens, _ = write(Model(tokenizer, seed), [grammars.json_object(in_reasoning=False)])
    assert isinstance(json.loads(tokenizer.decode(tokens[:-1])), dict)
    assert not accepts(tokenizer, grammars.json_object(in_reasoning=False), "[1]")


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ('{"a":[1,{}],"b":null}', True),
        ('{"a":"b, c: [d]","e":-1.5}', True),
        ('{"a": [1, {}], "b": null}', False),
        (json.dumps({"a": [1, {"c": {}}], "b": "é"}, indent=4, ensure_ascii=False), False),
        ('{\n\n"a": 1}', False),
        ("\n{}", False),
        ('{"a":"\\ud800"}', False),
        ('{"a":1}{}', False),
    ],
)
def test_what_a_json_object_may_look_like(grammars: Grammars, tokenizer: Tokenizer, text: str, allowed: bool) -> None:
    assert accepts(tokenizer, grammars.json_object(in_reasoning=False), text) == allowed


def test_white_space_comes_to_an_end(tokenizer: Tokenizer, grammars: Grammars) -> None:
    """A model that loves nothing more gets to write none between the parts of JSON; no schema lifts that."""
    blanks = [" ", "\n", "\t", "\n\n", "  ", "    "]
    pair = {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}
    schema = {"type": "object", "properties": {"a": pair}, "required": ["a"], "additionalProperties": False}
    schema["x-guidance"] = {"whitespace_flexible": True, "whitespace_pattern": r"\s*"}
    tokens, _ = write(Model(tokenizer, 0, likes=blanks), [grammars.json_schema(schema, in_reasoning=False)])
    text = tokenizer.decode(tokens[:-1])
    json.loads(text)
    assert not re.findall(r"\s", text)


def prefers(tokenizer: Tokenizer, constraint: LogitsProcessor, text: str, ending: float) -> str:
    """The likeliest token behind a text for a model that likes "z" best, then a comma, then a digit.

    Args:
        ending: What it gives to the end of the answer; these three have 3, 2 and 1, everything else 0.
    """
    logits = mx.zeros((1, WIDTH))
    for score, mark in enumerate("1,z", 1):
        logits[:, tokenizer.encode(mark)[0]] = score
    (end, *_), history = tokenizer.eos_token_ids, [PROMPT]
    logits[:, end] = ending
    found = constraint(mx.array(history), logits)
    for token in (token for letter in text for token in tokenizer.encode(letter)):
        history.append(token)
        found = constraint(mx.array(history), logits)
    return tokenizer.decode([int(mx.argmax(found).item())])


@pytest.mark.parametrize(
    ("text", "goes_on", "ends"),
    [
        ('{"a":"x', "z", '"'),
        ('{"a":"x","b":[1', ",", "]"),
        ('{"a":"x","b":[', "1", "]"),
        ('{"a":"x","b":[1],"c":{"d":1}', ",", "}"),
        ('{"a":"x","b":[1],"c":{"d":1', ",", "}"),
    ],
)
def test_who_would_rather_end_closes_what_is_open(
    tokenizer: Tokenizer, grammars: Grammars, text: str, goes_on: str, ends: str
) -> None:
    properties = {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "integer"}}}
    schema = {"type": "object", "properties": properties, "required": ["a", "b"], "additionalProperties": True}
    for ending, expected in ((-5.0, goes_on), (5.0, ends)):
        found = prefers(tokenizer, grammars.json_schema(schema, in_reasoning=False), text, ending)
        assert found == expected


def test_the_end_of_the_answer_keeps_its_own(tokenizer: Tokenizer, grammars: Grammars) -> None:
    """Where it may come, nothing is given to others; text that a call holds is not JSON."""
    (end, *_) = tokenizer.eos_token_ids
    for constraint in (
        grammars.json_schema({"type": "string"}, in_reasoning=False), grammars.tool_calls([WEATHER], in_reasoning=False)
    ):  # fmt: skip
        assert prefers(tokenizer, constraint, "", 5.0) != tokenizer.decode([end])
    assert prefers(tokenizer, grammars.json_schema({"type": "string"}, in_reasoning=False), '"x"', 5.0) == (
        tokenizer.decode([end])
    )


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "$defs": {"Unit": {"type": "string", "enum": ["°C", "°F"]}},
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
                "unit": {"anyOf": [{"$ref": "#/$defs/Unit"}, {"type": "null"}]},
                "where": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
                "detail": {"type": "boolean"},
                "mixed": {"enum": ["1", 1, "a\\b", ""]},
            },
            "required": ["city", "days"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now", "description": "The time."}}
ASK = {"name": "ask", "parameters": {"type": "object", "properties": {}, "required": ["what"]}}
TOOLS = [WEATHER, NOW, ASK]
CLOSING = "\n</parameter>\n"
CALL = re.compile(
    r"<tool_call>\n<function=(\w+)>\n((?:<parameter=\w+>\n(?:(?!\n</parameter>).)*?\n</parameter>\n)*)"
    r"</function>\n</tool_call>",
    re.DOTALL,
)
PARAMETER = re.compile(r"<parameter=(\w+)>\n(.*?)\n</parameter>\n", re.DOTALL)


def check_call(name: str, body: str) -> None:
    """The values of one call against the descriptions above."""
    pairs = PARAMETER.findall(body)
    values = dict(pairs)
    assert len(values) == len(pairs)
    function = next(tool.get("function", tool) for tool in TOOLS if tool.get("function", tool)["name"] == name)
    parameters = function.get("parameters", {})
    assert set(parameters.get("required", [])) <= set(values)
    assert set(values) <= {*parameters.get("properties", {}), *parameters.get("required", [])}
    for key, text in values.items():
        if key == "unit":
            assert text in ("°C", "°F", "null")
        elif key == "mixed":
            assert text in ("1", "a\\b", "")
        elif key not in ("city", "what"):
            assert valid(json.loads(text), parameters["properties"][key], parameters)


@pytest.mark.some(2)
@pytest.mark.parametrize("greedy", [True, False], ids=["greedy", "sampled"])
@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, {"get_weather", "now", "ask"}),
        ({"name": "get_weather"}, {"get_weather"}),
        ({"name": "now"}, {"now"}),
        ({"parallel": False}, {"get_weather", "now", "ask"}),
    ],
)
def test_tool_calls_have_the_templates_shape(
    tokenizer: Tokenizer, grammars: Grammars, options: dict[str, Any], names: set[str], greedy: bool
) -> None:
    """Blocks between control tokens, on lines of their own, of functions and parameters that exist."""
    begin, end = tokenizer.control_id("<tool_call>"), tokenizer.control_id("</tool_call>")
    most = 0
    for seed in range(8):
        constraint = grammars.tool_calls(TOOLS, in_reasoning=False, **options)
        tokens, _ = write(Model(tokenizer, seed, closing=CLOSING), [constraint], greedy=greedy)
        text = tokenizer.decode(tokens[:-1])
        calls = CALL.findall(text)
        assert "\n".join(match[0] for match in CALL.finditer(text)) == text
        assert {name for name, _ in calls} <= names
        assert tokens.count(begin) == tokens.count(end) == len(calls) >= 1
        most = max(most, len(calls))
        for name, body in calls:
            check_call(name, body)
        control = {token for token in tokens[:-1] if token >= FIRST_CONTROL}
        assert control == {begin, end}
    assert (most == 1) == bool(options)


def call(name: str, *parameters: tuple[str, str]) -> str:
    """One call, in the words of the chat template."""
    body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters)
    return f"<tool_call>\n<function={name}>\n{body}</function>\n</tool_call>"


CITY, DAYS = ("city", "Paris"), ("days", "3")
LATE = {"type": "object", "properties": {"late": {"type": "boolean"}}, "required": ["late"]}


@pytest.mark.parametrize(
    ("text", "options", "allowed"),
    [
        (call("get_weather", CITY, DAYS), {}, True),
        (call("get_weather", DAYS, ("unit", "°C"), CITY, ("detail", "true")), {}, True),
        (call("get_weather", ("city", ""), DAYS, ("where", "[1,2.5]")), {}, True),
        (call("get_weather", ("city", "a\n\n</b>\n</function>"), DAYS, ("mixed", "a\\b")), {}, True),
        (call("get_weather", CITY, DAYS, ("mixed", "1"), ("unit", "null")), {}, True),
        (call("get_weather", CITY, DAYS, ("mixed", "")), {}, True),
        (call("ask", ("what", '{"any": "thing"}')), {}, True),
        (call("now") + "\n" + call("get_weather", CITY, DAYS), {}, True),
        (call("get_weather", CITY), {}, False),
        (call("get_weather", CITY, DAYS, CITY), {}, False),
        (call("get_weather", CITY, ("days", '"3"')), {}, False),
        (call("get_weather", CITY, ("days", "15")), {}, False),
        (call("get_weather", CITY, DAYS, ("unit", '"°C"')), {}, False),
        (call("get_weather", CITY, DAYS, ("unit", "K")), {}, False),
        (call("get_weather", CITY, DAYS, ("mixed", "2")), {}, False),
        (call("get_weather", CITY, DAYS, ("other", "1")), {}, False),
        (call("later"), {}, False),
        (call("now") + call("now"), {}, False),
        (call("now") + "\n", {}, False),
        ("", {}, False),
        ("It is late.\n\n" + call("now"), {}, False),
        (call("now"), {"name": "now"}, True),
        (call("ask", ("what", "x")), {"name": "now"}, False),
        (call("now") + "\n" + call("now"), {"name": "now"}, False),
        (call("now") + "\n" + call("now"), {"parallel": False}, False),
        ('{"late":true}', {"schema": LATE}, True),
        (call("now"), {"schema": LATE}, True),
        (call("now") + "\n" + call("now"), {"schema": LATE}, True),
        ('{"late": 5}', {"schema": LATE}, False),
        ('{"late": true}' + call("now"), {"schema": LATE}, False),
        ("It is late.", {"schema": LATE}, False),
        ('{"late": true}', {}, False),
    ],
)
def test_which_calls_are_allowed(
    grammars: Grammars, tokenizer: Tokenizer, text: str, options: dict[str, Any], allowed: bool
) -> None:
    """Parameters in any order, required ones present; one line break between calls; enums without quotes."""
    assert accepts(tokenizer, grammars.tool_calls(TOOLS, in_reasoning=False, **options), text) == allowed


FREE = {"name": "free", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}


@pytest.mark.parametrize("in_reasoning", [False, True])
@pytest.mark.parametrize(
    ("text", "parallel", "allowed"),
    [
        ("It is late.", True, True),
        ("<function=later>\n</function>", True, True),
        (call("get_weather", CITY, DAYS), True, True),
        ("Let me look.\n\n" + call("get_weather", DAYS, CITY), True, True),
        (call("get_weather", CITY, DAYS) + "\n" + call("now"), True, True),
        (call("free", ("x", "one"), ("y", "</function>")), True, True),
        ("<tool_call>\n<function=free>, or whatever it is</tool_call>", True, True),
        (call("get_weather", CITY), True, False),
        (call("get_weather", CITY, ("days", "15")), True, False),
        (call("get_weather", CITY, DAYS, ("other", "1")), True, False),
        (call("later"), True, False),
        ("<tool_call>\n<function=free>", True, False),
        ("<tool_call>now</tool_call>", True, False),
        (call("now") + "\n" + call("get_weather", CITY), True, False),
        (call("now") + "\nThat is it.", True, False),
        (call("now"), False, True),
        (call("now") + "\n" + call("now"), False, False),
    ],
)
def test_what_strict_functions_allow(
    grammars: Grammars, tokenizer: Tokenizer, text: str, parallel: bool, allowed: bool, in_reasoning: bool
) -> None:
    """Any text, and calls that follow the schemas of strict functions; whatever looks like one in the reasoning."""
    constraint = grammars.calls_in_text(
        [*TOOLS, FREE], strict={"get_weather", "now"}, hold=False, parallel=parallel, in_reasoning=in_reasoning
    )
    before = "A <tool_call>later</tool_call>?\n</think>\n\n" if in_reasoning else ""
    assert accepts(tokenizer, constraint, before + text) == allowed


def test_reasoning_may_end_an_answer_that_need_not_call(grammars: Grammars, tokenizer: Tokenizer) -> None:
    constraint = grammars.calls_in_text([WEATHER], in_reasoning=True)
    assert accepts(tokenizer, constraint, "No.<tool_call>")


def test_a_strict_function_that_cannot_be_called_is_refused_with_its_place(grammars: Grammars) -> None:
    tools = [FREE, {"name": "strict", "parameters": {"properties": {"x": {"$ref": "#/nowhere"}}}}]
    with pytest.raises(OptionError, match=re.escape("tools[1].parameters")):
        grammars.calls_in_text(tools, strict={"strict"}, in_reasoning=False)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("It is late.", True),
        (call("free", ("x", "1")), True),
        (call("free"), True),
        (call("free", ("x", "one")), False),
        (call("free", ("y", "1")), False),
        (call("fre"), False),
        ("<tool_call>now</tool_call>", False),
        # What cannot be followed, and what takes more than it names.
        (call("lost", ("x", "one"), ("y", "2")), True),
        (call("los"), False),
        (call("any", ("x", "one"), ("y", "2")), True),
        (call("more", ("x", "one"), ("y", "2")), True),
        (call("part", ("x", "one"), ("y", "2")), True),
        (call("then", ("x", "1"), ("y", "2")), True),
        (call("empty"), True),
        (call("empty", ("x", "1")), False),
        (call("bare"), True),
        (call("bare", ("x", "1")), False),
    ],
)
def test_calls_in_text_are_of_functions_that_there_are(
    grammars: Grammars, tokenizer: Tokenizer, text: str, allowed: bool
) -> None:
    """By their schemas, although none is strict; one that cannot be followed frees no other."""
    tools: list[dict[str, Any]] = [
        FREE,
        {"name": "lost", "parameters": {"properties": {"x": {"$ref": "#/nowhere"}}}},
        {"name": "any", "parameters": {"type": "object"}},
        {"name": "more", "parameters": {"properties": {"x": {"type": "integer"}}, "additionalProperties": {}}},
        {"name": "part", "parameters": {"$ref": "#/$defs/p", "$defs": {"p": {"anyOf": [{"type": "object"}]}}}},
        {"name": "then", "parameters": {"properties": {"x": {"type": "integer"}},
                                        "dependentSchemas": {"x": {"properties": {"y": {}}}}}},
        {"name": "empty", "parameters": {"type": "object", "properties": {}}},
        {"type": "function", "function": {"name": "bare"}},
    ]  # fmt: skip
    assert accepts(tokenizer, grammars.calls_in_text(tools, in_reasoning=False), text) == allowed


def test_the_same_functions_are_looked_at_once(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs send hundreds with every request, and ask for several answers to one: each has its own."""
    grammars, compiled = Grammars(tokenizer, WIDTH), []
    compile = grammars._compiled
    monkeypatch.setattr(grammars, "_compiled", lambda grammar: (compiled.append(grammar), compile(grammar))[1])
    for _ in range(3):
        constraint = grammars.calls_in_text([dict(FREE)], in_reasoning=False)
        assert accepts(tokenizer, constraint, call("free", ("x", "1")))
    assert len(compiled) == 1
    assert not accepts(tokenizer, grammars.calls_in_text([{**FREE, "name": "other"}], in_reasoning=False), call("free"))
    assert len(compiled) == 2
    again = [grammars.calls_in_text([FREE], parallel=parallel, in_reasoning=False) for parallel in (False, True)]
    both = "\n".join([call("free")] * 2)
    assert [accepts(tokenizer, constraint, both) for constraint in again] == [False, True]


def test_a_name_that_cannot_be_written_is_refused(grammars: Grammars) -> None:
    with pytest.raises(OptionError, match=re.escape("tools[1].name: expected a name without '<'")):
        grammars.calls_in_text([FREE, {"name": "a<b"}], in_reasoning=False)


ALL_OF = [
    ([{"type": "string"}, {"enum": ["a", "b"]}], ["a", "b"], ["c", "1", "null"]),
    ([{"enum": ["a", "b", 1]}, {"enum": ["b", "c", 1]}], ["b", "1"], ["a", "c"]),
    ([{"type": ["string", "null"]}, {"enum": ["a", None, 1]}], ["a", "null"], ["1", "b"]),
    ([{"type": "integer"}, {"minimum": 3}], ["3"], ["2", "a"]),
    ([{"$ref": "#/$defs/Unit"}, {"anyOf": [{"const": "K"}, {"const": "C"}]}], ["C"], ["F", "K"]),
]


@pytest.mark.parametrize(("parts", "fit", "others"), ALL_OF)
def test_all_of_means_all_of_them(
    tokenizer: Tokenizer, grammars: Grammars, parts: list[Any], fit: list[str], others: list[str]
) -> None:
    """In the value of a parameter and in JSON, where a string has its quotes."""
    units = {"$defs": {"Unit": {"type": "string", "enum": ["C", "F"]}}}
    parameters = {**units, "properties": {"x": {"allOf": parts}}, "required": ["x"]}
    for value in [*fit, *others]:
        constraint = grammars.tool_calls([{"name": "f", "parameters": parameters}], in_reasoning=False)
        assert accepts(tokenizer, constraint, call("f", ("x", value))) == (value in fit), value
        text = value if value in ("1", "2", "3", "null") else json.dumps(value)
        constraint = grammars.json_schema({**units, "allOf": parts}, in_reasoning=False)
        assert accepts(tokenizer, constraint, text) == (value in fit), value


def test_a_grammar_waits_for_the_end_of_the_reasoning(tokenizer: Tokenizer, grammars: Grammars) -> None:
    """Reasoning is anything but an end; then come up to four line breaks, and the grammar."""
    end_think = tokenizer.control_id("</think>")
    for seed in range(6):
        likes = ["</think>"] if seed == 5 else []
        constraint = grammars.json_schema(PERSON, in_reasoning=True)
        tokens, seen = write(Model(tokenizer, seed, likes=likes), [constraint, likes_think(end_think, after=seed)])
        at = tokens.index(end_think)
        assert at == seed
        for logits in seen[:at]:
            assert set(np.flatnonzero(np.isfinite(logits))) == set(range(TOKENS)) - tokenizer.eos_token_ids
        text = tokenizer.decode(tokens[at + 1 : -1])
        assert len(text) - len(text.lstrip("\n")) <= 4
        assert valid(json.loads(text), PERSON, PERSON)


def likes_think(end_think: int | None, after: int) -> LogitsProcessor:
    """Ends the reasoning after so many tokens."""

    def process(tokens: mx.array, logits: mx.array) -> mx.array:
        likes = mx.arange(WIDTH) == end_think
        written = tokens.shape[0] - PROMPT
        if written < after:
            return mx.where(likes, -1e9, logits)
        return mx.where(likes, 1e9, logits) if written == after else logits

    return process


@pytest.mark.parametrize("text", ["thinking</think>{}", "</think>\n\n{}", "a {</think>\n{}"])
def test_line_breaks_after_the_reasoning(grammars: Grammars, tokenizer: Tokenizer, text: str) -> None:
    assert accepts(tokenizer, grammars.json_object(in_reasoning=True), text)
    assert not accepts(tokenizer, grammars.json_object(in_reasoning=True), text.replace("{}", "\n\n\n\n\n{}"))
    assert not accepts(tokenizer, grammars.json_object(in_reasoning=True), text.replace("{}", "[]"))


class Unread:
    """A history that is only as long as it is."""

    def __init__(self, length: int) -> None:
        self.shape = (length,)


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_a_thinking_budget_closes_the_reasoning(tokenizer: Tokenizer, budget: int) -> None:
    """Not before it is used up, and never again; until then nothing but the length of the history is looked at."""
    processor: Any = ThinkingBudget(tokenizer, budget, in_reasoning=True)
    logits = mx.zeros((1, WIDTH), dtype=mx.bfloat16)
    tokens = [tokenizer.control_id("</think>")] * PROMPT  # of earlier answers
    for written in range(budget):
        assert processor(Unread(PROMPT + written), logits) is logits
        tokens.append(2)
    for expected in tokenizer.encode("\n</think>\n\n"):
        forced = processor(mx.array(tokens), logits)
        assert forced.dtype == mx.bfloat16
        assert np.flatnonzero(np.isfinite(np.array(forced[0].astype(mx.float32)))).tolist() == [expected]
        tokens.append(expected)
    for length in range(len(tokens), len(tokens) + 30):
        assert processor(Unread(length), logits) is logits


def test_reasoning_that_ends_by_itself_is_left_alone(tokenizer: Tokenizer) -> None:
    end_think = tokenizer.control_id("</think>")
    logits = mx.zeros((1, WIDTH))
    for at in range(4):
        processor = ThinkingBudget(tokenizer, 4, in_reasoning=True)
        written = [2] * at + [end_think] + [2] * 9
        for length in range(len(written)):
            assert processor(mx.array([end_think] * PROMPT + written[:length]), logits) is logits


def test_an_answer_without_reasoning_has_no_budget(tokenizer: Tokenizer) -> None:
    processor: Any = ThinkingBudget(tokenizer, 0, in_reasoning=False)
    logits = mx.zeros((1, WIDTH))
    assert all(processor(Unread(PROMPT + length), logits) is logits for length in range(9))


@pytest.mark.parametrize("budget", [-1, 1.5, True, "8"])
def test_a_thinking_budget_counts_tokens(tokenizer: Tokenizer, budget: Any) -> None:
    with pytest.raises(OptionError, match="thinking_budget: expected a whole number of at least 0"):
        ThinkingBudget(tokenizer, budget, in_reasoning=True)


@pytest.mark.some(3)
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("budget", [0, 1, 6])
def test_a_budget_and_a_grammar(tokenizer: Tokenizer, grammars: Grammars, budget: int, swapped: bool) -> None:
    """The grammar begins where the budget closed the reasoning, in either order."""
    end_think = tokenizer.control_id("</think>")
    for constraint in (
        grammars.json_schema(PERSON, in_reasoning=True),
        grammars.tool_calls([WEATHER], in_reasoning=True),
    ):
        processors = [ThinkingBudget(tokenizer, budget, in_reasoning=True), constraint]
        # A model that never ends its reasoning.
        processors.insert(0, likes_think(end_think, after=-1))
        model = Model(tokenizer, budget, closing=CLOSING)
        model.taste[end_think] = -1e9
        tokens, _ = write(model, processors[::-1] if swapped else processors)
        closing = tokenizer.encode("\n</think>\n\n")
        assert tokens[budget : budget + len(closing)] == closing
        text = AnswerText(tokenizer, in_reasoning=True)
        answer = "".join(text.add(token).text for token in tokens)
        if answer.startswith("{"):
            assert valid(json.loads(answer), PERSON, PERSON)
        else:
            assert CALL.match(answer)


def test_a_parameter_has_no_copy_of_what_it_does_not_refer_to(tokenizer: Tokenizer, grammars: Grammars) -> None:
    large = {"type": "object", "properties": {f"x{number}": {"type": "integer"} for number in range(2000)}}
    kinds = {"Large": large, "a/b": {"type": "integer", "minimum": 3}, "Count": {"$ref": "#/$defs/a~1b"}}
    parameters = {"$defs": kinds, "properties": {f"p{number}": {"$ref": "#/$defs/Count"} for number in range(60)}}
    for value, allowed in (("3", True), ("2", False)):
        constraint = grammars.tool_calls([{"name": "f", "parameters": parameters}], in_reasoning=False)
        assert accepts(tokenizer, constraint, call("f", ("p59", value))) == allowed


@pytest.mark.parametrize("union", [False, True], ids=["references", "a union"])
def test_what_parameters_refer_to_is_written_out_within_bounds(grammars: Grammars, union: bool) -> None:
    """Each has a copy of it, and each shape of the whole has all parameters."""
    parts = {f"x{number}": {"type": "integer"} for number in range(500)}
    parameters: dict[str, Any] = {"properties": {"q": {"type": "object", "properties": parts}}}
    parameters["properties"] |= {f"p{number}": {"$ref": "#/properties/q"} for number in range(900)}
    if union:
        parameters = {"properties": parts, "anyOf": [{"required": [name]} for name in parts]}
    with pytest.raises(OptionError, match=r"^tools\[0\].parameters: too large to be enforced"):
        grammars.tool_calls([{"name": "f", "parameters": parameters}], in_reasoning=False)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "text"}, "Invalid type: text"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, "not"),
        ({"type": "string", "format": "regex"}, "Unknown format: regex"),
        ({"type": "string", "pattern": "(?=a)"}, "look-around"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf constraints are not supported. Send anyOf"),
        ({"$ref": "#/$defs/none"}, "/$defs/none"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "Unsatisfiable"),
        ({"const": {1, 2}}, "not JSON serializable"),
        (["no schema"], "expected an object"),
        ({"uniqueItems": True, "type": "array", "x-guidance": {"lenient": True}}, "uniqueItems"),
    ],
)
def test_schemas_that_cannot_be_enforced_are_refused(grammars: Grammars, schema: Any, message: str) -> None:
    """With the place, what is wrong, and nothing of the grammar that it became."""
    with pytest.raises(OptionError, match=re.escape(message)) as error:
        grammars.json_schema(schema, in_reasoning=True)
    assert str(error.value).startswith("response_format.json_schema.schema: ")
    assert "%json {" not in str(error.value)


@pytest.mark.parametrize(
    "schema", [{"type": "text"}, {"$ref": "#/$defs/none"}, {"const": {1, 2}}, ["no schema"], {"anyOf": 5}]
)
def test_parameters_that_mean_nothing_are_refused(grammars: Grammars, schema: Any) -> None:
    properties = {"fine": {"type": "integer"}, "odd": {"type": "array", "items": schema, "minItems": 1}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": properties}}}
    with pytest.raises(OptionError, match=r"^tools\[1\].function.parameters.properties.odd"):
        grammars.tool_calls([NOW, tool], in_reasoning=False)


NULL = {"type": "null"}


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, '["a"]', "[1]"),
        ({"type": "array", "items": {"type": "string", "pattern": "(?!b)a"}}, '["c"]', "[1]"),
        ({"type": "object", "properties": {"b": {"not": {"const": 3}}}, "required": ["b"]}, '{"b":3}', "{}"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "1.5", '"a"'),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "5", "true"),
        # Published with texts for numbers and booleans, and with what a list's items may be beside the list.
        ({"type": "integer", "enum": ["1", "2"]}, "5", '"1"'),
        ({"type": "boolean", "enum": ["true", "false"]}, "true", "1"),
        ({"type": "array", "items": {"type": "string"}, "enum": ["x", "y"]}, '["x"]', "[1]"),
        # Closed, though only its part names what has to be there.
        (
            {
                "type": "object",
                "allOf": [{"properties": {"b": NULL}}],
                "required": ["b"],
                "additionalProperties": False,
            },
            '{"b":null}',
            '{"b":1}',
        ),
        # As zod-to-json-schema points to what came before, and to all of it.
        ({"$ref": "#/properties/first/items"}, "7", '"a"'),
        ({"type": "array", "items": {"$ref": "#"}}, '[{"first":[7]}]', '[{"first":["a"]}]'),
    ],
)
def test_what_cannot_be_enforced_of_a_parameter_keeps_its_shape(
    tokenizer: Tokenizer, grammars: Grammars, schema: Any, right: str, wrong: str
) -> None:
    first = {"type": "array", "items": {"type": "integer"}}
    tool = {"name": "f", "parameters": {"properties": {"first": first, "odd": schema}}}
    for value, allowed in ((right, True), (wrong, False)):
        constraint = grammars.tool_calls([tool], in_reasoning=False)
        assert accepts(tokenizer, constraint, call("f", ("odd", value))) == allowed, value


COUNT, NAME = {"type": "integer"}, {"type": "string"}


@pytest.mark.parametrize(
    ("parameters", "given", "allowed"),
    [
        # A union of objects, as zod writes it.
        ({"anyOf": [shape("a", COUNT), shape("b", NAME)]}, [("kind", "a"), ("v", "1")], True),
        ({"anyOf": [shape("a", COUNT), shape("b", NAME)]}, [("kind", "a"), ("v", "x")], False),
        ({"oneOf": [shape("a", COUNT), shape("b", NAME)]}, [("kind", "b"), ("v", "x")], True),
        ({"properties": {"v": NAME}, "anyOf": [{"required": ["v"]}, {"type": "null"}]}, [], False),
        ({"$ref": "#/definitions/F", "definitions": {"F": shape("a", COUNT)}}, [("kind", "a"), ("v", "1")], True),
        ({"$ref": "#/definitions/F", "definitions": {"F": shape("a", COUNT)}}, [("kind", "a")], False),
        ({"allOf": [shape("a", COUNT), {"required": ["kind"]}]}, [("kind", "a"), ("v", "1")], True),
        # What says nothing about a single parameter is not looked at.
        ({"properties": {"v": NAME}, "not": {"required": ["v"]}, "minProperties": 2, "if": {}}, [("v", "x")], True),
        ({"anyOf": []}, [], True),
    ],
)
def test_parameters_may_have_several_shapes(
    tokenizer: Tokenizer, grammars: Grammars, parameters: Any, given: Any, allowed: bool
) -> None:
    constraint = grammars.tool_calls([{"name": "f", "parameters": parameters}], in_reasoning=False)
    assert accepts(tokenizer, constraint, call("f", *given)) == allowed


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "text"}, "Invalid type: text"),
        (["no schema"], "expected an object, found ['no schema']"),
        ({"const": {1, 2}}, "Object of type set is not JSON serializable"),
    ],
)
def test_a_schema_beside_tools_is_refused_with_its_place(grammars: Grammars, schema: Any, message: str) -> None:
    with pytest.raises(OptionError) as error:
        grammars.tool_calls([NOW], schema=schema, in_reasoning=False)
    assert str(error.value).startswith(f"response_format.json_schema.schema: {message}")


@pytest.mark.parametrize("where", ["$defs", "definitions"])
def test_definitions_under_either_name(tokenizer: Tokenizer, grammars: Grammars, where: str) -> None:
    """Of strings, which are text, and of other values, which are JSON."""
    kinds = {"Unit": {"enum": ["C", "F"]}, "Count": {"type": "integer", "minimum": 3}}
    options = [{"$ref": f"#/{where}/{name}"} for name in kinds]
    parameters = {where: kinds, "properties": {"x": {"anyOf": options}}, "required": ["x"]}
    for value, allowed in (("C", True), ("5", True), ("K", False), ("2", False), ('"C"', False)):
        constraint = grammars.tool_calls([{"name": "f", "parameters": parameters}], in_reasoning=False)
        assert accepts(tokenizer, constraint, call("f", ("x", value))) == allowed, value


@pytest.mark.parametrize(
    ("tools", "options", "message"),
    [
        ([], {}, "tools: expected at least one function"),
        ([5], {}, "tools[0]: expected an object, found 5"),
        ([NOW, {"function": None}], {}, "tools[1].function: expected an object, found None"),
        ([NOW, {"name": "a>b"}], {}, "tools[1].name: expected a name without"),
        ([NOW], {"name": "later"}, "tool_choice: expected one of 'now', found 'later'"),
        ([{"name": "a", "parameters": [1]}], {}, "tools[0].parameters: expected an object"),
        ([{"name": "a", "parameters": {"required": "b"}}], {}, "tools[0].parameters.required: expected a list"),
        ([{"name": "a", "parameters": {"required": [["b"]]}}], {}, "tools[0].parameters.properties: expected a name"),
        ([{"name": "a", "parameters": {"properties": {"b\n": {}}}}], {}, "tools[0].parameters.properties: expected"),
        (
            [{"name": "a", "parameters": {"required": [str(n) for n in range(65)]}}],
            {},
            "tools[0].parameters.required: expected at most 64 names, found 65",
        ),
        (
            [{"name": "a", "parameters": {"properties": {"b": {"$ref": "#/$defs/c"}}}}],
            {},
            "tools[0].parameters.properties.b.$ref #/$defs/c: expected an object, found None",
        ),
        (
            [
                {
                    "name": "a",
                    "parameters": {"properties": {"b": {"$ref": "#/$defs/c"}}, "$defs": {"c": {"$ref": "#/$defs/c"}}},
                }
            ],
            {},
            "tools[0].parameters.properties.b.$ref: #/$defs/c leads back to itself",
        ),
        (
            [{"name": "a", "parameters": {"properties": {"b": {"anyOf": 5}}}}],
            {},
            "tools[0].parameters.properties.b.anyOf: expected a list, found 5",
        ),
        (
            [{"name": "a", "parameters": {"properties": {"b": {"type": "text"}}}}],
            {},
            "tools[0].parameters.properties.b: Invalid type: text",
        ),
    ],
)
def test_tools_that_cannot_be_called_are_refused(
    grammars: Grammars, tools: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        grammars.tool_calls(tools, in_reasoning=False, **options)


def test_as_many_parameters_as_can_be_counted(tokenizer: Tokenizer, grammars: Grammars) -> None:
    names = [f"p{number}" for number in range(64)]
    for required in ([], [names[-1]], names):
        parameters = {"properties": {key: {"type": "null"} for key in names}, "required": required}
        for given in ([names[-1]], [names[0]], [names[-1], names[0]], [names[-1], names[-1]]):
            constraint = grammars.tool_calls([{"name": "a", "parameters": parameters}], in_reasoning=False)
            allowed = set(required) <= set(given) and len(set(given)) == len(given)
            assert accepts(tokenizer, constraint, call("a", *((name, "null") for name in given))) == allowed


def test_more_parameters_than_can_be_counted(tokenizer: Tokenizer, grammars: Grammars) -> None:
    names = [f"p{number}" for number in range(70)]
    parameters = {"properties": {key: {"type": "null"} for key in names}, "required": names[-1:]}
    for given, allowed in ((["p69", "p68", "p0"], True), (["p0", "p68"], False), (["p0", "p0", "p69"], False)):
        constraint = grammars.tool_calls([{"name": "a", "parameters": parameters}], in_reasoning=False)
        assert accepts(tokenizer, constraint, call("a", *((name, "null") for name in given))) == allowed


def test_control_tokens_marked_special(tmp_path: Path) -> None:
    """Other programs' conversions do so; it changes nothing."""
    tokenizer = changed_tokenizer(tmp_path, lambda added: [{**token, "special": True} for token in added])
    grammars = Grammars(tokenizer, WIDTH)
    assert accepts(tokenizer, grammars.tool_calls(TOOLS, in_reasoning=True), "a</think>\n\n" + call("now"))
    tokens, _ = write(Model(tokenizer, 0, closing=CLOSING), [grammars.tool_calls([WEATHER], in_reasoning=False)])
    assert CALL.match(tokenizer.decode(tokens))


def test_a_tokenizer_without_the_control_tokens(tmp_path: Path) -> None:
    tokenizer = changed_tokenizer(tmp_path, lambda added: [token for token in added if "|" in token["content"]])
    grammars = Grammars(tokenizer, WIDTH)
    assert accepts(tokenizer, grammars.json_object(in_reasoning=False), "{}")
    with pytest.raises(OptionError, match="the checkpoint's tokenizer has no <tool_call>"):
        grammars.tool_calls([NOW], in_reasoning=False)
    with pytest.raises(OptionError, match="the checkpoint's tokenizer has no </think>"):
        grammars.json_object(in_reasoning=True)
    with pytest.raises(OptionError, match="the checkpoint's tokenizer has no </think>"):
        ThinkingBudget(tokenizer, 1, in_reasoning=True)


def test_a_grammar_that_becomes_too_complex_says_so(grammars: Grammars) -> None:
    constraint = grammars.json_object(in_reasoning=False)
    constraint(mx.array([1]), mx.zeros((1, WIDTH)))
    with pytest.raises(OptionError, match="response_format: "):
        constraint(mx.array([1, 2]), mx.zeros((1, WIDTH)))  # a token that was forbidden


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"$ref": "#"}, "Unsatisfiable schema: a reference leads back to itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "a reference leads back to itself"),
    ],
)
def test_what_is_wrong_is_told_in_words(grammars: Grammars, schema: Any, message: str) -> None:
    """llguidance notices these only where the answer begins."""
    constraint = grammars.json_schema(schema, in_reasoning=False)
    with pytest.raises(OptionError, match=message) as error:
        constraint(mx.array([1]), mx.zeros((1, WIDTH)))
    assert "non-verbose" not in str(error.value)
    assert str(error.value) == str(error.value).strip()


def test_llguidance_is_only_needed_for_grammars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    spec = importlib.util.spec_from_file_location("fresh", grammars_module.__file__)
    assert spec is not None
    assert spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    tokenizer = Tokenizer(BOX)
    ThinkingBudget(tokenizer, 1, in_reasoning=True)
    with pytest.raises(OptionError, match=re.escape("pip install '.[server]'")):
        fresh.Grammars(tokenizer, WIDTH)


@pytest.fixture(scope="module")
def box_kit() -> Iterator[ModelKit]:
    kit = ModelKit.load(BOX)
    yield kit
    kit.close()


def generate(kit: ModelKit, prompt: Any, processors: list[LogitsProcessor], limit: int = 400) -> list[int]:
    """mlx-lm's own loop, on the kit's thread."""

    def run() -> list[int]:
        tokens = []
        steps = generate_step(
            mx.array(prompt.input_ids),
            kit.model,
            mx.default_stream(mx.default_device()),
            max_tokens=limit,
            logits_processors=processors,
            prompt_cache=kit.model.make_cache(),
        )
        for token, _ in steps:
            tokens.append(token)
            if token in kit.tokenizer.eos_token_ids:
                break
        steps.close()
        return tokens

    return kit._thread.call(run)


def test_a_model_answers_by_a_grammar(box_kit: ModelKit) -> None:
    """A real model in mlx-lm's loop: reasoning of bounded length, then a call of the function it has to call."""
    kit = box_kit
    grammars = Grammars(kit.tokenizer, kit.config.text.vocab_size)
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    prompt = kit.process_prompt(messages, tools=[WEATHER, NOW])
    assert prompt.in_reasoning
    processors = [
        ThinkingBudget(kit.tokenizer, 6, in_reasoning=prompt.in_reasoning),
        grammars.tool_calls([WEATHER, NOW], name="now", in_reasoning=prompt.in_reasoning),
    ]
    tokens = generate(kit, prompt, processors)
    text = AnswerText(kit.tokenizer, in_reasoning=True)
    pieces = [text.add(token) for token in tokens]
    assert pieces[-1].stopped
    assert "".join(piece.text for piece in pieces) == call("now")
    assert tokens.index(kit.tokenizer.control_id("</think>")) <= 7

    prompt = kit.process_prompt(messages, enable_thinking=False)
    schema = {**PERSON, "properties": {"age": PERSON["properties"]["age"]}, "required": ["age"]}
    tokens = generate(kit, prompt, [grammars.json_schema(schema, in_reasoning=prompt.in_reasoning)])
    assert valid(json.loads(kit.tokenizer.decode(tokens[:-1])), schema, schema)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("text", ["<|im_end|>", "<|endoftext|>", "<think>", "</think>", "<tool_call>", "<|image_pad|>"])
def test_prescribed_text_is_never_written_by_a_control_token(tmp_path: Path, text: str, listed: bool) -> None:
    """Where a schema names one, as a property or a value, its letters are written.

    Args:
        listed: Control tokens stand in the vocabulary as well.
    """
    tokenizer = changed_tokenizer(tmp_path, lambda added: added)
    if listed:
        settings = json.loads((tmp_path / "tokenizer.json").read_text())
        settings["model"]["vocab"] |= {token["content"]: token["id"] for token in settings["added_tokens"]}
        (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
        tokenizer = Tokenizer(tmp_path)
    grammars = Grammars(tokenizer, WIDTH)
    schema = {"type": "object", "properties": {text: {"enum": [text]}}, "required": [text]}
    matcher = grammars.json_schema(schema, in_reasoning=False)._known.matcher
    tokens: list[int] = []
    while not matcher.is_accepting():
        mask = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")[:WIDTH]
        allowed = np.flatnonzero(mask)
        assert not matcher.is_error(), matcher.get_error()
        assert not set(allowed) & {*range(FIRST_CONTROL, TOKENS)}
        tokens.append(int(allowed[-1]))
        assert matcher.consume_token(tokens[-1])
        assert len(tokens) < 100
    assert json.loads(tokenizer.decode(tokens)) == {text: text}
