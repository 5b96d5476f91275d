"""Questions that need the picture: one to three pictures, one to four questions in a row."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

from PIL import Image

from tools.box.dialogues import Dialogue, Tasks, Turn
from tools.box.scenes import COLOURS, SHAPES, Scene, Thing, draw, random_scene

TASKS = Tasks()

# A question about one scene: its text, its answer, or None if the scene allows no such question.
Asked = tuple[str, str] | None
ONE_PICTURE: dict[str, Callable[[Scene, Random], Asked]] = {}


def about_one(function: Callable[[Scene, Random], Asked]) -> Callable[[Scene, Random], Asked]:
    """Register a question about a single picture."""
    ONE_PICTURE[function.__name__] = function
    return function


def article(name: str) -> str:
    """'a red star', 'an orange cross'."""
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def plural(kind: str) -> str:
    """'crosses', 'stars'."""
    return f"{kind}es" if kind.endswith("s") else f"{kind}s"


def listing(items: list[str]) -> str:
    """'a, b and c'."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


@about_one
def colour(scene: Scene, rng: Random) -> Asked:
    things = scene.unique("kind")
    if not things:
        return None
    thing = rng.choice(things)
    form = rng.choice(["What color is the {}?", "What colour is the {}?", "Which color does the {} have?"])
    return form.format(thing.kind), sentence(f"the {thing.kind} is {thing.colour}")


@about_one
def shape(scene: Scene, rng: Random) -> Asked:
    things = scene.unique("colour")
    if not things:
        return None
    thing = rng.choice(things)
    form = rng.choice(["What is the {} thing?", "What is {}?", "Which shape is {}?"])
    return form.format(thing.colour), sentence(f"the {thing.colour} thing is a {thing.kind}")


@about_one
def where(scene: Scene, rng: Random) -> Asked:
    things = scene.unique("name")
    if not things:
        return None
    thing = rng.choice(things)
    form = rng.choice(["Where is the {}?", "In which place is the {}?", "Where do you see the {}?"])
    return form.format(thing.name), sentence(f"the {thing.name} is at the {scene.place(thing)}")


@about_one
def what_at(scene: Scene, rng: Random) -> Asked:
    place, thing = rng.choice(list(scene.places()))
    form = rng.choice(["What is at the {}?", "What do you see at the {}?", "Which thing is at the {}?"])
    return form.format(place), sentence(article(thing.name) if thing else "nothing")


@about_one
def how_many(scene: Scene, rng: Random) -> Asked:
    key = rng.choice(["thing", "kind", "colour"])
    if key == "thing":
        return rng.choice(["How many things are there?", "How many things do you see?"]), f"{len(scene.things)}."
    present = [getattr(thing, key) for thing in scene.things]
    value = rng.choice(present) if rng.random() < 0.75 else rng.choice(SHAPES if key == "kind" else list(COLOURS))
    count = present.count(value)
    what = plural(value) if key == "kind" else f"{value} things"
    return rng.choice(["How many {} are there?", "How many {} do you see?"]).format(what), f"{count}."


@about_one
def left_or_right(scene: Scene, rng: Random) -> Asked:
    return _relation(scene, rng, "column", ("left", "right"), "{} or {} of")


@about_one
def above_or_below(scene: Scene, rng: Random) -> Asked:
    return _relation(scene, rng, "row", ("above", "below"), "{} or {}")


def _relation(scene: Scene, rng: Random, axis: str, words: tuple[str, str], form: str) -> Asked:
    pairs = [
        (one, other)
        for one in scene.unique("name")
        for other in scene.unique("name")
        if getattr(one, axis) != getattr(other, axis)
    ]
    if not pairs:
        return None
    one, other = rng.choice(pairs)
    word = words[getattr(one, axis) > getattr(other, axis)]
    link = " of" if axis == "column" else ""
    question = f"Is the {one.name} {form.format(*words)} the {other.name}?"
    return question, sentence(f"the {one.name} is {word}{link} the {other.name}")


@about_one
def exists(scene: Scene, rng: Random) -> Asked:
    names = [thing.name for thing in scene.things]
    name = rng.choice(names) if rng.random() < 0.5 else f"{rng.choice(list(COLOURS))} {rng.choice(SHAPES)}"
    form = rng.choice(["Is there {}?", "Do you see {}?", "Does the picture show {}?"])
    return form.format(article(name)), "Yes." if name in names else "No."


@about_one
def larger(scene: Scene, rng: Random) -> Asked:
    small = [thing for thing in scene.unique("name") if thing.size == "small"]
    large = [thing for thing in scene.unique("name") if thing.size == "large"]
    if not small or not large:
        return None
    pair = [rng.choice(small), rng.choice(large)]
    answer = sentence(f"the {pair[1].name} is larger")
    rng.shuffle(pair)
    form = rng.choice(["Which is larger, the {} or the {}?", "What is larger, the {} or the {}?"])
    return form.format(pair[0].name, pair[1].name), answer


