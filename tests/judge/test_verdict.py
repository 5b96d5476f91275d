"""The judge on answers that a person would call right or wrong."""

import pytest

from tools.judge.expectation import Call, Expectation, is_colour, is_thing, says_yes
from tools.judge.verdict import judge

TWO = (("red", "circle"), ("blue", "square"))
LEFT = Expectation(target=TWO[0], others=(TWO[1],), none_of=("right",))
OFF_TOPIC = Expectation(none_of=("paris",), abilities=2, sentences=2)
CALL = Expectation(call=Call("set_timer", {"minutes": 5, "label": "Tea"}))

CASES = {
    "a colour": (
        is_colour("grey", "oval"),
        ["Grey.", "It is gray.", "The ellipse is grey.", "gray", "The oval is grey on a white background."],
        ["", "Blue.", "It is grey and blue.", "The circle is grey.", "I can see it.", "The oval is light."],
    ),
    "one thing": (
        is_thing("red", "circle"),
        ["A circle.", "It's a red circle!", "This is a circle in red on a black background.", "a disc"],
        ["Red.", "A blue circle.", "A red square.", "A circle or a square.", "Two circles.", "Something round."],
    ),
    "which one": (
        LEFT,
        ["The red circle.", "Red circle", "the circle", "The red one.", "The circle is to the left of the square."],
        ["The blue square.", "The square.", "A blue circle.", "Red circle and blue square.", "On the right: red circle",
         "The red star.", "The circle is left of the star.", "Hello.",
         "The red circle is in row 1, column 2."],
    ),
    "a description": (
        Expectation(pairs=(*TWO, ("red", "circle"))),
        ["Two red circles and a blue square.", "A red circle, a blue square and another red circle.",
         "The square is blue. There are 2 red circles.", "A blue square with red circles on a white background"],
        ["A red circle and a blue square.", "Two red circles.", "Two circles and a square.", "",
         "Three red circles and a blue square.", "Two red circles, a blue square and a green star.",
         "Two blue circles and a red square."],
    ),
    "yes": (
        says_yes(True, colours=("red", "blue"), shapes=("circle", "square")),
        ["Yes.", "yes", "Yes, there is a red circle.", "Yeah!", "Yes, there is 1 red circle."],
        ["No.", "There is.", "Yes and no.", "Yes, a green star.", "Maybe yes", "No, yes."],
    ),
    "no": (says_yes(False), ["No.", "No, there is none.", "Nope"], ["Yes.", "It is not.", "No, yes."]),
    "a count": (
        Expectation(number=3),
        ["3", "Three.", "There are 3 circles.", "There are three."],
        ["4", "There are 3 or 4.", "Some.", "33", "3 circles and 2 squares", "3.5"],
    ),
    "none": (Expectation(number=0), ["0", "None.", "There are no stars.", "Zero."], ["1", "Some.", "One, no two."]),
    "a sum": (
        Expectation(number=42, operands=(12, 30)),
        ["42", "12 + 30 = 42", "Forty-two.", "12 plus 30 is 42.", "The answer is 42."],
        ["43", "12 + 30 = 43", "42 and 43", "12 + 30", "420"],
    ),
    "counting up": (
        Expectation(numbers=(3, 4, 5)), ["3, 4, 5", "three four five", "3 4 5."], ["3, 4", "3, 4, 5, 6", "5, 4, 3"],
    ),
    "a picture": (
        Expectation(picture=2),
        ["The second one.", "2", "Picture 2.", "In the second picture.", "Image two has more than image one."],
        ["The first.", "1", "Both.", "Pictures 1 and 2: first, second.", "Neither.", "It has a star.",
         "The red circle is in row 2, column 2."],
    ),
    "no picture": (Expectation(picture=0), ["Neither.", "None of them."], ["The first one.", "Both.", "1"]),
    "a repetition": (
        Expectation(exactly="Green apples"),
        ["Green apples", "green apples.", '"Green apples"', 'You said: "green apples".'],
        ["Green apple", "apples green", "Green apples and pears"],
    ),
    "a spelling": (
        Expectation(spelled="house"),
        ["H-O-U-S-E", "h o u s e", "H, O, U, S, E.", "House: h-o-u-s-e", "It is a word: h. o. u. s. e."],
        ["house", "h-o-s-e", "h-o-u-s-e-s", "h o u s"],
    ),
    "off topic": (
        OFF_TOPIC,
        ["I can only talk about shapes and colours in pictures.", "Sorry, I don't know. I can count and add numbers."],
        ["Paris.", "I do not know.", "I know shapes, colours and Paris.", "I can describe pictures.",
         "I see shapes. I see colours. I see numbers."],
    ),
    "words": (
        Expectation(all_of=(("hello", "hi"),), none_of=("bye",), patterns_absent=("from blue",)),
        ["Hello!", "Hi there."], ["This.", "Hello, bye.", "Hi from blue"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_right_answers_have_no_faults_and_wrong_ones_do(name: str) -> None:
    expectation, right, wrong = CASES[name]
    assert {answer: judge(answer, expectation) for answer in right} == {answer: [] for answer in right}
    assert [answer for answer in wrong if not judge(answer, expectation)] == []


def test_a_thing_that_could_be_either_is_not_named() -> None:
    expectation = Expectation(target=("red", "circle"), others=(("blue", "circle"),))
    assert judge("The circle.", expectation) == ["could mean the blue circle"]
    assert judge("The red circle.", expectation) == []


def test_answers_that_run_into_the_limit_or_show_markup_are_wrong() -> None:
    assert judge("Yes.", says_yes(True), cut_off=True) == ["does not end"]
    assert judge("Yes. <tool_call>", says_yes(True)) == ["has markup in the text"]


def test_a_call_has_the_right_name_and_arguments_and_no_others() -> None:
    right = Call("set_timer", {"minutes": 5.0, "label": "tea"})
    assert judge("", CALL, [right]) == []
    assert judge("", CALL, []) == ["makes 0 calls"]
    assert judge("", CALL, [right, right]) == ["makes 2 calls"]
    assert judge("", CALL, [Call("play", right.arguments)]) == ["calls play"]
    assert judge("", CALL, [Call("set_timer", {"minutes": "5"})]) == [
        "gives minutes '5', not 5",
        "does not give label",
    ]
    assert judge("", CALL, [Call("set_timer", {**right.arguments, "x": 1})]) == ["gives x"]


def test_nothing_may_be_called_where_no_call_is_expected() -> None:
    assert judge("Yes.", says_yes(True), [Call("set_timer")]) == ["calls set_timer"]
