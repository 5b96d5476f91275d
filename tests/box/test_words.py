"""Questions about words and numbers that stand in the question: answers agree with Python's own."""

import re
from itertools import pairwise
from random import Random

import pytest

from tools.box.about_words import ABOUT_WORDS

ASKED = {name: [asker(Random(f"{name}-{number}")) for number in range(80)] for name, asker in ABOUT_WORDS.items()}


@pytest.mark.parametrize("name", ["backwards", "letter_at", "letter_count", "several_times", "capitals", "word_at"])
def test_a_word_that_an_answer_is_made_of_stands_in_the_question(name: str) -> None:
    for question, answer, _ in ASKED[name]:
        found = answer.removesuffix(".")
        if name == "backwards":
            found = found.replace("-", "")[::-1]
        if found in ("Yes", "No") or found.isdigit():
            continue
        assert found.split()[0].lower() in question.lower(), (question, answer)


def test_the_larger_of_two_numbers() -> None:
    for question, answer, _ in ASKED["larger_number"]:
        one, other = map(int, re.findall(r"\d+", question))
        big = re.search("larger|bigger|greater|more", question.lower()) is not None
        if answer in ("Yes.", "No."):
            assert (answer == "Yes.") == ((one > other) == big), question
        else:
            assert answer == f"{max(one, other) if big else min(one, other)}."


def test_a_number_is_odd_or_even_by_its_remainder() -> None:
    for question, answer, _ in ASKED["even_or_odd"]:
        odd = int(re.findall(r"\d+", question)[0]) % 2 == 1
        right = {"Odd."} if odd else {"Even."}
        if answer in ("Yes.", "No."):
            right = {"Yes." if odd == ("odd" in question.lower()) else "No."}
        assert {answer} == right, question


def test_rows_go_on_in_even_steps() -> None:
    for question, answer, _ in ASKED["next_in_row"]:
        row = [*map(int, re.findall(r"\d+", question)), int(answer[:-1])]
        assert len({after - before for before, after in pairwise(row)}) == 1


def test_stories_are_sums() -> None:
    for question, answer, _ in ASKED["story"]:
        one, other = map(int, re.findall(r"\d+", question))
        assert int(answer[:-1]) == (one + other if " more" in question.lower() else one - other) > 0
