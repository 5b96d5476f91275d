"""Functions as real programs describe them: a call gives what the request says, and nothing else."""

import json
import re
from random import Random
from string import Formatter
from typing import Any

import pytest

from mlx_qwen35.answers.tool_calls import ToolCallParser
from tools.box.about_programs import (
    ALL,
    FAMILIES,
    SPARE,
    Described,
    Request,
    described,
    follow_up,
    mentioned,
    might_serve,
    no_call,
    no_program,
    program_call,
    request,
    required,
    several,
    turns,
)
from tools.box.evaluate import expected_text
from tools.box.off_topic import HONEST
from tools.box.program_values import command, identifier, path
from tools.box.programs import FREE, Program

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
}
CALLS = [program_call(Random(f"program-{number}")) for number in range(200)]
NAMED = [f"{program.group}-{program.names[0]}" for program in ALL]


def _schemas(tools: tuple[dict[str, Any], ...]) -> dict[str, dict[str, Any]]:
    return {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}


def _program(name: str) -> Program:
    return next(program for program in ALL if name in program.names)


def _said(value: Any) -> list[str]:
    """What a request holds of a value."""
    if isinstance(value, bool):
        return ["on" if value else "off"]
    return value if isinstance(value, list) else [str(value)]


@pytest.mark.parametrize("program", ALL, ids=NAMED)
def test_a_call_gives_what_its_request_says_and_fits_its_schema(program: Program) -> None:
    asked = set()
    for number in range(40):
        rng = Random(f"{program.group}-{number}")
        one = described(program, rng)
        call_turn, answer_turn = turns(request(one, rng), rng)
        (call,) = call_turn.tool_calls
        parameters = _schemas((one.tool,))[call["name"]]
        assert set(parameters.get("required", ())) <= call["arguments"].keys() <= parameters["properties"].keys()
        for name, value in call["arguments"].items():
            schema = parameters["properties"][name]
            assert type(value) in TYPES[schema["type"]]
            assert value in schema.get("enum", [value])
            assert all(part in call_turn.question for part in _said(value)), (call_turn.question, value)
        for text in (call_turn.question, answer_turn.answer):
            assert text
            assert not re.search(r"[{}|]|@\d", text), text
        asked.add(call_turn.question)
    assert len(asked) > 15


@pytest.mark.parametrize("program", ALL, ids=NAMED)
def test_an_answer_speaks_of_nothing_but_the_result_and_what_was_given(program: Program) -> None:
    """A part of a result is spoken of with what every request for it says."""
    result = program.result(Random(1))
    fields = set(result) if isinstance(result, dict) else {"result"}
    assert not fields & program.slots.keys()
    wanted = {program.answer: program.requests, **program.parts}
    for answer, forms in wanted.items():
        keys = {key for _, key, _, _ in Formatter().parse(answer) if key}
        assert keys <= fields | program.slots.keys(), answer
        if isinstance(result, dict):
            for form in forms:
                assert keys - fields <= mentioned(program, form), (answer, form)
    for form in (
        *program.requests,
        *program.again,
        *program.it,
        *(form for of in program.parts.values() for form in of),
    ):
        assert set(re.findall(r"{(\w+)}", form)) <= program.slots.keys(), form


def test_what_some_requests_leave_out_is_not_required() -> None:
    """A parameter within a choice is said at times only."""
    weather = _program("get_weather")
    assert mentioned(weather, "is it cold in {city}[ in {unit}|]") == {"city"}
    assert required(weather) == {"city"}
    left_out = 0
    for number in range(60):
        rng = Random(number)
        one = described(weather, rng)
        assert one.tool["function"]["parameters"]["required"] == [one.named["city"]]
        left_out += one.named["unit"] not in turns(request(one, rng), rng)[0].tool_calls[0]["arguments"]
    assert 25 < left_out < 60


def test_functions_that_are_given_together_have_names_and_purposes_of_their_own() -> None:
    groups = {program.group for program in ALL}
    assert len(groups) < len(ALL)
    assert groups.issuperset(group for family in FAMILIES for group in family)
    for number in range(60):
        there = several(5, Random(f"together-{number}"))
        assert len({one.tool["function"]["name"] for one in there}) == 5
        assert len({one.program.group for one in there}) == 5


