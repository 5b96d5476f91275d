"""Questions in few words: what the one before them said is asked again, and the picture has the answer."""

from random import Random

import pytest

from tools.box import about_next, about_pictures, wordings
from tools.box.about_more import colours, counts, places, sides, word_by_word
from tools.box.about_text import _story
from tools.box.dialogues import Picture
from tools.box.placing import random_scene
from tools.box.scenes import Scene
from tools.box.wordings import ask, hasty

SCENES = [random_scene(Random(f"more-{number}"), about_pictures.want_shapes) for number in range(60)]


@pytest.fixture(autouse=True)
def _carefully_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests read the questions."""
    monkeypatch.setattr(wordings, "hasty", lambda text, rng: text)


def _all(ask_further: object) -> list[tuple[Scene, str, str, str]]:
    assert callable(ask_further)
    found = [(scene, *said) for number, scene in enumerate(SCENES) for said in ask_further(scene, Random(number))]
    assert len(found) > 20
    return found


def test_colours_are_those_of_the_things_that_are_named() -> None:
    for scene, _, _, answer in _all(colours):
        _, kind, _, colour = answer.rstrip(".").split()
        assert [thing.colour for thing in scene.things if thing.kind == kind] == [colour]


def test_places_differ_as_the_things_do() -> None:
    for scene in SCENES:
        asked = places(scene, Random(1))
        assert len({question.lower().rstrip("?.! ") for _, question, _ in asked}) == len(asked)
        assert all(answer.startswith(("At the ", "On the ", "In the ")) for _, _, answer in asked)


def test_counts_add_up_to_no_more_than_there_is() -> None:
    for number, scene in enumerate(SCENES):
        asked = [int(answer.rstrip(".").rpartition(" ")[2]) for _, _, answer in counts(scene, Random(number))]
        assert all(asked)
        assert sum(asked) <= len(scene.things)


def test_each_side_has_what_is_furthest_there() -> None:
    for scene, _, question, answer in _all(sides):
        side = next(side for side in ("left", "right", "top", "bottom") if side in question.lower().split(": ")[-1])
        thing = scene.extreme(side)
        assert thing is not None
        assert thing.digits in answer
        assert thing.digits or thing.name in answer


def test_single_words_are_asked_of_single_things() -> None:
    for scene, _, _, answer in _all(word_by_word):
        assert len(scene.things) == 1
        thing = scene.things[0]
        assert answer == "1." or thing.kind in answer or answer.startswith(("At the ", "On the ", "In the "))


def test_the_next_picture_answers_the_same_question() -> None:
    for number in range(60):
        dialogue = about_next.the_same_of_the_next(Random(f"next-{number}"))
        assert len(dialogue.turns) > 1
        assert len({turn.task for turn in dialogue.turns}) == 1
        for turn in dialogue.turns:
            (picture,) = turn.media
            assert isinstance(picture, Picture)
            thing = picture.scene.things[0]
            right = {
                "colour": f"The {thing.kind} is {thing.colour}.", "read": f"{thing.digits}.",
                "how_many": f"{len(picture.scene.things)}.",
            }  # fmt: skip
            assert turn.answer == right.get(turn.task, turn.answer)


def test_hasty_typing_changes_a_letter_or_a_word() -> None:
    text = "what color is the triangle in the picture"
    found = {hasty(text, Random(number)) for number in range(200)}
    assert len(found) > 25
    assert all(abs(len(one) - len(text)) <= 4 for one in found)
    # Nothing but small letters is touched: values stay.
    assert hasty("12 + 7", Random(3)) == "12 + 7"


def test_some_questions_are_typed_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordings, "hasty", hasty)
    asked = [ask("where is the triangle", Random(number)).lower() for number in range(400)]
    wrong = [question for question in asked if "where is the triangle" not in question]
    assert 8 < len(wrong) < 60


@pytest.mark.parametrize("sign", ["+", "-"])
def test_sums_in_words_say_both_numbers(sign: str) -> None:
    asked = {_story("12", "5", sign, Random(number)) for number in range(60)}
    assert all("12" in question and "5" in question for question in asked)
    assert len(asked) > 30
