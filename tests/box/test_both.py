"""Questions across pictures: what is said to be in both is in both."""

import re
from random import Random

import pytest

from tools.box import about_next, about_several
from tools.box.about_several import SEVERAL, several
from tools.box.asking import told
from tools.box.dialogues import Picture
from tools.box.outlines import SHAPES
from tools.box.palette import COLOURS


def _scenes(task: str, number: int) -> tuple[list[set[str]], str, str]:
    turns = several(task, Random(f"{task}-{number}")).turns
    shown = [media.scene for turn in turns for media in turn.media if isinstance(media, Picture)]
    words = [{word for thing in scene.things for word in (thing.kind, thing.colour, thing.digits)} for scene in shown]
    return words, turns[-1].question.lower(), turns[-1].answer


def test_what_pictures_share_is_in_every_one() -> None:
    for number in range(10):
        words, _, answer = _scenes("what_in_both", number)
        assert all(answer[:-1].lower().split()[-1] in found for found in words)


def test_the_picture_with_the_larger_number() -> None:
    for number in range(20):
        words, question, answer = _scenes("larger_number_of", number)
        numbers = [int("".join(word for word in found if word.isdigit())) for found in words]
        right = max(numbers) if any(word in question for word in ("larg", "big", "high")) else min(numbers)
        assert answer in (f"{right}.", f"Picture {numbers.index(right) + 1}.")


def test_the_picture_that_is_named_has_what_was_asked_for() -> None:
    checked = 0
    for number in range(40):
        words, question, answer = _scenes("which_picture", number)
        asked = {word for word in re.findall(r"[a-z]+", question) if word in SHAPES or word in COLOURS}
        assert asked <= words[int(answer.removeprefix("Picture ")[:-1]) - 1]
        checked += bool(asked)
    assert checked > 20


@pytest.mark.parametrize("key", ["shape", "color"])
def test_whether_they_are_alike(key: str) -> None:
    """Yes about as often as no."""
    said = []
    for number in range(120):
        words, question, answer = _scenes("alike_in", number)
        if key == ("color" if "colo" in question else "shape"):
            names = [found & {*(SHAPES if key == "shape" else COLOURS)} for found in words]
            right = "Yes." if all(name == names[0] for name in names) else "No."
            assert answer == right, question
            said.append(right)
    assert 0.3 < said.count("Yes.") / len(said) < 0.7


def test_who_shows_one_picture_after_another_asks_about_the_newest() -> None:
    descriptions = 0
    for number in range(30):
        turns = about_next.one_after_another(Random(f"after-{number}")).turns
        newest = None
        for turn in turns:
            newest = turn.media[-1] if turn.media else newest
            assert isinstance(newest, Picture)
            if turn.task == "describe":
                descriptions += 1
                assert turn.answer == told(newest.scene)
        assert sum(bool(turn.media) for turn in turns) in (2, 3)
    assert descriptions > 30


@pytest.mark.parametrize("task", sorted(SEVERAL))
def test_every_task_across_pictures_can_be_asked(task: str) -> None:
    turn = about_several.several(task, Random(task)).turns[-1]
    assert turn.question.strip()
    assert turn.answer.endswith(".")
