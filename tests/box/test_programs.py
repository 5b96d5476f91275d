"""Functions as real programs describe them: a call gives what the request says, and nothing else."""

import json
import re
from random import Random
from typing import Any

import pytest

from mlx_qwen35.answers.tool_calls import ToolCallParser
from tools.box.about_programs import ALL, described, mentioned, no_program, program_call, several, turns
from tools.box.evaluate import expected_text
from tools.box.off_topic import HONEST
from tools.box.programs import Program

TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "integer": (int,), "number": (int, float)}
CALLS = [program_call(Random(f"program-{number}")) for number in range(120)]


def _schemas(tools: tuple[dict[str, Any], ...]) -> dict[str, dict[str, Any]]:
    return {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}


@pytest.mark.parametrize("program", ALL, ids=[program.group for program in ALL])
def test_a_call_gives_what_its_request_says_and_fits_its_schema(program: Program) -> None:
    asked = set()
    for number in range(25):
        rng = Random(f"{program.group}-{number}")
        one = described(program, rng)
        call_turn, answer_turn = turns(one, rng)
        (call,) = call_turn.tool_calls
        parameters = _schemas((one.tool,))[call["name"]]
        assert set(parameters.get("required", ())) <= call["arguments"].keys() <= parameters["properties"].keys()
        for name, value in call["arguments"].items():
            schema = parameters["properties"][name]
            assert type(value) in TYPES[schema["type"]]
            assert value in schema.get("enum", [value])
            assert str(value) in call_turn.question
        for text in (call_turn.question, answer_turn.answer):
            assert text
            assert not re.search(r"[{}|]|@\d", text), text
        asked.add(call_turn.question)
    assert len(asked) > 12


def test_what_some_requests_leave_out_is_not_required() -> None:
    """A parameter within a choice is said at times only."""
    weather = next(program for program in ALL if program.group == "weather")
    assert mentioned(weather, "is it cold in {city}[ in {unit}|]") == {"city"}
    left_out = 0
    for number in range(60):
        rng = Random(number)
        one = described(weather, rng)
        assert one.tool["function"]["parameters"]["required"] == [one.named["city"]]
        left_out += one.named["unit"] not in turns(one, rng)[0].tool_calls[0]["arguments"]
    assert 30 < left_out < 60


def test_functions_that_are_given_together_have_names_and_purposes_of_their_own() -> None:
    assert len({program.group for program in ALL}) == len(ALL)
    for number in range(40):
        there = several(5, Random(f"together-{number}"))
        assert len({one.tool["function"]["name"] for one in there}) == 5
        assert len({one.program.group for one in there}) == 5


def test_parameters_that_nobody_speaks_of_are_never_given() -> None:
    spare = given = 0
    for dialogue in CALLS:
        schemas = _schemas(dialogue.tools)
        spare += any(
            "user_id" in schema["properties"] or "limit" in schema["properties"] for schema in schemas.values()
        )
        calls = [call for turn in dialogue.turns for call in turn.tool_calls]
        given += sum("user_id" in call["arguments"] or "limit" in call["arguments"] for call in calls)
    assert spare > 5
    assert given == 0


def test_the_runtime_reads_the_calls_back() -> None:
    for dialogue in CALLS:
        parser = ToolCallParser(dialogue.tools)
        calls = [*parser.add(expected_text(dialogue.turns[0])).calls, *parser.close().calls]
        assert [{"name": call.name, "arguments": call.arguments} for call in calls] == [*dialogue.turns[0].tool_calls]
        assert json.loads(json.dumps(dialogue.tools)) == list(dialogue.tools)


def test_what_no_program_does_gets_one_honest_sentence() -> None:
    for number in range(40):
        dialogue = no_program(Random(f"none-{number}"))
        assert dialogue.tools
        assert [turn.answer for turn in dialogue.turns] == [HONEST]
        assert not dialogue.turns[0].tool_calls
