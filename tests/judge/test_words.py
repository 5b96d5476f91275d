"""How the judge reads an answer: numbers, colours and things in any wording."""

import pytest

from tools.judge.words import Mention, colours_in, mentions_in, numbers_in, shapes_in


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("There are 3.", [3]),
        ("Three things.", [3]),
        ("The second one.", []),
        ("The red one is bigger.", []),
        ("There is one.", [1]),
        ("Forty-two", [42]),
        ("one thousand seven hundred and four", [1704]),
        ("1,704.", [1704]),
        ("1704", [1704]),
        ("ten, eleven, twelve", [10, 11, 12]),
        ("There are no circles.", [0]),
        ("No, there are 3.", [3]),
        ("5-3 = 2", [5, 3, 2]),
        ("It is -3.", [-3]),
        ("two and three", [2, 3]),
        ("The circle is red.", []),
    ],
)
def test_numbers_are_read_as_digits_and_as_words(text: str, numbers: list[float]) -> None:
    assert numbers_in(text) == numbers


def test_synonyms_and_plurals_are_one_name_and_the_background_is_no_colour() -> None:
    assert colours_in("A gray ellipse on a light blue background. The background is white.") == ["grey"]
    assert colours_in("Violet and teal") == ["purple", "teal"]
    assert shapes_in("two ellipses, a rhombus, crosses and a plus sign") == ["oval", "diamond", "cross", "cross"]


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("A red circle and a blue square.", [(1, "red", "circle"), (1, "blue", "square")]),
        ("The circle is red and the square is blue.", [(1, "red", "circle"), (1, "blue", "square")]),
        ("Red circle, blue square", [(1, "red", "circle"), (1, "blue", "square")]),
        ("There are two red circles.", [(2, "red", "circle")]),
        ("I see 3 things: 2 green stars and one pink heart.", [(2, "green", "star"), (1, "pink", "heart")]),
        ("Two circles, one red and one blue.", [(1, "red", "circle"), (1, "blue", "circle")]),
        ("A circle and a red square", [(1, None, "circle"), (1, "red", "square")]),
        ("a red and a blue circle", [(1, "red", "circle"), (1, "blue", "circle")]),
        ("There are red circles.", [(None, "red", "circle")]),
        ("The picture shows a large outlined grey oval on a white background.", [(1, "grey", "oval")]),
        ("Two stars that are yellow.", [(2, "yellow", "star")]),
        ("It is a heart. It is pink.", [(1, None, "heart")]),
    ],
)
def test_things_are_read_with_their_number_and_colour(
    text: str, mentions: list[tuple[int | None, str | None, str]]
) -> None:
    assert mentions_in(text) == [Mention(*mention) for mention in mentions]
