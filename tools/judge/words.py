"""How an answer is read: words for colours, shapes and numbers, their synonyms, and where they stand in a sentence."""

import re
from dataclasses import dataclass

# The first word is the name that expectations use; the others mean the same.
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "reddish"),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green",),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
    "black": ("black",),
    "white": ("white",),
    "grey": ("grey", "gray"),
    "brown": ("brown",),
}
SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc", "disk"),
    "square": ("square",),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "plus"),
    "diamond": ("diamond", "rhombus"),
    "rectangle": ("rectangle",),
    "oval": ("oval", "ellipse"),
    "heart": ("heart",),
    "arrow": ("arrow",),
}
COLOURS = tuple(COLOUR_WORDS)
SHAPES = tuple(SHAPE_WORDS)

# Never said of one of the things, and yet a colour or shape: an answer that has one invents something.
OTHER_COLOURS = ("teal", "turquoise", "cyan", "magenta", "gold", "silver", "beige", "maroon", "indigo", "lime", "navy")
OTHER_SHAPES = ("hexagon", "pentagon", "octagon", "trapezoid", "parallelogram", "crescent", "moon", "cube", "spiral")

UNIT_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen"""
TEN_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
UNITS = {word: value for value, word in enumerate(UNIT_WORDS.split())} | {"single": 1}
TENS = {word: 10 * value for value, word in enumerate(TEN_WORDS.split(), start=2)}
ORDINALS = {"first": 1, "1st": 1, "second": 2, "2nd": 2, "third": 3, "3rd": 3}


def plural(shape: str) -> str:
    if shape == "rhombus":
        return "rhombuses"
    return shape + ("es" if shape.endswith(("s", "x")) else "s")


def _lookup(table: dict[str, tuple[str, ...]], plurals: bool) -> dict[str, str]:
    found = {}
    for name, words in table.items():
        for word in words:
            found[word] = name
            if plurals:
                found[plural(word)] = name
    return found


COLOUR_OF_WORD = _lookup(COLOUR_WORDS, plurals=False) | {word: word for word in OTHER_COLOURS}
SHAPE_OF_WORD = (
    _lookup(SHAPE_WORDS, plurals=True)
    | {word: word for word in OTHER_SHAPES}
    | {plural(word): word for word in OTHER_SHAPES}
)
PLURALS = {plural(word) for words in SHAPE_WORDS.values() for word in words} | {plural(word) for word in OTHER_SHAPES}


def tokens(text: str) -> list[str]:
    """Lower-case words and whole numbers, in order; "1,704" is one number, "don't" one word, "heart-shaped" two."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    return re.findall(
        r"\d+(?:st|nd|rd)\b|-?\d+(?:\.\d+)?|[^\W\d_]+(?:'[^\W\d_]+)?", re.sub(r"(?<=\w)-(?=\w)", " ", text)
    )


def without_background(text: str) -> str:
    """The text without what it says about the background, which is no answer and no mistake."""
    colour = r"(?:[a-z-]+\s+){1,3}"
    text = re.sub(rf"\b(?:on|against|over|with|in)\s+(?:an?|the)\s+{colour}background\b", " ", text.lower())
    return re.sub(r"\bthe background (?:is|looks)\b[^.,;]*", " ", text)


def colours_in(text: str) -> list[str]:
    """Names of the colours said in a text, in order, without the background's."""
    return [COLOUR_OF_WORD[word] for word in tokens(without_background(text)) if word in COLOUR_OF_WORD]


def shapes_in(text: str) -> list[str]:
    """Names of the shapes said in a text, in order."""
    return [SHAPE_OF_WORD[word] for word in tokens(text) if word in SHAPE_OF_WORD]


def _starts_number(words: list[str], place: int) -> bool:
    word = words[place]
    if word == "one" and place and (words[place - 1] in COLOUR_OF_WORD or words[place - 1] in PRONOUN_BEFORE):
        return False
    return word in UNITS or word in TENS or re.fullmatch(r"-?\d+(\.\d+)?", word) is not None


# "The second one", "that one", "a big one": no number.
PRONOUN_BEFORE = {
    "first", "second", "third", "last", "this", "that", "the", "other", "which", "bigger", "larger", "big", "large",
    "small", "smaller", "biggest", "largest", "smallest", "each", "every", "no", "left", "right", "top", "bottom",
}  # fmt: skip