@about_one
def describe(scene: Scene, rng: Random) -> Asked:
    form = rng.choice(["Describe the picture.", "What do you see?", "What is in the picture?", "What does it show?"])
    return form, sentence(listing([article(thing.name) for thing in scene.things]))


@about_one
def which_digit(scene: Scene, rng: Random) -> Asked:
    things = scene.unique("colour")
    if len(scene.things) == 1 and rng.random() < 0.6:
        form = rng.choice(["Which digit is in the picture?", "What number is this?", "Which digit do you see?"])
        return form, f"{scene.things[0].kind}."
    if not things:
        return None
    thing = rng.choice(things)
    return rng.choice(["Which digit is {}?", "What is the {} digit?"]).format(thing.colour), f"{thing.kind}."


@about_one
def read_digits(scene: Scene, rng: Random) -> Asked:
    form = rng.choice(["Read the digits.", "Which digits do you see?"])
    return form, f"{', '.join(thing.kind for thing in scene.things)}."


DIGIT_TASKS = ("which_digit", "read_digits")
SHAPE_TASKS = tuple(name for name in ONE_PICTURE if name not in DIGIT_TASKS)


def picture(scene: Scene, rng: Random) -> Image.Image:
    """A scene at the size of its cells, or as a larger file."""
    return draw(scene, rng, scale=rng.choice([1.0, 1.0, 1.0, 1.0, 1.5, 2.5]))[0]


def ask_one(task: str, rng: Random) -> tuple[Scene, str, str]:
    """A scene that allows a question of this kind, the question and its answer."""
    while True:
        digits = task in DIGIT_TASKS
        scene = random_scene(rng, digits=digits, most=3 if digits else 5)
        asked = ONE_PICTURE[task](scene, rng)
        if asked is not None:
            return scene, *asked


def single(task: str, rng: Random) -> Dialogue:
    """One picture and one question."""
    scene, question, answer = ask_one(task, rng)
    return Dialogue((Turn(task, question, answer, f"{sentence(scene.summary())}", (picture(scene, rng),)),))


@TASKS.add("one picture", 10.0)
def one_picture(rng: Random) -> Dialogue:
    """One picture and one to four questions about it."""
    digits = rng.random() < 0.25
    names = DIGIT_TASKS if digits else SHAPE_TASKS
    scene = random_scene(rng, digits=digits, most=3 if digits else 5)
    turns: list[Turn] = []
    for _ in range(rng.choice([1, 2, 3, 4])):
        task = rng.choice(names)
        asked = ONE_PICTURE[task](scene, rng)
        if asked is not None:
            images = () if turns else (picture(scene, rng),)
            turns.append(Turn(task, *asked, sentence(scene.summary()), images))
    return Dialogue(tuple(turns)) if turns else one_picture(rng)


def summaries(scenes: list[Scene]) -> str:
    """What reasoning about several pictures writes down."""
    return " ".join(f"Picture {number}: {scene.summary()}." for number, scene in enumerate(scenes, start=1))


def _pictures(rng: Random, count: int, **kwargs: bool | int) -> list[Scene]:
    return [random_scene(rng, most=kwargs.get("most", 3), digits=bool(kwargs.get("digits"))) for _ in range(count)]


SEVERAL: dict[str, Callable[[Random], tuple[list[Scene], str, str]]] = {}


def about_several(
    function: Callable[[Random], tuple[list[Scene], str, str]],
) -> Callable[[Random], tuple[list[Scene], str, str]]:
    """Register a question across pictures."""
    SEVERAL[function.__name__] = function
    return function


@about_several
def which_picture(rng: Random) -> tuple[list[Scene], str, str]:
    while True:
        scenes = _pictures(rng, rng.choice([2, 2, 3]))
        names = [[thing.name for thing in scene.things] for scene in scenes]
        single = [(name, index) for index, found in enumerate(names) for name in set(found)
                  if sum(name in other for other in names) == 1]  # fmt: skip
        if single:
            name, index = rng.choice(sorted(single))
            form = rng.choice(["Which picture shows {}?", "In which picture is {}?", "Which picture has {}?"])
            return scenes, form.format(article(name)), f"Picture {index + 1}."


@about_several
def colour_in(rng: Random) -> tuple[list[Scene], str, str]:
    scenes = _pictures(rng, rng.choice([2, 2, 3]))
    kind, index = rng.choice(SHAPES), rng.randrange(len(scenes))
    # The same shape stands in every picture, so that only the right picture gives the answer.
    scenes = [_with_one(scene, kind, rng) for scene in scenes]
    thing = next(thing for thing in scenes[index].things if thing.kind == kind)
    question = f"What color is the {kind} in picture {index + 1}?"
    return scenes, question, sentence(f"the {kind} in picture {index + 1} is {thing.colour}")


