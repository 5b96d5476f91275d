"""Questions that need the picture: one to three pictures, and one to six questions in a row."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from tools.box.dialogues import Dialogue, Picture, Tasks, Turn
from tools.box.scenes import COLOURS, SHAPES, SIZES, Scene, Thing, draw, random_scale, random_scene

TASKS = Tasks()

# A question, its answer, or None if the pictures allow no such question.
Asked = tuple[str, str] | None
ONE_PICTURE: dict[str, Callable[[Scene, Random], Asked]] = {}
SEVERAL: dict[str, Callable[[Sequence[Scene], Random], Asked]] = {}
DIGIT_TASKS = ("which_digit", "read_digits")
# Tasks across pictures whose pictures are made for them.
OWN_PICTURES = ("digits_of", "changed")


def about_one(function: Callable[[Scene, Random], Asked]) -> Callable[[Scene, Random], Asked]:
    """Register a question about a single picture."""
    ONE_PICTURE[function.__name__] = function
    return function


def about_several(
    function: Callable[[Sequence[Scene], Random], Asked],
) -> Callable[[Sequence[Scene], Random], Asked]:
    """Register a question across pictures."""
    SEVERAL[function.__name__] = function
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


def listing(items: Sequence[str]) -> str:
    """'a, b and c'."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def references(scene: Scene) -> dict[str, Thing]:
    """What a question may call a thing by one attribute that no other shares: 'star', 'red thing'."""
    return {thing.kind: thing for thing in scene.unique("kind")} | {
        f"{thing.colour} thing": thing for thing in scene.unique("colour")
    }


def one_of(items: Sequence[str], rng: Random) -> str:
    """A random one, independent of their order."""
    return rng.choice(sorted(items))


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
    named = references(scene)
    if not named:
        return None
    name = one_of(list(named), rng)
    return f"Where is the {name}?", sentence(f"the {name} is in {scene.place(named[name])}")


@about_one
def what_at(scene: Scene, rng: Random) -> Asked:
    place, thing = rng.choice([*scene.places(), *((scene.place(thing), thing) for thing in scene.things)])
    form = rng.choice(["What is in {}?", "What do you see in {}?"])
    return form.format(place), sentence(f"in {place} is {article(thing.name) if thing else 'nothing'}")


@about_one
def how_many(scene: Scene, rng: Random) -> Asked:
    key = rng.choice(["thing", "kind", "colour"])
    if key == "thing":
        return rng.choice(["How many things are there?", "How many things do you see?"]), f"{len(scene.things)}."
    present = [getattr(thing, key) for thing in scene.things]
    value = rng.choice(present) if rng.random() < 0.75 else rng.choice(SHAPES if key == "kind" else list(COLOURS))
    what = plural(value) if key == "kind" else f"{value} things"
    form = rng.choice(["How many {} are there?", "How many {} do you see?"])
    return form.format(what), f"{present.count(value)}."


@about_one
def left_or_right(scene: Scene, rng: Random) -> Asked:
    return _relation(scene, rng, "column", ("left", "right"), "Is the {} left or right of the {}?")


@about_one
def above_or_below(scene: Scene, rng: Random) -> Asked:
    return _relation(scene, rng, "row", ("above", "below"), "Is the {} above or below the {}?")


def _relation(scene: Scene, rng: Random, axis: str, words: tuple[str, str], form: str) -> Asked:
    named = references(scene)
    pairs = [
        (one, other)
        for one, first in named.items()
        for other, second in named.items()
        if getattr(first, axis) != getattr(second, axis)
    ]
    if not pairs:
        return None
    one, other = rng.choice(pairs)
    first, second = (getattr(named[name], axis) for name in (one, other))
    evidence = f"the {one} is in {axis} {first + 1}, the {other} in {axis} {second + 1}"
    return form.format(one, other), sentence(f"{evidence}: {words[first > second]}")


@about_one
def exists(scene: Scene, rng: Random) -> Asked:
    names = [thing.name for thing in scene.things]
    name = rng.choice(names) if rng.random() < 0.5 else f"{rng.choice(list(COLOURS))} {rng.choice(SHAPES)}"
    form = rng.choice(["Is there {}?", "Do you see {}?"])
    return form.format(article(name)), "Yes." if name in names else "No."


