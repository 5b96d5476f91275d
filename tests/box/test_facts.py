"""Facts that are told and asked for later: every answer stands in the conversation."""

from random import Random

import pytest

from tools.box.about_facts import HEARD, UNTOLD
from tools.box.about_text import facts
from tools.box.facts import FACTS, Fact

DIALOGUES = [facts(Random(f"facts-{number}")) for number in range(150)]


def test_every_answer_was_told_before_in_the_same_letters() -> None:
    for dialogue in DIALOGUES:
        for at, turn in enumerate(dialogue.turns):
            if turn.task == "facts" and turn.answer != UNTOLD:
                words = turn.answer[:-1].removeprefix("In ")
                told = " ".join(before.question for before in dialogue.turns[: at + 1])
                assert words in told or words[0].lower() + words[1:] in told, dialogue


def test_most_conversations_say_something_else_in_between() -> None:
    other = [any(turn.task != "facts" and turn.answer != HEARD for turn in dialogue.turns) for dialogue in DIALOGUES]
    assert 0.4 < sum(other) / len(other) < 0.9


def test_what_was_put_right_is_what_counts() -> None:
    """Of two homes, the later one is asked for."""
    checked = 0
    for number in range(3000):
        dialogue = facts(Random(f"home-{number}"))
        homes = [
            turn.question for turn in dialogue.turns if turn.answer == HEARD and "i live in" in turn.question.lower()
        ]
        asked = [turn for turn in dialogue.turns if "do i live" in turn.question.lower()]
        if len(homes) == 2 and asked:
            assert asked[0].answer.removeprefix("In ")[:-1] in homes[1]
            checked += 1
    assert checked


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.told[0])
def test_a_fact_is_told_with_its_value_and_asked_for_without(fact: Fact) -> None:
    assert all("{1}" in told or "{a}" in told for told in fact.told)
    assert not any("{1}" in asked or "{a}" in asked for asked in fact.asked)
    assert all(("{0}" in told) == bool(fact.about(Random(3))) for told in (*fact.told, *fact.asked))