def _with_one(scene: Scene, kind: str, rng: Random) -> Scene:
    """The scene with exactly one thing of a kind, in the place of a random one."""
    others = [kind_ for kind_ in SHAPES if kind_ != kind]
    chosen = rng.randrange(len(scene.things))
    return scene.with_things(
        [
            replace(
                thing, kind=kind if number == chosen else (thing.kind if thing.kind != kind else rng.choice(others))
            )
            for number, thing in enumerate(scene.things)
        ]
    )


@about_several
def where_in(rng: Random) -> tuple[list[Scene], str, str]:
    scenes = [
        _with_one(scene, kind, rng) for kind in [rng.choice(SHAPES)] for scene in _pictures(rng, rng.choice([2, 2, 3]))
    ]
    index = rng.randrange(len(scenes))
    kinds = [{thing.kind for thing in scene.unique("kind")} for scene in scenes]
    kind = rng.choice(sorted(set.intersection(*kinds)))
    thing = next(thing for thing in scenes[index].things if thing.kind == kind)
    question = f"Where is the {kind} in picture {index + 1}?"
    return scenes, question, sentence(f"the {kind} in picture {index + 1} is at the {scenes[index].place(thing)}")


@about_several
def more(rng: Random) -> tuple[list[Scene], str, str]:
    while True:
        scenes = _pictures(rng, 2, most=5)
        counts = [len(scene.things) for scene in scenes]
        if counts[0] != counts[1]:
            form = rng.choice(["Which picture has more things?", "Which picture shows more things?"])
            return scenes, form, f"Picture {1 + (counts[1] > counts[0])}."


@about_several
def digits_of(rng: Random) -> tuple[list[Scene], str, str]:
    scenes = [random_scene(rng, most=1, digits=True) for _ in range(rng.choice([2, 2, 3]))]
    found = [scene.things[0].kind for scene in scenes]
    form = rng.choice(["Which digits do the pictures show?", "Read the digits in the pictures."])
    return scenes, form, f"{', '.join(found)}."


@about_several
def changed(rng: Random) -> tuple[list[Scene], str, str]:
    while True:
        before = random_scene(rng, most=4, least=1)
        things = list(before.things)
        thing = rng.choice(things)
        free = [(c, r) for r in range(before.rows) for c in range(before.columns)
                if (c, r) not in {(t.column, t.row) for t in things}]  # fmt: skip
        how = rng.choice(["colour", "moved", "removed", "added"])
        if how == "colour":
            colour = rng.choice([name for name in COLOURS if name != thing.colour])
            answer = f"the {thing.name} became {colour}"
            after = [replace(t, colour=colour) if t is thing else t for t in things]
        elif how == "moved" and free:
            column, row = rng.choice(free)
            moved = replace(thing, column=column, row=row)
            answer = f"the {thing.name} moved to the {before.place(moved)}"
            after = [moved if t is thing else t for t in things]
        elif how == "removed" and len(things) > 1:
            answer = f"the {thing.name} is gone"
            after = [t for t in things if t is not thing]
        elif how == "added" and free:
            column, row = rng.choice(free)
            new = Thing(rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.choice(["small", "large"]), column, row)
            answer = f"{article(new.name)} appeared"
            after = [*things, new]
        else:
            continue
        if [t.name for t in things].count(thing.name) > 1:
            continue
        form = rng.choice(
            ["What changed between picture 1 and picture 2?", "What is different in picture 2?", "What changed?"]
        )
        return [before, before.with_things(after)], form, sentence(answer)


def several(task: str, rng: Random) -> Dialogue:
    """Two or three pictures and one question across them, together or one after the other."""
    scenes, question, answer = SEVERAL[task](rng)
    images = tuple(picture(scene, rng) for scene in scenes)
    reasoning = summaries(scenes)
    if rng.random() < 0.6:
        return Dialogue((Turn(task, question, answer, reasoning, images),))
    turns = [
        Turn("describe", "Describe the picture." if number == 0 else "Describe this picture.",
             sentence(listing([article(thing.name) for thing in scene.things])),
             sentence(scene.summary()), (images[number],))
        for number, scene in enumerate(scenes[:-1])
    ]  # fmt: skip
    if task == "digits_of":
        turns = [replace(turn, task="read_digits", question="Read the digits.", answer=f"{scene.things[0].kind}.")
                 for turn, scene in zip(turns, scenes, strict=False)]  # fmt: skip
    return Dialogue((*turns, Turn(task, question, answer, reasoning, (images[-1],))))


@TASKS.add("several pictures", 8.0)
def several_pictures(rng: Random) -> Dialogue:
    """A question across pictures, sometimes followed by one about the last picture."""
    task = rng.choice(list(SEVERAL))
    return several(task, rng)
