"""Questions about one picture."""

from random import Random

from tools.judge.draw import picture
from tools.judge.expectation import Expectation, Pair, is_colour, is_thing, says_yes
from tools.judge.question import Question, article, chosen, user, worded
from tools.judge.scene import Scene, Thing, any_pairs, canvas, scene, suits
from tools.judge.words import COLOURS, SHAPES, plural


def asked(kind: str, text: str, what: Scene, expectation: Expectation) -> Question:
    return Question(kind, [user(text, picture(what))], expectation)


def what(rng: Random) -> Question:
    pair = any_pairs(rng, 1)[0]
    text = worded(
        rng,
        (
            "What is this?",
            "What's this?",
            "What did I draw?",
            "Which shape is this?",
            "Can you tell me what this is?",
            "Name this shape.",
            "What am I looking at?",
            "What shape do you see?",
            "And what would you call this?",
        ),
    )
    return asked("what", text, scene(rng, [pair]), is_thing(*pair))


def describe(rng: Random) -> Question:
    pairs = any_pairs(rng, rng.choice((1, 2, 2, 3, 3, 4)), distinct=rng.choice(("pair", "none")))
    text = worded(
        rng,
        (
            "Describe the picture.",
            "What's in this picture?",
            "Tell me what you see.",
            "What can you see here?",
            "Please describe this drawing.",
            "What does the image show?",
            "Describe what is in the image, with colours.",
            "My kid made this. What's on it?",
        ),
    )
    return asked("describe", text, scene(rng, pairs), Expectation(pairs=tuple(pairs)))


def count(rng: Random) -> Question:
    """Of all things, those of a colour, or those of a kind; some of them are the same."""
    total = rng.choice((1, 2, 3, 3, 4, 4, 5, 5, 6))
    by = rng.choice(("things", "colour", "kind"))
    colours, shapes = rng.sample(COLOURS, 2), rng.sample(SHAPES, 2)
    while not suits(set(colours)):
        colours = rng.sample(COLOURS, 2)
    pairs = [(rng.choice(colours), rng.choice(shapes)) for _ in range(total)]
    if by == "things":
        number = total
        wordings: tuple[str, ...] = (
            "How many things are there?",
            "How many shapes do you see?",
            "Count the shapes.",
            "How many objects are in it?",
            "How many are there?",
            "How many things did I draw?",
        )
    elif by == "colour":
        colour = colours[0] if rng.random() < 0.9 else rng.choice(absent(set(colours)))
        number = sum(pair[0] == colour for pair in pairs)
        colours = [*colours, colour]
        wordings = (
            f"How many {colour} things are there?",
            f"How many of the shapes are {colour}?",
            f"How many {colour} shapes can you find?",
            f"Count the {colour} ones.",
        )
    else:
        shape = shapes[0] if rng.random() < 0.9 else next(s for s in SHAPES if s not in shapes)
        number = sum(pair[1] == shape for pair in pairs)
        many = plural(shape)
        wordings = (
            f"How many {many} are there?",
            f"How many {many} do you see?",
            f"Count the {many}.",
            f"How many {many} are in the picture?",
            f"How many {many} did I draw?",
        )
    made = scene(rng, pairs, avoid=colours)
    return asked(f"how many {by}", worded(rng, wordings), made, Expectation(number=number))


def absent(colours: set[str]) -> list[str]:
    """Colours that are not in a picture of these, and need not be in its background."""
    return [name for name in COLOURS if name not in colours and suits(colours, [name])]


def colour_of(rng: Random) -> Question:
    pairs = any_pairs(rng, rng.choice((1, 1, 2, 3, 4)), distinct="shape")
    colour, shape = pairs[0]
    wordings = [
        "What colour is the {shape}?",
        "Tell me the colour of the {shape}.",
        "Which colour does the {shape} have?",
        "The {shape}: which colour is it?",
        "What's the colour of the {shape}?",
        "In what colour is the {shape} drawn?",
    ]
    if len(pairs) == 1:
        wordings += ["What colour is it?", "What colour is this?", "Which colour did I use?"]
    text = worded(rng, wordings, shape=shape)
    return asked("colour of", text, scene(rng, pairs), is_colour(colour, shape))


def which_shape(rng: Random) -> Question:
    pairs = any_pairs(rng, rng.choice((2, 2, 3, 4)), distinct="both")
    colour, shape = pairs[0]
    text = worded(
        rng,
        (
            "Which shape is {colour}?",
            "What is the {colour} thing?",
            "What shape is the {colour} one?",
            "Which one is {colour}?",
            "What is {colour} here?",
            "Name the {colour} shape.",
        ),
        colour=colour,
    )
    made = scene(rng, pairs, avoid=[colour])
    return asked("which shape", text, made, Expectation(colours=(colour,), shapes=(shape,), need=("shape",)))


SIDES = {
    "left": (
        "What is on the left?",
        "What's on the left side?",
        "Which shape is on the left?",
        "What do you see on the left?",
    ),
    "right": (
        "What is on the right?",
        "What's on the right side?",
        "Which shape is on the right?",
        "What's to the right?",
    ),
    "top": ("What is at the top?", "What's on top?", "Which shape is at the top?", "What is in the upper part?"),
    "bottom": (
        "What is at the bottom?",
        "What's down at the bottom?",
        "Which shape is at the bottom?",
        "What is below?",
    ),
}
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


