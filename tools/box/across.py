"""How questions across two or three pictures are put together, and what they may call a picture."""

from collections.abc import Callable, Sequence
from random import Random

from tools.box.asking import told
from tools.box.scenes import Scene
from tools.box.wordings import ask

Asked = tuple[str, str] | None
Asker = Callable[[Sequence[Scene], Random], Asked]
SEVERAL: dict[str, Asker] = {}
_ORDINALS = ("first", "second", "third")
_CARDINALS = ("one", "two", "three")


def about_several(function: Asker) -> Asker:
    """Register a question across pictures."""
    SEVERAL[function.__name__] = function
    return function


def numbered(number: int, rng: Random, of: int = 0) -> str:
    """'picture 2', 'the second image'; of so many pictures, the last one may be called so."""
    name = rng.choice(["picture", "picture", "image", "image", "photo", "drawing", "pic"])
    if of == number + 1 and rng.random() < 0.2:
        return f"the last {rng.choice([name, name, 'one'])}"
    chance = rng.random()
    if chance < 0.5:
        return f"{name} {rng.choice([number + 1, number + 1, number + 1, f'#{number + 1}', _CARDINALS[number]])}"
    if chance < 0.6:
        return f"the {('1st', '2nd', '3rd')[number]} {name}"
    return f"the {_ORDINALS[number]} {rng.choice([name, name, 'one'])}"


def which_answer(number: int) -> str:
    """As answers name a picture."""
    return f"Picture {number + 1}."


def ask_across(form: str, rng: Random, *names: str) -> str:
    """Names in place of {0} and {1}."""
    for number, name in enumerate(names):
        form = form.replace(f"{{{number}}}", name)
    return ask(form, rng)


def in_words(scenes: Sequence[Scene]) -> str:
    """How many there are."""
    return _CARDINALS[len(scenes) - 1]


def summaries(scenes: Sequence[Scene]) -> str:
    """Everything in every picture; also what reasoning about them writes down."""
    return " ".join(
        f"Picture {number}: {told(scene)[0].lower()}{told(scene)[1:]}" for number, scene in enumerate(scenes, 1)
    )
