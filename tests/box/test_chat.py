"""Conversations that go on: answers agree with Python's own, and small talk is answered as small talk."""

import re
from random import Random

import pytest

from tools.box import wordings
from tools.box.about_chat import exact_text, in_words, same_word, sums_in_a_row
from tools.box.about_facts import HEARD, statement
from tools.box.about_text import copy, parting, talk_behind
from tools.box.facts import FACTS
from tools.box.talk import TALK

NUMBERS = {in_words(number): number for number in range(100)} | {str(number): number for number in range(200)}


@pytest.fixture(autouse=True)
def _carefully_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests read the questions."""
    monkeypatch.setattr(wordings, "hasty", lambda text, rng: text)


def test_numbers_in_words() -> None:
    assert [in_words(number) for number in (0, 12, 20, 42, 90)] == ["zero", "twelve", "twenty", "forty-two", "ninety"]


def test_sums_go_on_with_new_numbers_or_with_the_last_result() -> None:
    chained = 0
    for number in range(200):
        result = None
        for turn in sums_in_a_row(Random(f"sums-{number}")).turns:
            question = turn.question.lower()
            question = question.replace("another", "").replace("one more", "one  more")
            said = [NUMBERS[word] for word in re.findall(r"[a-z]+(?:-[a-z]+)?|\d+", question) if word in NUMBERS]
            if len(said) == 1 and result is not None:
                said.insert(0, result)
                chained += 1
            one, other = said
            plus = re.search(r"plus|add|sum|\band\b.* and |more|together|another", question) is not None
            minus = re.search(r"minus|take|less|subtract|left|without", question) is not None
            result = int(turn.answer[:-1])
            assert result == (abs(one - other) if minus else one + other), (turn, plus)
    assert chained > 20


def test_a_word_is_asked_about_again_without_being_said() -> None:
    shorter = 0
    for number in range(150):
        chosen = ""
        for turn in same_word(Random(f"word-{number}")).turns:
            spelt = turn.reasoning[:-1].replace("-", "")
            if not re.search(rf"\b{spelt}\b", turn.question.lower()):
                assert spelt == chosen
                shorter += 1
            chosen = spelt
            right = {"spell": "-".join(spelt), "letters": str(len(spelt)), "backwards": "-".join(spelt[::-1])}
            assert turn.answer == f"{right.get(turn.task, turn.answer[:-1])}."
            assert turn.task != "letter_at" or turn.answer[:-1] in (spelt[0], spelt[-1])
    assert shorter > 50


def test_small_talk_behind_anything_has_its_own_answer() -> None:
    own = {answer for _, _, answer, _ in TALK}
    for number in range(80):
        dialogue = talk_behind(Random(f"behind-{number}"))
        assert len(dialogue.turns) > 1
        assert dialogue.turns[-1].answer in own
        assert "no picture" not in dialogue.turns[-1].answer
    answers = [parting(Random(number)).turns[0].answer for number in range(200)]
    assert {"You are welcome!", "Goodbye!", "I am fine, thank you. What shall we look at?"} < set(answers)


def test_what_is_said_first_is_never_left_out() -> None:
    """A turn that leaves out what it is about has the turn before it that says so."""
    for number in range(200):
        first = talk_behind(Random(f"first-{number}")).turns[0]
        assert not re.match(r"(and|now) (backwards|the|my|plus|minus)", first.question.lower()), first


def test_texts_that_are_copied_stay_as_they_are() -> None:
    texts = [exact_text(Random(number)) for number in range(100)]
    assert (
        sum(any(letter.isupper() for letter in text) and any(letter.islower() for letter in text) for text in texts)
        > 40
    )
    turns = [copy(Random(f"copy-{number}")).turns[0] for number in range(100)]
    exactly = [turn for turn in turns if turn.reasoning.startswith("Every")]
    assert len(exactly) > 8
    assert all(turn.answer in turn.question for turn in exactly)


def test_a_fact_may_be_told_with_a_request_to_remember_it_behind() -> None:
    fact = FACTS[1]
    said = [statement((fact, "cat", "Biscuit"), Random(number)) for number in range(200)]
    assert all("cat" in text and "Biscuit" in text for text in said)
    behind = [text for text in said if re.search("Biscuit.*(remember|forget)|cat.*(remember|forget)", text)]
    assert len(behind) > 8
    assert HEARD == "I will remember that."
