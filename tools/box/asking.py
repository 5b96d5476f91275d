"""How questions about one picture are put together, and what they may call the things in it."""

from collections.abc import Callable, Sequence
from random import Random

from tools.box.outlines import SHAPES
from tools.box.scenes import NUMBER, Scene, Thing
from tools.box.wordings import article, ask, called, listing, sentence

NOTHING = "I see nothing that I know, no shapes and no numbers."
# A question and its answer, or None if the picture allows no such question.
Asked = tuple[str, str] | None
Asker = Callable[[Scene, Random], Asked]
ABOUT_SHAPES: dict[str, Asker] = {}
ABOUT_NUMBERS: dict[str, Asker] = {}
# How often each is asked.
WEIGHTS: dict[str, float] = {}


def about_shapes(weight: float) -> Callable[[Asker], Asker]:
    """Register a question about things."""

    def register(function: Asker) -> Asker:
        ABOUT_SHAPES[function.__name__], WEIGHTS[function.__name__] = function, weight
        return function

    return register


def about_numbers(weight: float) -> Callable[[Asker], Asker]:
    """Register a question about numbers."""

    def register(function: Asker) -> Asker:
        ABOUT_NUMBERS[function.__name__], WEIGHTS[function.__name__] = function, weight
        return function

    return register


def label(thing: Thing) -> str:
    """'a red circle', 'the number 42'."""
    return f"the number {thing.digits}" if thing.kind == NUMBER else article(thing.name)


def told(scene: Scene) -> str:
    """Everything in a picture; also what a short reasoning writes down."""
    return sentence(listing([label(thing) for thing in scene.things])) if scene.things else NOTHING


def counted(things: Sequence[Thing]) -> str:
    """How many of all things these are. They are named first: what it has written, a small model can count."""
    return sentence(f"{listing([label(thing) for thing in things])}: {len(things)}") if things else "0."


def references(scene: Scene, rng: Random) -> dict[str, Thing]:
    """What questions may call a thing that no other is called: 'star', 'red thing', 'red star'."""
    whole = [(thing.kind, thing.colour) for thing in scene.things]
    found = {called(thing.kind, rng): thing for thing in scene.unique("kind")}
    for thing in scene.unique("colour"):
        found[f"{called(thing.colour, rng)} {rng.choice(['thing', 'one', 'shape', 'object'])}"] = thing
    for thing in scene.things:
        if whole.count((thing.kind, thing.colour)) == 1:
            found[f"{called(thing.colour, rng)} {called(thing.kind, rng)}"] = thing
    return found


def pick(named: dict[str, Thing], rng: Random) -> tuple[str, Thing]:
    name = rng.choice(list(named))
    return name, named[name]


def absent(scene: Scene, rng: Random) -> str | None:
    """A kind that the picture does not show."""
    return rng.choice([kind for kind in SHAPES if kind not in {thing.kind for thing in scene.things}])


def which(thing: Thing) -> str:
    """As an answer picks one of several: 'the red circle'."""
    return f"the number {thing.digits}" if thing.kind == NUMBER else f"the {thing.name}"


def ask_about(form: str, rng: Random, *names: str) -> str:
    """Names in place of {0} and {1}."""
    for number, name in enumerate(names):
        form = form.replace(f"{{{number}}}", name)
    return ask(form, rng)
