"""Questions about pictures of numbers."""

from random import Random

from tools.judge.expectation import Expectation
from tools.judge.numerals import numeral, picture
from tools.judge.question import Question, user, worded

WORDINGS = (
    "What number is this?", "Which number do you see?", "Read the number.", "What number did I write?",
    "Can you read this number?", "What does it say?", "Which number is that?", "What's the number in the picture?",
    "Tell me the number.", "What number is shown here?",
)  # fmt: skip


def question(rng: Random) -> Question:
    """One to four digits, printed or by hand."""
    length = rng.choice((1, 1, 2, 2, 3, 4))
    number = rng.randint(10 ** (length - 1) if length > 1 else 0, 10**length - 1)
    hand = rng.choice(("printed", "printed", "font", "pen"))
    one = numeral(rng, str(number), hand)
    kind = "printed" if hand == "printed" else "by hand"
    return Question(kind, [user(worded(rng, WORDINGS), picture(one))], Expectation(number=number))