@about_one
def larger(scene: Scene, rng: Random) -> Asked:
    named = references(scene)
    small = [name for name, thing in named.items() if thing.size == "small"]
    large = [name for name, thing in named.items() if thing.size == "large"]
    if not small or not large:
        return None
    right = one_of(large, rng)
    pair = rng.sample([right, one_of(small, rng)], 2)
    return "Which is larger, the {} or the {}?".format(*pair), sentence(f"the {right}")


@about_one
def describe(scene: Scene, rng: Random) -> Asked:
    form = rng.choice(["Describe the picture.", "What do you see?", "What is in the picture?"])
    return form, sentence(listing([article(thing.name) for thing in scene.things]))


@about_one
def which_digit(scene: Scene, rng: Random) -> Asked:
    if len(scene.things) == 1 and rng.random() < 0.6:
        form = rng.choice(["Which digit is in the picture?", "What number is this?", "Which digit do you see?"])
        return form, f"{scene.things[0].kind}."
    things = scene.unique("colour")
    if not things:
        return None
    thing = rng.choice(things)
    return rng.choice(["Which digit is {}?", "What is the {} digit?"]).format(thing.colour), f"{thing.kind}."


@about_one
def read_digits(scene: Scene, rng: Random) -> Asked:
    return "Read the digits.", f"{', '.join(thing.kind for thing in scene.things)}."


SHAPE_TASKS = tuple(name for name in ONE_PICTURE if name not in DIGIT_TASKS)
# How often each is drawn: what is learned late, or what few pictures allow, more often.
_WEIGHTS = {"shape": 0.5, "describe": 0.5, "colour": 3.0, "left_or_right": 3.0, "above_or_below": 3.0, "exists": 3.0}


def picture(scene: Scene, rng: Random) -> Picture:
    """A scene drawn, sometimes as a larger file."""
    return Picture(scene, draw(scene, rng, random_scale(scene, rng))[0])


def scene_for(task: str, rng: Random) -> Scene:
    """A picture that a task may be asked about."""
    return random_scene(rng, digits=True, most=3) if task in DIGIT_TASKS else random_scene(rng)


def single(task: str, rng: Random) -> Dialogue:
    """One picture and one question."""
    while True:
        scene = scene_for(task, rng)
        asked = ONE_PICTURE[task](scene, rng)
        if asked is not None:
            return Dialogue((Turn(task, *asked, sentence(scene.summary()), (picture(scene, rng),)),))


@TASKS.add("one picture", 10.0)
def one_picture(rng: Random) -> Dialogue:
    """One picture and one to six questions about it."""
    names = DIGIT_TASKS if rng.random() < 0.15 else SHAPE_TASKS
    scene = scene_for(names[0], rng)
    turns: list[Turn] = []
    weights = [_WEIGHTS.get(name, 2.0) for name in names]
    for task in rng.choices(names, weights, k=rng.choice([1, 2, 3, 4, 5, 6])):
        asked = ONE_PICTURE[task](scene, rng)
        # A question that comes again teaches nothing but to look the answer up.
        if asked is not None and asked not in [(turn.question, turn.answer) for turn in turns]:
            images = () if turns else (picture(scene, rng),)
            turns.append(Turn(task, *asked, sentence(scene.summary()), images))
    return Dialogue(tuple(turns)) if turns else one_picture(rng)


def facts(scene: Scene, number: int | None = None) -> list[tuple[str, str]]:
    """What one asks about, and the sentence that says it; with `number`, as one of several pictures."""
    of = "" if number is None else f" in picture {number}"
    opening = "" if number is None else f"in picture {number} "
    found = [
        *((f"{thing.kind} color{of}", f"the {thing.kind} is {thing.colour}") for thing in scene.unique("kind")),
        *((f"{thing.colour} thing{of}", f"the {thing.colour} thing is a {thing.kind}")
          for thing in scene.unique("colour")),
        *((f"{name} place{of}", f"the {name} is in {scene.place(thing)}")
          for name, thing in references(scene).items()),
    ]  # fmt: skip
    return [(asked, sentence(opening + told)) for asked, told in found]


