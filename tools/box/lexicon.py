"""Words, names and numbers that texts of the small world are filled with."""

from pathlib import Path
from random import Random

WORDS = tuple(dict.fromkeys((Path(__file__).parent / "words.txt").read_text().split()))
NAMES = (
    "Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Iris", "Jon", "Kim", "Leo", "Mia", "Nora", "Otto",
    "Anna", "Bob", "Carl", "Dora", "Emma", "Fred", "Grace", "Hans", "Ivan", "Jane", "Kate", "Lucy", "Max", "Nina",
    "Oscar", "Paul", "Rosa", "Sam", "Tom", "Uma", "Vera", "Will", "Yara", "Zoe", "Alice", "Peter", "Maria", "David",
    "Sarah", "James", "Laura", "Mark", "Olivia", "Noah", "Liam", "Sophie", "Lena", "Omar", "Priya", "Wei", "Yuki",
)  # fmt: skip
_ENDS = ("a", "o", "i", "en", "el", "an", "ie", "us", "as", "in")
_STARTS = (
    "b",
    "br",
    "c",
    "ch",
    "d",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
)
NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip

PLACES = (
    "in the kitchen", "on the table", "under the bed", "in the garden", "behind the door", "in the car", "on the shelf",
    "in the drawer", "at the office", "at school", "in the cellar", "on the roof", "next to the lamp", "at home",
    "in the garage", "under the chair", "on the sofa", "in the bathroom", "behind the sofa", "in my bag", "upstairs",
    "in the hall", "on the desk", "near the window", "in the attic", "by the door", "in the box", "at the station",
)  # fmt: skip


def word(rng: Random) -> str:
    """One of the list most often; else one that nobody has heard, so that spelling is more than a list."""
    if rng.random() < 0.6:
        return rng.choice(WORDS)
    middle = "".join(rng.choice("aeiou") + rng.choice(_STARTS) for _ in range(rng.choice([0, 1, 1, 2])))
    return rng.choice(_STARTS) + middle + rng.choice(_ENDS)
