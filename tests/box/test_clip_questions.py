"""Further questions about clips: the answers fit the frames."""

from random import Random

import pytest

from tools.box import wordings
from tools.box.about_clips import EVENTS
from tools.box.clip_questions import further


@pytest.fixture(autouse=True)
def _carefully_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests read the questions."""
    monkeypatch.setattr(wordings, "hasty", lambda text, rng: text)


def _asked(name: str) -> list[tuple[str, str, int, str]]:
    """Questions and answers, with how many things the last frame has, and what happens."""
    found = []
    for number in range(40):
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
            if answer in ("Yes.", "No."):
                verbs = (" appear", "disappear", "vanish", "move", "moving", "colo", "happen", "anything change")
                verb = next(verb for verb in verbs if verb in question).strip()
                happened = verb in ("happen", "anything change", yes) or (verb == "vanish" and yes == "disappear")
                assert (answer == "Yes.") == happened, (question, answer)
            elif "how many" in question and ("end" in question or "last" in question):
                assert answer == f"{things}."


def test_either_way_is_the_way_that_it_moves() -> None:
    for question, answer, _, what in _asked("moves"):
        if " or " in question and "or not" not in question:
            assert answer.lower() == f"{what}."
