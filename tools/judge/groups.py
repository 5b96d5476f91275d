"""The groups of questions, and the questions of each: always the same for a seed."""

import importlib
from collections.abc import Iterator
from random import Random

from tools.judge.question import Question

# Name of a group: module that asks. They are imported when they are asked for: those without pictures need no Skia.
GROUPS = {
    "one picture": "one_picture",
    "several pictures": "several",
    "numbers": "number_pictures",
    "text": "text",
    "off-topic": "off_topic",
    "well-formed calls": "calls",
}


SAID_ONCE = (
    "text",
    "off-topic",
    "well-formed calls",
)  # elsewhere other pictures make other questions of the same words
AGAIN = 30  # times that another question is looked for, if one was asked before


def questions(group: str, count: int, seed: int = 0) -> Iterator[Question]:
    """So many questions of a group, none of them twice if there are enough; whatever the count is, they begin alike."""
    module = importlib.import_module(f"tools.judge.{GROUPS[group]}")
    before: set[str] = set()
    for index in range(count):
        rng = Random(f"{seed}/{group}/{index}")
        for _ in range(AGAIN):
            question: Question = module.question(rng)
            key = question.text.lower().strip("?.! ")
            if group not in SAID_ONCE or key not in before:
                break
        before.add(key)
        yield question
