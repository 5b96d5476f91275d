"""Dialogues about one picture."""

from random import Random

from tools.box import about_choices as about_choices
from tools.box import about_looks as about_looks
from tools.box import about_numbers as about_numbers
from tools.box import about_places as about_places
from tools.box import about_rows as about_rows
from tools.box.about_more import Said, colour_counts, following, totals
from tools.box.asking import ABOUT_NUMBERS, ABOUT_SHAPES, WEIGHTS, told
from tools.box.dialogues import Dialogue, Picture, Tasks, Turn
from tools.box.outlines import SHAPES
from tools.box.palette import COLOURS
from tools.box.placing import Wanted, nothing, random_scene, random_wanted
from tools.box.scenes import NUMBER, Scene

TASKS = Tasks()
# What is asked about numbers as about other things.
for _name in ("describe", "colour", "where", "which_side", "background"):
    ABOUT_NUMBERS[_name] = ABOUT_SHAPES[_name]
# Questions that only a number answers.
NUMBERS = tuple(name for name in ABOUT_NUMBERS if name not in ABOUT_SHAPES)
ONE_PICTURE = ABOUT_SHAPES | ABOUT_NUMBERS


def want_shapes(rng: Random) -> list[Wanted]:
    count = rng.choices([1, 2, 3, 4, 5, 6], [30, 28, 18, 11, 7, 6])[0]
    return random_wanted(count, rng, numbers=0.3 if count > 1 and rng.random() < 0.15 else 0.0)


def want_numbers(rng: Random) -> list[Wanted]:
    """One number, or a few."""
    count = rng.choices([1, 2, 3], [85, 10, 5])[0]
    return [(NUMBER, rng.choice(COLOURS) if rng.random() < 0.55 else rng.choice(["black", "white"]), "")
            for _ in range(count)]  # fmt: skip


def want_alike(rng: Random) -> list[Wanted]:
    """Two to four of one kind, in one colour or two, and up to two other things."""
    kind, *others = rng.sample(SHAPES, 3)
    colours = rng.sample(COLOURS, rng.choice([1, 2, 2, 3]))
    wanted: list[Wanted] = [(kind, rng.choice(colours), "") for _ in range(rng.choice([2, 2, 3, 3, 4]))]
    wanted += [(other, rng.choice([*colours, rng.choice(COLOURS)]), "") for other in others[: rng.choice([0, 1, 1, 2])]]
    rng.shuffle(wanted)
    return wanted


def any_scene(rng: Random) -> Scene:
    """A picture of shapes, of numbers, or of nothing."""
    chance = rng.random()
    if chance < 0.03:
        return nothing(rng)
    return random_scene(rng, want_numbers if chance < 0.38 else want_shapes)


def scene_for(task: str, rng: Random) -> Scene:
    """A picture that a task may be asked about."""
    if task in ABOUT_NUMBERS and (task not in ABOUT_SHAPES or rng.random() < 0.2):
        return random_scene(rng, want_numbers)
    if task in ("describe", "how_many", "exists", "background") and rng.random() < 0.06:
        return nothing(rng)
    if task == "filled" and rng.random() < 0.6:
        # Most things are filled: without this, that would be the answer.
        scene = random_scene(rng, want_shapes)
        while all(thing.filled for thing in scene.things):
            scene = random_scene(rng, want_shapes)
        return scene
    if task == "middle_of_row":
        return random_scene(rng, lambda chance: random_wanted(3, chance))
    if task == "pointing":
        return random_scene(rng, lambda chance: [("arrow", chance.choice(COLOURS), ""), *want_shapes(chance)][:3])
    return random_scene(rng, want_shapes)


def single(task: str, rng: Random) -> Dialogue:
    """One picture and one question."""
    while True:
        scene = scene_for(task, rng)
        asked = ONE_PICTURE[task](scene, rng)
        if asked is not None:
            return Dialogue((Turn(task, *asked, told(scene), (Picture(scene),), rng.random() < 0.1),))


# Questions that few pictures allow; they get pictures of their own.
RARE = (
    "pointing", "larger", "is_larger", "distinct", "filled", "filled", "this_or_that", "more_of", "all_alike",
    "corners", "middle_of_row", "in_order", "together",
)  # fmt: skip


@TASKS.add("rare questions", 0.65)
def rare(rng: Random) -> Dialogue:
    """One of them."""
    return single(rng.choice(RARE), rng)


@TASKS.add("in fewer words", 0.22)
def in_fewer_words(rng: Random) -> Dialogue:
    """A question, and others that leave out what it said."""
    while True:
        scene = random_scene(rng, want_shapes)
        found = following(scene, rng)
        if len(found) > 1 or rng.random() < 0.1 * len(found):
            return _in_turns(scene, found, rng)


@TASKS.add("several alike", 0.2)
def several_alike(rng: Random) -> Dialogue:
    """How many there are of a kind or a colour of which there are several, and how many in all."""
    while True:
        scene = random_scene(rng, want_alike)
        found = rng.choice([totals, totals, colour_counts])(scene, rng)
        if found:
            return _in_turns(scene, found, rng)


def _in_turns(scene: Scene, found: list[Said], rng: Random) -> Dialogue:
    """The picture comes with the first question."""
    (task, *asked), *more = found
    opening = Turn(task, asked[0], asked[1], told(scene), (Picture(scene),), rng.random() < 0.1)
    return Dialogue((opening, *(Turn(task, question, answer, told(scene)) for task, question, answer in more)))


@TASKS.add("one picture", 1.0)
def one_picture(rng: Random) -> Dialogue:
    """One picture and one to eight questions about it."""
    numbers = rng.random() < 0.27
    askers = ABOUT_NUMBERS if numbers else ABOUT_SHAPES
    if numbers:
        scene = random_scene(rng, want_numbers)
    else:
        scene = nothing(rng) if rng.random() < 0.04 else random_scene(rng, want_shapes)
    if not scene.things:
        askers = {name: askers[name] for name in ("describe", "how_many", "exists", "background")}
    names = list(askers)
    weights = [WEIGHTS[name] for name in names]
    asked: dict[str, tuple[str, str]] = {}
    for task in rng.choices(names, weights, k=rng.choice([1, 2, 3, 4, 5, 6, 8])):
        found = askers[task](scene, rng)
        # What was asked before teaches nothing but to look the answer up.
        if found is not None and task not in asked:
            asked[task] = found
    turns = [Turn(task, *found, told(scene)) for task, found in asked.items()]
    if not turns:
        return one_picture(rng)
    first = turns[0]
    opening = Turn(first.task, first.question, first.answer, told(scene), (Picture(scene),), rng.random() < 0.1)
    return Dialogue((opening, *turns[1:]))