def test_what_a_request_mentions_beside_is_given_and_nothing_else() -> None:
    """'limit 20', 'priority high': where the schema has them, and only when somebody says so."""
    mentions = spare = 0
    for dialogue in CALLS:
        schemas = _schemas(dialogue.tools)
        calls = [(turn.question, call) for turn in dialogue.turns for call in turn.tool_calls]
        spare += any("user_id" in schema["properties"] for schema in schemas.values())
        for question, call in calls:
            assert not call["arguments"].keys() & {"user_id", "reason", "silent", "locale", "encoding", "verbose"}
            beside = call["arguments"].keys() & {"limit", "timeout", "offset", "format"}
            mentions += sum(str(call["arguments"][name]) in question for name in beside)
    assert spare > 3
    assert mentions > 3
    task, given = _program("create_task"), 0
    for number in range(60):
        asked = request(described(task, Random(number)), Random(f"task-{number}"))
        priorities = [word for word in ("low", "medium", "high") if f" {word}" in asked.question.split(":")[0].lower()]
        given += "priority" in asked.values
        assert "priority" in asked.values or not priorities
    assert 5 < given < 55


def test_nothing_is_put_behind_free_words() -> None:
    """A polite word there would be part of the text; behind a number or a room it is none."""
    note, polite = _program("create_note"), 0
    for number in range(120):
        rng = Random(f"note-{number}")
        asked = request(described(note, rng), rng)
        assert asked.values.keys() == {"text"}
        assert asked.question.rstrip(".?! ").endswith(asked.values["text"].rstrip(".?! "))
        polite += "pls" in request(described(_program("set_timer"), rng), rng).question
    assert note.slots["text"].draw in FREE
    assert polite


def test_a_few_words_are_enough() -> None:
    wanted = {
        "set_timer": r"timer \d+ (mins|min|minutes)",
        "set_light": r"[a-z ]+ lights? (on|off) at \d+( percent|%)",
        "get_weather": r"weather [a-z]+ in (fahrenheit|celsius)",
        "get_list": r"what's on my list",
        "list_tasks": r"show my tasks",
        "book_table": r"(can you )?book a table for \d+ tonight",
    }
    for name, form in wanted.items():
        questions = (request(described(_program(name), Random(n)), Random(f"{n}")).question for n in range(3000))
        assert any(re.match(form, question.rstrip(".?!").lower()) for question in questions), name


def _alone(name: str) -> Described:
    return described(_program(name), Random(3))


def test_what_a_follow_up_leaves_out_is_as_it_was() -> None:
    light = _alone("set_light")
    before = Request(light, "", {"room": "office", "state": "on", "percent": 60}, "Done.")
    found = [follow_up([light], before, Random(number)) for number in range(80)]
    halls = [asked for asked in found if asked and asked.question.lower().startswith("same for the")]
    assert halls
    for asked in halls:
        assert asked.values == {**before.values, "room": asked.values["room"]}
        assert str(asked.values["room"]) in asked.question
        assert "60" not in asked.question


def test_a_follow_up_may_be_for_another_function() -> None:
    """'Delete it' is about the file that was read; what only the request before said is not carried on."""
    read, delete = _alone("read_file"), _alone("delete_file")
    before = Request(read, "", {"path": "notes/todo.txt", "limit": 20}, "Done.")
    found = [follow_up([read, delete], before, Random(number)) for number in range(80)]
    deleted = [asked for asked in found if asked and asked.one is delete]
    assert deleted
    assert all(asked.values["path"] == "notes/todo.txt" for asked in deleted)
    assert all("limit" not in asked.values for asked in found if asked)
    assert follow_up([_alone("set_alarm")], Request(_alone("lock_door"), "", {}, ""), Random(1)) is not None
    assert follow_up([_alone("set_alarm")], Request(_alone("file_info"), "", {}, ""), Random(1)) is not None