def _tell(found: Sequence[tuple[str, str]], scenes: Sequence[Scene], rng: Random) -> Dialogue | None:
    """Several facts in one answer."""
    if not found:
        return None
    chosen = rng.sample(list(found), min(len(found), rng.randint(2, 8)))
    question = f"Tell me: {', '.join(asked for asked, _ in chosen)}."
    images = tuple(picture(scene, rng) for scene in scenes)
    reasoning = summaries(scenes) if len(scenes) > 1 else sentence(scenes[0].summary())
    return Dialogue((Turn("tell", question, " ".join(told for _, told in chosen), reasoning, images),))


@TASKS.add("tell about one picture", 6.0)
def tell(rng: Random) -> Dialogue:
    """Many look-ups for the price of one picture: what makes the decoder learn to find things by kind and place."""
    scene = random_scene(rng, most=6, least=2, alike=rng.random() < 0.3)
    return _tell(facts(scene), [scene], rng) or tell(rng)


@TASKS.add("tell about several pictures", 6.0)
def tell_several(rng: Random) -> Dialogue:
    """The same across pictures that share kinds and colours."""
    scenes = scenes_for("where_in", rng)
    found = [fact for number, scene in enumerate(scenes, start=1) for fact in facts(scene, number)]
    return _tell(found, scenes, rng) or tell_several(rng)


@about_several
def which_picture(scenes: Sequence[Scene], rng: Random) -> Asked:
    found = {}
    for key, form in (("kind", "{}"), ("colour", "{} thing")):
        values = [{getattr(thing, key) for thing in scene.things} for scene in scenes]
        for value in set.union(*values):
            holders = [number for number, has in enumerate(values, start=1) if value in has]
            if len(holders) == 1:
                found[form.format(value)] = holders[0]
    if not found:
        return None
    name = one_of(list(found), rng)
    form = rng.choice(["Which picture shows {}?", "Which picture has {}?"])
    return form.format(article(name)), sentence(f"{article(name)} is in picture {found[name]}")


def _in_two(scenes: Sequence[Scene], rng: Random) -> tuple[int, str, Thing] | None:
    """A thing with a name that fits a thing in another picture too: only its own picture gives the answer."""
    named = [references(scene) for scene in scenes]
    found = [
        (number, name, thing)
        for number, things in enumerate(named)
        for name, thing in things.items()
        if any(name in others for other, others in enumerate(named) if other != number)
    ]
    return rng.choice(found) if found else None


@about_several
def attribute_in(scenes: Sequence[Scene], rng: Random) -> Asked:
    found = _in_two(scenes, rng)
    if found is None:
        return None
    number, name, thing = found
    question = "What color is the {} in picture {}?" if name == thing.kind else "What is the {} in picture {}?"
    told = thing.colour if name == thing.kind else article(thing.kind)
    return question.format(name, number + 1), sentence(f"in picture {number + 1} the {name} is {told}")


@about_several
def where_in(scenes: Sequence[Scene], rng: Random) -> Asked:
    found = _in_two(scenes, rng)
    if found is None:
        return None
    number, name, thing = found
    told = f"in picture {number + 1} the {name} is in {scenes[number].place(thing)}"
    return f"Where is the {name} in picture {number + 1}?", sentence(told)


@about_several
def more(scenes: Sequence[Scene], rng: Random) -> Asked:
    counts = [len(scene.things) for scene in scenes]
    most = max(counts)
    if counts.count(most) > 1:
        return None
    form = rng.choice(["Which picture has more things?", "Which picture shows more things?"])
    if len(scenes) > 2:
        form = "Which picture has the most things?"
    return form, f"Picture {counts.index(most) + 1}."


@about_several
def digits_of(scenes: Sequence[Scene], rng: Random) -> Asked:
    form = rng.choice(["Which digits do the pictures show?", "Read the digits in the pictures."])
    return form, f"{', '.join(scene.things[0].kind for scene in scenes)}."


