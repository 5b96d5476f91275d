"""Further questions about clips: the answers fit the frames."""

from random import Random

import pytest

from tools.box import wordings
from tools.box.about_clips import EVENTS, one_stays, whether
from tools.box.clip_questions import further
from tools.box.dialogues import Clip


@pytest.fixture(autouse=True)
def _carefully_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests read the questions."""
    monkeypatch.setattr(wordings, "hasty", lambda text, rng: text)


_ALL_ALONG = (
    "whole time", "all the time", "all along", "throughout", "start to end", "beginning to end", "always", "in every",
)  # fmt: skip


def _asked(name: str) -> list[tuple[str, str, int, str]]:
    """Questions and answers, with how many things the last frame has, and what happens."""
    found = []
    for number in range(120):
        rng = Random(f"{name}-{number}")
        event = EVENTS[name](rng)
        asked = further(name, event[1], event[2], event[0], rng) if event else None
        if event and asked:
            found.append((asked[0].lower(), asked[1], len(event[0].scenes[-1].things), event[1]))
    return found


def test_it_counts_up_when_the_numbers_grow() -> None:
    for question, answer, _, what in _asked("counts"):
        numbers = [int(number) for number in what.split(", ")]
        if answer in ("Up.", "Down."):
            assert (answer == "Up.") == (numbers[-1] > numbers[0])
        elif "last" in question or "at the end" in question:
            assert answer == f"{numbers[-1]}."


def test_what_appears_and_disappears_is_said_so() -> None:
    for name, yes in (("appears", "appear"), ("disappears", "disappear")):
        asked = _asked(name)
        assert asked
        for question, answer, things, _ in asked:
            if answer in ("Yes.", "No.") and not any(word in question for word in _ALL_ALONG):
                verbs = {
                    " appear": "appear", " show up": "appear", "come in": "appear", "disappear": "disappear",
                    "vanish": "disappear", "go away": "disappear", "gone": "disappear", "move": "", "moving": "",
                    "colo": "", "happen": yes, "anything change": yes, "new appear": "appear",
                }  # fmt: skip
                happened = next(verb for word, verb in verbs.items() if word in question) == yes
                assert (answer == "Yes.") == happened, (question, answer)
            elif "how many" in question and ("end" in question or "last" in question):
                assert answer == f"{things}."


def test_either_way_is_the_way_that_it_moves() -> None:
    for question, answer, _, what in _asked("moves"):
        if " or " in question and "or not" not in question:
            assert answer.lower() == f"{what}."


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_what_is_there_the_whole_time_is_in_every_frame(name: str) -> None:
    answers = set()
    for number in range(0 if name == "counts" else 150):
        rng = Random(f"always-{name}-{number}")
        event = EVENTS[name](rng)
        asked = further(name, event[1], event[2], event[0], rng) if event else None
        if event and asked and any(word in asked[0].lower() for word in _ALL_ALONG):
            kinds = {thing.kind for scene in event[0].scenes for thing in scene.things}
            always = {
                kind for kind in kinds if all(kind in {one.kind for one in scene.things} for scene in event[0].scenes)
            }
            if len(always) in (0, len(kinds)):
                assert asked[1] == ("Yes." if always else "No."), asked
            answers.add(asked[1])
    assert answers == {"appears": {"Yes.", "No."}, "disappears": {"Yes.", "No."}, "counts": set()}.get(name, {"Yes."})


def test_up_is_as_often_right_as_wrong() -> None:
    answers = []
    for question, answer, _, what in _asked("moves"):
        if answer in ("Yes.", "No.") and (" up" in question or " down" in question) and "show up" not in question:
            way = "up" if " up" in question else "down"
            assert (answer == "Yes.") == (way == what), question
            answers.append(answer)
    assert {"Yes.", "No."} == set(answers)


def test_numbers_that_count_are_said_to() -> None:
    told = [(answer, what) for _, answer, _, what in _asked("counts") if answer.startswith("The numbers")]
    for answer, what in told:
        first, last = int(what.split(", ")[0]), int(what.split(", ")[-1])
        assert answer == f"The numbers count {'up' if last > first else 'down'}."
    assert len({answer for answer, _ in told}) == 2


def test_of_two_things_one_moves_and_the_other_stays() -> None:
    for number in range(25):
        turns = one_stays(Random(f"stays-{number}")).turns
        (clip,) = turns[0].media
        assert isinstance(clip, Clip)
        first, last = ({thing.name: (thing.x, thing.y) for thing in clip.scenes[at].things} for at in (0, -1))
        for turn in turns:
            name = next((name for name in first if turn.answer[:-1].endswith(f" {name}")), None)
            if name is not None:
                rests = any(
                    word in turn.question.lower() for word in ("sta", "not mov", "n't move", "rest", "remain", "not")
                )
                assert (first[name] == last[name]) == rests, turn.question


def test_what_came_or_went_is_named_behind_a_yes() -> None:
    seen = set()
    for number in range(40):
        turns = whether(Random(f"whether-{number}")).turns
        (clip,) = turns[0].media
        assert isinstance(clip, Clip)
        first, last = ({thing.name for thing in clip.scenes[at].things} for at in (0, -1))
        if turns[0].answer == "Yes.":
            (changed,) = first ^ last
            assert turns[1].answer.endswith(f" {changed}."), turns
        seen.add(turns[0].answer in ("Yes.", "No.") and turns[0].answer)
    assert seen == {"Yes.", "No.", False}
