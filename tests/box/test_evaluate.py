"""What counts as a right answer to a held-out question."""

import pytest

from tools.box.evaluate import concluded


@pytest.mark.parametrize(
    ("task", "one", "other", "right"),
    [
        ("how_many", "A red heart and a blue heart: 2.", "2.", True),
        ("how_many", "A red heart and a pink heart: 2.", "A red heart and a blue heart: 2.", True),
        ("how_many", "A red heart and a blue heart: 3.", "A red heart and a blue heart: 2.", False),
        ("which_picture", "Picture 1.", "Picture 2.", False),
        ("describe_all", "Picture 1: a star.", "Picture 2: a star.", False),
        ("colour", "The star is red.", "the star is red.", False),
    ],
)
def test_what_is_named_first_is_not_what_was_asked(task: str, one: str, other: str, right: bool) -> None:
    assert (concluded(task, one) == concluded(task, other)) == right