def test_a_part_that_was_asked_for_is_picked_from_the_result() -> None:
    orders = described(_program("get_order"), Random(2))
    picked = 0
    for number in range(60):
        rng = Random(number)
        asked = request(orders, rng)
        call_turn, answer_turn = turns(asked, rng)
        (text,) = call_turn.tool_results
        if text.startswith("{") and "error" not in text:
            found = json.loads(text)
            assert {"status", "total", "arrives", "carrier"} <= found.keys()
            if "{total}" in asked.answer:
                assert answer_turn.answer == f"Order {asked.values['order']} costs {found['total']}."
                picked += 1
    assert picked


def test_an_error_is_told() -> None:
    told = [(before.tool_results[0], turn.answer) for dialogue in CALLS
            for before, turn in zip(dialogue.turns, dialogue.turns[1:], strict=False)
            if turn.answer.startswith("That did not work: ")]  # fmt: skip
    assert told
    assert all(answer.removeprefix("That did not work: ").rstrip(".") in text for text, answer in told)


def test_names_of_files_and_code_are_as_people_write_them() -> None:
    paths, names, commands = ({draw(Random(number)) for number in range(3000)} for draw in (path, identifier, command))
    assert {"README.md", "src/app.py", "notes/todo.txt"} <= paths
    assert any(re.fullmatch(r"[A-Z]{3,}\.md", name) for name in paths)
    assert any(re.fullmatch(r"[a-z]+/[a-z]+\.py", name) for name in paths)
    assert "parse_args" in names
    assert "npm test" in commands


def test_the_runtime_reads_the_calls_back() -> None:
    for dialogue in CALLS:
        parser = ToolCallParser(dialogue.tools)
        calls = [*parser.add(expected_text(dialogue.turns[0])).calls, *parser.close().calls]
        assert [{"name": call.name, "arguments": call.arguments} for call in calls] == [*dialogue.turns[0].tool_calls]
        assert json.loads(json.dumps(dialogue.tools)) == list(dialogue.tools)


def test_what_no_program_does_gets_one_honest_sentence() -> None:
    """Before or after what one of them does, at times."""
    beside = after = 0
    for number in range(80):
        dialogue = no_program(Random(f"none-{number}"))
        assert dialogue.tools
        (refused,) = [turn for turn in dialogue.turns if turn.answer == HONEST]
        assert not refused.tool_calls
        beside += any(turn.tool_calls for turn in dialogue.turns)
        after += dialogue.turns[-1].answer == HONEST and len(dialogue.turns) > 1
    assert 10 < beside < 60
    assert after


def test_what_another_function_might_do_as_well_is_not_refused() -> None:
    assert might_serve("weather", {"light", "search"})
    assert not might_serve("weather", {"light"})
    for number in range(400):
        dialogue = no_program(Random(f"might-{number}"))
        (question,) = [turn.question.lower() for turn in dialogue.turns if turn.answer == HONEST]
        names = {tool["function"]["name"] for tool in dialogue.tools}
        if "weather" in question or " to do" in question:
            assert not names & {*_program("web_search").names, "fetch_url"}
        if question.startswith(("grep", "cat ", "rm ", "ls ")):
            assert not names & set(_program("run_command").names)
        if "wake me" in question:
            assert not names & {*_program("set_timer").names, *_program("set_alarm").names}


def test_a_picture_or_a_sum_may_be_asked_about_while_functions_are_there() -> None:
    dialogues = [no_call(Random(f"none-{number}")) for number in range(60)]
    assert all(dialogue.tools for dialogue in dialogues)
    assert not any(turn.tool_calls for dialogue in dialogues for turn in dialogue.turns)
    assert any(turn.media for dialogue in dialogues for turn in dialogue.turns)


def test_what_is_spare_is_never_required() -> None:
    for number in range(80):
        for one in several(3, Random(f"spare-{number}")):
            parameters = one.tool["function"]["parameters"]
            own = {name for slot in one.program.slots.items() if slot[0] not in SPARE for name in slot[1].names}
            assert set(parameters.get("required", ())) <= own
