"""Functions of all shapes: what is called fits their descriptions, and the runtime reads it back."""

import json
from random import Random

import pytest

from mlx_qwen35.answers.tool_calls import ToolCallParser
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.prompts.messages import render_messages
from mlx_qwen35.prompts.tokenizer import Tokenizer
from tools.box import about_functions
from tools.box.dialogues import Dialogue
from tools.box.evaluate import CALL, expected_text
from tools.box.off_topic import HONEST

CALLS = [about_functions.any_call(Random(f"calls-{number}")) for number in range(60)]
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list,),
    "object": (dict,),
}  # fmt: skip


def test_arguments_fit_their_schemas() -> None:
    for dialogue in CALLS:
        schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in dialogue.tools}
        assert len(schemas) == len(dialogue.tools)
        for call in (call for turn in dialogue.turns for call in turn.tool_calls):
            properties = schemas[call["name"]].get("properties", {})
            assert set(schemas[call["name"]].get("required", ())) <= call["arguments"].keys()
            for name, value in call["arguments"].items():
                assert type(value) in TYPES[properties[name]["type"]]
                assert value in properties[name].get("enum", [value])


def test_every_value_is_said_in_the_request() -> None:
    for dialogue in CALLS:
        for turn in dialogue.turns:
            for call in turn.tool_calls:
                for value in call["arguments"].values():
                    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
                    said = turn.question
                    assert all(str(part) in said for part in parts if not isinstance(part, bool)), (said, value)


def test_functions_are_of_many_shapes() -> None:
    functions = [tool["function"] for dialogue in CALLS for tool in dialogue.tools]
    properties = [function.get("parameters", {}).get("properties", {}) for function in functions]
    assert {len(found) for found in properties} == {0, 1, 2, 3, 4, 5}
    types = {schema["type"] for found in properties for schema in found.values()}
    assert types == {"string", "integer", "number", "boolean", "array", "object"}
    assert any("enum" in schema for found in properties for schema in found.values())
    assert len({function["name"] for function in functions}) > 0.75 * len(functions)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(BOX)


def test_the_template_writes_calls_that_the_runtime_reads_back(tokenizer: Tokenizer) -> None:
    """What the model learns to write is what the answer's reader takes for the same call, types included."""
    for dialogue in CALLS[:30]:
        first = Dialogue(dialogue.turns[:1], tools=dialogue.tools)
        messages = first.messages(1, with_answer=True, thinking=False)
        rendered = render_messages(tokenizer, messages, tools=list(dialogue.tools), add_generation_prompt=False)
        text = tokenizer.decode(rendered.input_ids).rpartition("</think>\n\n")[2].partition("<|im_end|>")[0]
        assert text == expected_text(dialogue.turns[0])
        assert CALL.fullmatch(text)
        parser = ToolCallParser(dialogue.tools)
        calls = [*parser.add(text).calls, *parser.close().calls]
        assert [{"name": call.name, "arguments": call.arguments} for call in calls] == [*dialogue.turns[0].tool_calls]


def test_what_no_function_serves_gets_no_call() -> None:
    answers = set()
    for number in range(40):
        dialogue = about_functions.no_function(Random(f"none-{number}"))
        assert dialogue.tools
        assert not any(turn.tool_calls for turn in dialogue.turns)
        answers |= {turn.answer == HONEST for turn in dialogue.turns}
    assert answers == {False, True}


def test_no_request_may_mean_two_functions() -> None:
    """Even when they are about one noun."""
    alike = 0
    for number in range(40):
        functions = about_functions.several_functions(4, Random(f"apart-{number}"))
        assert len({function.name for function in functions}) == 4
        for at, function in enumerate(functions):
            assert not any(function.meanings & other.meanings for other in functions[:at])
        nouns = [{meaning.split()[-1] for meaning in function.meanings} for function in functions]
        alike += bool(set.intersection(*nouns))
    assert alike > 2


def test_a_function_is_described_as_json_can() -> None:
    for dialogue in CALLS:
        assert json.loads(json.dumps(dialogue.tools)) == list(dialogue.tools)
