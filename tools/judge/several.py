"""Questions about two or three pictures."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from PIL import Image

from tools.judge.changes import MOVES, WAYS, change, expected
from tools.judge.draw import picture
from tools.judge.expectation import Expectation, Pair, is_colour, is_thing
from tools.judge.question import Message, Question, article, assistant, chosen, user, worded, words
from tools.judge.scene import any_pairs, canvas, scene
from tools.judge.words import COLOURS, SHAPES, plural

ORDINAL = ("first", "second", "third")


def together(rng: Random, text: str, images: Sequence[Image.Image]) -> list[Message]:
    """The pictures in one message: before the text, after it, or each under its number."""
    roll = rng.random()
    shown = [{"type": "image", "image": image} for image in images]
    if roll < 0.65:
        return [user(text, *images)]
    if roll < 0.8:
        return [{"role": "user", "content": [words(text), *shown]}]
    labelled = [part for number, one in enumerate(shown, 1) for part in (words(f"Picture {number}: "), one)]
    return [{"role": "user", "content": [*labelled, words(f"\n{text}")]}]


def nth(rng: Random, index: int, total: int) -> str:
    """What a person calls one of the pictures."""
    names = [f"the {ORDINAL[index]} picture", f"picture {index + 1}", f"the {ORDINAL[index]} image"]
    if index == total - 1:
        names.append("the last picture")
    return rng.choice(names)


def which_has(rng: Random) -> Question:
    """Exactly one of the pictures has it."""
    total, by = rng.choice((2, 2, 3)), rng.choice(("shape", "colour"))
    colours, shapes = rng.sample(COLOURS, total + 1), rng.sample(SHAPES, total + 1)
    images = []
    for index in range(total):
        pairs: list[Pair] = [(colours[index], shapes[index])]
        if rng.random() < 0.3 and colours[index] not in ("grey", "white", "black"):
            pairs.append((colours[index], shapes[index]))
        images.append(picture(scene(rng, pairs, avoid=colours)))
    index = rng.randrange(total)
    if by == "shape":
        text = worded(
            rng,
            (
                "Which picture has {a}?",
                "In which picture is there {a}?",
                "Which picture shows {a}?",
                "Which one has {a} in it?",
                "Where is the {shape}, in which picture?",
                "Which of the images contains {a}?",
            ),
            a=article(shapes[index]),
            shape=shapes[index],
        )
    else:
        text = worded(
            rng,
            (
                "Which picture has something {colour}?",
                "In which picture is something {colour}?",
                "Which picture shows something {colour}?",
                "Which of the images has a {colour} shape?",
            ),
            colour=colours[index],
        )
        text = text.replace("a orange", "an orange")
    wanted = Expectation(picture=index + 1, colours=(colours[index],), shapes=(shapes[index],))
    return Question("which has", together(rng, text, images), wanted)


def colour_in(rng: Random) -> Question:
    """The same shape in other colours in the other pictures."""
    total = rng.choice((2, 2, 3))
    shape, colours = rng.choice(SHAPES), rng.sample(COLOURS, total)
    same = rng.random() < 0.6
    shapes = [shape] * total if same else rng.sample(SHAPES, total)
    images = [picture(scene(rng, [pair], avoid=colours)) for pair in zip(colours, shapes, strict=True)]
    index = rng.randrange(total)
    text = worded(
        rng,
        (
            "What colour is the {shape} in {nth}?",
            "Look at {nth}. What colour is the {shape}?",
            "Tell me the colour of the {shape} in {nth}.",
            "In {nth}, which colour is the {shape}?",
        ),
        shape=shapes[index],
        nth=nth(rng, index, total),
    )
    return Question("colour in", together(rng, text, images), is_colour(colours[index], shapes[index]))


def what_in(rng: Random) -> Question:
    total = rng.choice((2, 2, 3))
    pairs = list(zip(rng.sample(COLOURS, total), rng.sample(SHAPES, total), strict=True))
    images = [picture(scene(rng, [pair])) for pair in pairs]
    index = rng.randrange(total)
    text = worded(
        rng,
        ("What is in {nth}?", "What do you see in {nth}?", "Which shape is in {nth}?", "What does {nth} show?"),
        nth=nth(rng, index, total),
    )
    return Question("what in", together(rng, text, images), is_thing(*pairs[index]))


def count_in(rng: Random) -> Question:
    numbers = rng.sample(range(1, 6), rng.choice((2, 2, 3)))
    index = rng.randrange(len(numbers))
    shape = rng.choice(SHAPES)
    images = [picture(scene(rng, [(any_pairs(rng, 1)[0][0], shape)] * number)) for number in numbers]
    noun = rng.choice(("things", "shapes", plural(shape)))
    text = worded(
        rng,
        (
            "How many {noun} are in {nth}?",
            "How many {noun} does {nth} show?",
            "Count the {noun} in {nth}.",
            "In {nth}, how many {noun} are there?",
        ),
        noun=noun,
        nth=nth(rng, index, len(numbers)),
    )
    return Question("how many in", together(rng, text, images), Expectation(number=numbers[index]))


def which_more(rng: Random) -> Question:
    numbers = rng.sample(range(1, 6), 2)
    word = rng.choice(("more", "more", "fewer"))
    text = worded(
        rng,
        (
            "Which picture has {word} things?",
            "Which picture has {word} shapes?",
            "Which one has {word} things in it?",
            "Where are {word} shapes, in the first or in the second picture?",
        ),
        word=word,
    )
    target = numbers.index(max(numbers) if word == "more" else min(numbers))
    pairs = [any_pairs(rng, 1)[0] for _ in numbers]
    images = [picture(scene(rng, [pair] * number)) for pair, number in zip(pairs, numbers, strict=True)]
    colours, shapes = (tuple(sorted({pair[place] for pair in pairs})) for place in (0, 1))
    wanted = Expectation(picture=target + 1, colours=colours, shapes=shapes)
    return Question("which has more", together(rng, text, images), wanted)


def what_changed(rng: Random) -> Question:
    """One thing is of another colour, is new, is gone or is elsewhere in the second picture."""
    way = rng.choice(WAYS)
    before, after, one = change(rng, way, canvas(rng, 3), rng.choice((1, 2, 3)))
    text = worded(
        rng,
        (
            "What changed?",
            "What has changed?",
            "What is different in the second picture?",
            "What changed between the two?",
            "Spot the difference.",
            "Which thing changed, and how?",
            "What is different now?",
        ),
    )
    images = [picture(replace(before, quality=None)), picture(replace(after, quality=None))]
    wanted = expected(way, one, before, after)
    if way in MOVES:  # two pictures do not show the way
        wanted = replace(wanted, all_of=wanted.all_of[:1])
    return Question(f"what changed: {way}", together(rng, text, images), wanted)


def next_picture(rng: Random) -> Question:
    """The second picture comes with the second question."""
    pairs = list(zip(rng.sample(COLOURS, 2), rng.sample(SHAPES, 2), strict=True))
    first, second = (picture(scene(rng, [pair])) for pair in pairs)
    text = worded(rng, ("And this one?", "And what is this?", "What about this one?", "And now?", "What is this one?"))
    start = rng.choice(("What is this?", "What do you see?", "Which shape is this?"))
    messages = [user(start, first), assistant(f"A {pairs[0][0]} {pairs[0][1]}."), user(text, second)]
    return Question("next picture", messages, is_thing(*pairs[1]))


def question(rng: Random) -> Question:
    return chosen(
        rng,
        {
            "which has": (3, which_has),
            "colour in": (3, colour_in),
            "what in": (2, what_in),
            "count in": (2, count_in),
            "which more": (2, which_more),
            "what changed": (3, what_changed),
            "next picture": (2, next_picture),
        },
    )