def place_on(side: str, one: Thing, size: tuple[int, int]) -> float:
    """How far a thing is to a side, from 0 to 1."""
    across, down = one.x / size[0], one.y / size[1]
    return {"left": 1 - across, "right": across, "top": 1 - down, "bottom": down}[side]


def on_a_side(rng: Random) -> Question:
    pairs = any_pairs(rng, rng.choice((2, 2, 3)), distinct="pair")
    side, size = rng.choice(list(SIDES)), canvas(rng, len(pairs))

    def fits(things: list[Thing]) -> bool:
        """The first is on that side, and all the others are plainly on the other one."""
        places = [place_on(side, one, size) for one in things]
        return places[0] > 0.6 and max(places[1:]) < 0.45

    lengths = [rng.uniform(0.18, 0.36) for _ in pairs]
    made = scene(rng, pairs, fits=fits, size=size, lengths=lengths)
    opposite = (OPPOSITE[side],)
    expectation = Expectation(target=pairs[0], others=tuple(pairs[1:]), none_of=opposite)
    return asked(f"on the {side}", worded(rng, SIDES[side]), made, expectation)


def relation(rng: Random) -> Question:
    """Whether one thing is left of another, or right, now and then above or below."""
    (colour, shape), other = pairs = any_pairs(rng, 2, distinct="both")
    word, side = rng.choice(
        (
            ("left of", "left"),
            ("to the left of", "left"),
            ("right of", "right"),
            ("to the right of", "right"),
            (rng.choice(("above", "below")), ""),
        )
    )
    side = side or {"above": "top", "below": "bottom"}[word]
    size, yes = canvas(rng, 2), rng.random() < 0.5

    def fits(things: list[Thing]) -> bool:
        first, second = (place_on(side, one, size) for one in things)
        return (first - second if yes else second - first) > 0.25

    first = rng.choice((f"the {shape}", f"the {colour} {shape}"))
    second = rng.choice((f"the {other[1]}", f"the {other[0]} {other[1]}"))
    text = worded(
        rng,
        ("Is {first} {word} {second}?", "Would you say that {first} is {word} {second}?"),
        first=first,
        word=word,
        second=second,
    )
    lengths = [rng.uniform(0.18, 0.4) for _ in pairs]
    made = scene(rng, pairs, fits=fits, size=size, lengths=lengths)
    known = says_yes(yes, (colour, other[0]), (shape, other[1]))
    return asked("is it left of", text, made, known)


def exists(rng: Random) -> Question:
    pairs = any_pairs(rng, rng.choice((1, 2, 3, 4)), distinct="none")
    yes = rng.random() < 0.5
    there = rng.choice(pairs)
    colours, shapes = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    gone = (rng.choice(absent(colours)), rng.choice([s for s in SHAPES if s not in shapes]))
    colour, shape = there if yes else gone
    by = rng.choice(("shape", "shape", "colour", "pair"))
    if by == "shape":
        wordings: tuple[str, ...] = (
            "Is there {a} {shape}?",
            "Do you see {a} {shape}?",
            "Are there any {many}?",
            "Can you find {a} {shape} in the picture?",
            "Did I draw {a} {shape}?",
        )
    elif by == "colour":
        wordings = ("Is there anything {colour}?", "Is something {colour}?", "Do you see anything {colour}?")
    else:
        if not yes and rng.random() < 0.7:  # one of the two is there
            colour, shape = rng.choice(((there[0], gone[1]), (gone[0], there[1])))
        wordings = ("Is there {any} {colour} {shape}?", "Do you see {any} {colour} {shape}?")
    text = worded(
        rng,
        wordings,
        a=article(shape).split()[0],
        shape=shape,
        many=plural(shape),
        colour=colour,
        any=article(colour).split()[0],
    )
    made = scene(rng, pairs, avoid=[*colours, colour])
    known: tuple[Pair, ...] = (*pairs, (colour, shape))
    return asked("is there", text, made, says_yes(yes, tuple(k[0] for k in known), tuple(k[1] for k in known)))


def bigger(rng: Random) -> Question:
    pairs = any_pairs(rng, 2, distinct=rng.choice(("both", "both", "shape")))
    small = rng.uniform(0.16, 0.24)
    lengths = [small * rng.uniform(1.9, 2.4), small]
    word, opposite = rng.choice((("bigger", "smaller"), ("larger", "smaller"), ("smaller", "bigger")))
    if word == "smaller":
        lengths.reverse()
    made = scene(rng, pairs, lengths=lengths)
    target, other = pairs
    first, second = rng.sample(pairs, 2)
    if rng.random() < 0.3:
        text = worded(rng, ("Is the {first} {word} than the {second}?",), first=first[1], second=second[1], word=word)
        return asked(
            "is it bigger", text, made, says_yes(first == target, (first[0], second[0]), (first[1], second[1]))
        )
    text = worded(
        rng,
        (
            "Which is {word}?",
            "Which one is {word}?",
            "Which shape is {word}?",
            "Which is {word}, the {first} or the {second}?",
            "What's {word}, the {first} or the {second}?",
        ),
        word=word,
        first=first[1],
        second=second[1],
    )
    return asked("which is bigger", text, made, Expectation(target=target, others=(other,), none_of=(opposite,)))


def question(rng: Random) -> Question:
    return chosen(
        rng,
        {
            "what": (3, what),
            "describe": (4, describe),
            "count": (4, count),
            "colour of": (3, colour_of),
            "which shape": (2, which_shape),
            "on a side": (3, on_a_side),
            "relation": (2, relation),
            "exists": (3, exists),
            "bigger": (2, bigger),
        },
    )
