"""Functions that are asked for by what they take: the value stands in the request as it is given."""

from random import Random

import pytest

from tools.box import about_functions
from tools.box.about_values import KINDS, Direct, file_name
from tools.box.outlines import SHAPES
from tools.box.palette import COLOURS


@pytest.mark.parametrize("kind", KINDS, ids=[kind.nouns[0] for kind in KINDS])
def test_every_value_stands_in_the_request(kind: Direct) -> None:
    requests = set()
    for number in range(30):
        rng = Random(f"{kind.nouns[0]}-{number}")
        request, values = kind.request(rng.choice(kind.verbs), rng)
        assert values.keys() == kind.parameters.keys()
        assert all(value in request for value in values.values()), (request, values)
        assert not set("{}[]|") & set(request)
        requests.add(request)
    assert len(requests) > 20


def test_no_verb_belongs_to_two_kinds() -> None:
    """A request that leaves out what its value is would fit two functions."""
    verbs = [verb for kind in KINDS for verb in kind.verbs]
    assert len(verbs) == len(set(verbs))


def test_as_it_is_typed_the_value_keeps_its_letters() -> None:
    for number in range(100):
        function = about_functions.direct(Random(f"direct-{number}"))
        turn = function.turns(Random(number))[0]
        (call,) = turn.tool_calls
        assert call["name"] == function.name
        properties = function.described["function"]["parameters"]["properties"]
        assert properties.keys() == call["arguments"].keys()
        for name, value in call["arguments"].items():
            assert value in turn.question
            assert value in properties[name].get("enum", [value])


def test_what_can_be_listed_is_listed_at_times() -> None:
    enums = {
        tuple(schema["enum"])
        for number in range(200)
        for schema in about_functions.direct(Random(number)).described["function"]["parameters"]["properties"].values()
        if "enum" in schema
    }
    assert enums == {tuple(sorted(SHAPES)), tuple(sorted(COLOURS))}


def test_files_have_many_endings() -> None:
    names = [file_name(Random(number)) for number in range(300)]
    assert all(name.count(".") == 1 and not name.startswith(".") and " " not in name for name in names)
    assert len({name.partition(".")[2] for name in names}) > 12