@about_several
def changed(scenes: Sequence[Scene], rng: Random) -> Asked:
    before, after = ({thing.kind: thing for thing in scene.things} for scene in scenes)
    form = rng.choice(["What changed between picture 1 and picture 2?", "What is different in picture 2?"])
    for kind, thing in before.items():
        if kind not in after:
            return form, sentence(f"the {kind} is gone")
        if after[kind].colour != thing.colour:
            return form, sentence(f"the {kind} became {after[kind].colour}")
        if (after[kind].column, after[kind].row) != (thing.column, thing.row):
            return form, sentence(f"the {kind} moved to {scenes[1].place(after[kind])}")
    return form, sentence(f"{article(next(kind for kind in after if kind not in before))} appeared")


def _change(rng: Random) -> list[Scene]:
    """Two pictures of the same size that differ in one thing; no two things share a kind."""
    kinds = rng.sample(SHAPES, 4)
    before = random_scene(rng, kinds=kinds[:3], alike=False, most=3, least=1, cells=2)
    things = list(before.things)
    thing = rng.choice(things)
    taken = {(thing.column, thing.row) for thing in things}
    free = [(column, row) for row in range(before.rows) for column in range(before.columns)
            if (column, row) not in taken]  # fmt: skip
    how = rng.choice(["colour", *(["moved", "added"] if free else []), *(["removed"] if len(things) > 1 else [])])
    others = [other for other in things if other is not thing]
    if how == "colour":
        others.append(replace(thing, colour=rng.choice([name for name in COLOURS if name != thing.colour])))
    elif how == "moved":
        column, row = rng.choice(free)
        others.append(replace(thing, column=column, row=row))
    elif how == "added":
        column, row = rng.choice(free)
        others += [thing, Thing(kinds[3], rng.choice(list(COLOURS)), rng.choice(SIZES), column, row)]
    return [before, before.with_things(others)]


def scenes_for(task: str, rng: Random) -> list[Scene]:
    """Pictures that a task across pictures may be asked about."""
    if task == "changed":
        return _change(rng)
    count = rng.choice([2, 2, 3])
    if task == "digits_of":
        return [random_scene(rng, most=1, digits=True) for _ in range(count)]
    # Few kinds and colours, so that the pictures share some.
    kinds, colours = rng.sample(SHAPES, 3), rng.sample(list(COLOURS), 4)
    return [random_scene(rng, most=3, kinds=kinds, colours=colours) for _ in range(count)]


def summaries(scenes: Sequence[Scene]) -> str:
    """What reasoning about several pictures writes down."""
    return " ".join(f"Picture {number}: {scene.summary()}." for number, scene in enumerate(scenes, start=1))


def _show(scenes: Sequence[Scene], questions: list[tuple[str, str, str]], rng: Random) -> Dialogue:
    """The pictures, together or one after the other, and the questions (task, question, answer)."""
    images = tuple(picture(scene, rng) for scene in scenes)
    turns = []
    if rng.random() < 0.3:
        for scene, image in zip(scenes[:-1], images, strict=False):
            task = "read_digits" if scene.things[0].kind.isdigit() else "describe"
            asked = ONE_PICTURE[task](scene, rng)
            assert asked is not None
            turns.append(Turn(task, *asked, sentence(scene.summary()), (image,)))
        images = images[-1:]
    reasoning = summaries(scenes)
    (task, question, answer), *following = questions
    turns.append(Turn(task, question, answer, reasoning, images))
    turns += [Turn(task, question, answer, reasoning) for task, question, answer in following]
    return Dialogue(tuple(turns))


def several(task: str, rng: Random) -> Dialogue:
    """Two or three pictures and one question across them."""
    while True:
        scenes = scenes_for(task, rng)
        asked = SEVERAL[task](scenes, rng)
        if asked is not None:
            return _show(scenes, [(task, *asked)], rng)


@TASKS.add("several pictures", 10.0)
def several_pictures(rng: Random) -> Dialogue:
    """One to five questions across pictures."""
    task = rng.choice(["changed", "changed", *SEVERAL])
    scenes = scenes_for(task, rng)
    asked = [(task, SEVERAL[task](scenes, rng))]
    if task not in OWN_PICTURES:
        names = rng.choices([name for name in SEVERAL if name not in OWN_PICTURES], k=rng.choice([0, 1, 2, 3, 4]))
        asked += [(name, SEVERAL[name](scenes, rng)) for name in names]
    questions = list(dict.fromkeys((name, *found) for name, found in asked if found is not None))
    return _show(scenes, questions, rng) if questions else several_pictures(rng)
