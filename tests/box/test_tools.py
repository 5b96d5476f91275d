"""Functions that many people have: what a call gives is said in the request and fits the schema."""

from random import Random

from tools.box.about_tools import call, no_call
from tools.box.purposes import PURPOSES

CALLS = [call(Random(f"call-{number}")) for number in range(200)]


def test_values_are_said_in_the_request() -> None:
    for dialogue in CALLS:
        turn = dialogue.turns[0]
        for value in turn.tool_calls[0]["arguments"].values():
            said = (
                ("on" if value else "off",)
                if isinstance(value, bool)
                else value
                if isinstance(value, list)
                else (value,)
            )
            assert all(str(part) in turn.question for part in said), (turn.question, value)


def test_a_choice_is_one_of_those_that_the_schema_lists() -> None:
    listed = 0
    for dialogue in CALLS:
        made = dialogue.turns[0].tool_calls[0]
        schemas = {tool["function"]["name"]: tool["function"]["parameters"]["properties"] for tool in dialogue.tools}
        for name, value in made["arguments"].items():
            choices = schemas[made["name"]][name].get("enum", [value])
            assert value in choices
            listed += len(choices) > 1
    assert listed


def test_no_two_functions_that_one_request_fits_are_given_together() -> None:
    groups = {purpose["description"]: purpose.get("group", purpose["description"]) for purpose in PURPOSES}
    for dialogue in CALLS:
        given = [groups[tool["function"]["description"]] for tool in dialogue.tools]
        assert len(given) == len(set(given))


def test_a_picture_may_be_asked_about_while_functions_are_there() -> None:
    dialogues = [no_call(Random(f"none-{number}")) for number in range(60)]
    assert not any(turn.tool_calls for dialogue in dialogues for turn in dialogue.turns)
    assert any(turn.media for dialogue in dialogues for turn in dialogue.turns)
