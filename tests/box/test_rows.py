"""Rows, lists in order, and shapes with colours: the answers fit the picture, one way as often as the other."""

import re
from random import Random

import pytest

from tools.box import about_more, about_pictures, wordings
from tools.box.asking import counted
from tools.box.dialogues import Picture, Turn
from tools.box.placing import random_scene
from tools.box.scenes import Scene


@pytest.fixture(autouse=True)
def _carefully_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests read the questions."""
    monkeypatch.setattr(wordings, "hasty", lambda text, rng: text)


def _asked(task: str, count: int = 40) -> list[tuple[Scene, str, str]]:
    found = []
    for number in range(count):
        turn = about_pictures.single(task, Random(f"rows-{task}-{number}")).turns[0]
        found.append((_scene(turn), turn.question.lower(), turn.answer))
    return found


def _scene(turn: Turn) -> Scene:
    (picture,) = turn.media
    assert isinstance(picture, Picture)
    return picture.scene


def test_the_middle_one_is_between_the_other_two() -> None:
    for scene, _, answer in _asked("middle_of_row", 25):
        along = [sorted(scene.things, key=lambda thing: getattr(thing, axis))[1] for axis in "xy"]
        assert any(thing.kind in answer and (thing.colour in answer or thing.digits in answer) for thing in along)


def test_lists_run_from_the_side_that_was_said() -> None:
    for scene, question, answer in _asked("in_order"):
        start = re.search("(left|right|top|bottom) to", question)
        assert start is not None
        axis, back = {"left": ("x", 0), "right": ("x", 1), "top": ("y", 0), "bottom": ("y", 1)}[start[1]]
        row = sorted(scene.things, key=lambda thing: getattr(thing, axis), reverse=bool(back))
        words = re.findall(r"[a-z0-9]+", answer.lower())
        said = [word for word in words if any(word == thing.colour for thing in row)]
        if not any(thing.digits for thing in row):
            assert said == [thing.colour for thing in row]


def test_a_shape_and_a_colour_that_are_there_belong_together_as_often_as_not() -> None:
    answers = []
    for scene, question, answer in _asked("together", 80):
        kinds = {thing.kind for thing in scene.things}
        found = {(kind, colour) for kind in kinds for colour in {thing.colour for thing in scene.things}
                 if re.search(rf"\b{kind}", question) and re.search(rf"\b{colour}\b", question)}  # fmt: skip
        if len(found) == 1:
            assert (answer == "Yes.") == (found.pop() in {(thing.kind, thing.colour) for thing in scene.things})
            answers.append(answer)
    assert 0.3 < answers.count("Yes.") / len(answers) < 0.7


def test_outlines_are_asked_about_as_well_as_filled_things() -> None:
    asked = _asked("filled", 60)
    for scene, _, answer in asked:
        if len(scene.things) == 1 and answer in ("Filled.", "An outline."):
            assert (answer == "Filled.") == scene.things[0].filled
    answers = [answer for _, _, answer in asked]
    assert answers.count("An outline.") > 6
    assert answers.count("Filled.") > 6


def test_several_alike_are_counted_and_then_all() -> None:
    for number in range(40):
        turns = about_pictures.several_alike(Random(f"alike-{number}")).turns
        scene = _scene(turns[0])
        for turn in turns:
            question = turn.question.lower()
            colours = [colour for colour in {thing.colour for thing in scene.things} if colour in question]
            if any(
                word in question for word in ("altogether", "in all", "in total", "overall", "everything", "others")
            ):
                if "in the" not in question and not colours:
                    assert turn.answer == f"{len(scene.things)}.", turn
            elif len(colours) == 1 and " of th" not in question:
                assert turn.answer == counted([thing for thing in scene.things if thing.colour == colours[0]]), turn


def test_a_kind_is_counted_by_colour_too() -> None:
    for number in range(30):
        scene = _scene(about_pictures.several_alike(Random(f"kinds-{number}")).turns[0])
        said = about_more.totals(scene, Random(number))
        found = [int(answer[:-1].rpartition(" ")[2]) for _, _, answer in said]
        assert found[0] >= 2 if found else True
        assert all(count <= found[-1] for count in found)


def test_what_is_counted_is_named_first() -> None:
    """As many things as the number says; none is a number alone."""
    scene = random_scene(Random(2), lambda rng: [("star", "red", ""), ("heart", "red", ""), ("star", "blue", "")])
    things = sorted(scene.things, key=lambda thing: (thing.kind, thing.colour))
    assert counted(things) == "A red heart, a blue star and a red star: 3."
    assert counted(things[1:]) == "A blue star and a red star: 2."
    assert counted(things[:1]) == "A red heart: 1."
    assert counted([]) == "0."