def numbers_in(text: str) -> list[float]:
    """Numbers said in a text, as digits or as words up to the thousands, in order; "no" and "none" are 0 if alone."""
    words = tokens(text)
    found: list[float] = []
    place = 0
    while place < len(words):
        if not _starts_number(words, place):
            place += 1
            continue
        if words[place] not in UNITS and words[place] not in TENS:
            found.append(float(words[place]))
            place += 1
            continue
        value, place = _number_words(words, place)
        found.append(value)
    if not found and {"no", "none", "nothing", "any"} & set(words):
        return [0]
    return found


def _number_words(words: list[str], place: int) -> tuple[int, int]:
    """One number that begins at a word, and the place after it: "two hundred and five"; "ten thirty" is two."""
    total, part, room = 0, 0, 100
    while place < len(words):
        word = words[place]
        if word in TENS and room > 90:
            part, room = part + TENS[word], 10
        elif word in UNITS and UNITS[word] < room:
            part, room = part + UNITS[word], 0
        elif word == "hundred" and part:
            total, part, room = total + 100 * part, 0, 100
        elif word == "thousand" and part + total:
            total, part, room = 1000 * (total + part), 0, 100
        elif not (word == "and" and total and not part and place + 1 < len(words) and _small(words[place + 1])):
            break
        place += 1
    return total + part, place


def _small(word: str) -> bool:
    return word in UNITS or word in TENS


@dataclass(frozen=True)
class Mention:
    """Things that a text speaks of: how many (None: several), of which colour (None: not said) and shape."""

    count: int | None
    colour: str | None
    shape: str


GENERAL = {
    "thing", "things", "object", "objects", "shape", "shapes", "picture", "image", "drawing", "photo", "pictures",
    "items", "item", "figures", "figure", "outline", "piece", "colour", "color", "colours", "colors", "side", "total",
}  # fmt: skip
COPULAS = {"is", "are", "was", "were", "in", "coloured", "colored", "looks", "'s"}


class _Reader:
    """Reads a sentence word by word and collects mentions."""

    def __init__(self) -> None:
        self.mentions: list[Mention] = []
        self.count: int | None = None
        self.waiting: list[tuple[int | None, str]] = []  # colours whose shape has not come yet
        self.open: tuple[int | None, str] | None = None  # a shape whose colour has not come yet

    def colour(self, colour: str, said_of_the_last: bool) -> None:
        if said_of_the_last and self.open:
            self.mentions.append(Mention(self.open[0], colour, self.open[1]))
            self.open = None
        else:
            self.waiting.append((self.count, colour))
        self.count = None

    def shape(self, shape: str, is_plural: bool) -> None:
        if not self.waiting:
            count = self.count if self.count is not None or is_plural else 1
            self.close()
            self.open = (count, shape)
        else:
            if self.open:
                self.mentions.append(Mention(self.open[0], None, self.open[1]))
                self.open = None
            for count, colour in self.waiting:
                # "A red and blue circle" speaks of two; "red circles" of several.
                self.mentions.append(Mention(count if count is not None or is_plural else 1, colour, shape))
            self.waiting = []
        self.count = None

    def close(self) -> None:
        """The sentence or the thing ends: colours that still wait belong to the shape before them."""
        if self.open:
            count, shape = self.open
            if len(self.waiting) == 1:
                self.mentions.append(Mention(count, self.waiting[0][1], shape))
            elif self.waiting:
                self.mentions += [Mention(said or 1, colour, shape) for said, colour in self.waiting]
            else:
                self.mentions.append(Mention(count, None, shape))
        self.waiting, self.open, self.count = [], None, None


def mentions_in(text: str) -> list[Mention]:
    """The things that a description speaks of, in any wording that a person would use for a few of them."""
    found: list[Mention] = []
    for sentence in re.split(r"[.!?\n]+(?:\s|$)", without_background(text)):
        reader, words = _Reader(), tokens(sentence)
        for place, word in enumerate(words):
            before = words[place - 1] if place else ""
            if word in COLOUR_OF_WORD:
                reader.colour(COLOUR_OF_WORD[word], before in COPULAS)
            elif word in SHAPE_OF_WORD:
                reader.shape(SHAPE_OF_WORD[word], word in PLURALS)
            elif word in GENERAL:
                reader.count = None
            elif word in ("a", "an", "another"):
                reader.count = 1
            elif word == "both" and reader.open:
                reader.count = reader.open[0]
            elif _starts_number(words, place) and float(numbers_in(word)[0]).is_integer():
                reader.count = int(numbers_in(word)[0])
        reader.close()
        found += reader.mentions
    return found
