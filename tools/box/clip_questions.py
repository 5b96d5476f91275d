"""Further questions about a clip: yes or no, how it begins and ends, and how many things there are."""

from random import Random

from tools.box.asking import label, told
from tools.box.dialogues import Clip
from tools.box.scenes import NUMBER, Thing
from tools.box.wordings import ask, called, sentence

Asked = tuple[str, str] | None
_CLIP = "[clip|video]"


def _whether(name: str, rng: Random) -> Asked:
    """Whether something of a kind happens."""
    if name == "counts":
        return None
    asked, form = rng.choice([
        ("moves", "does [anything|something|it] move"), ("moves", "is [it|anything|something] moving[| or not]"),
        ("appears", "does [anything|something] appear"), ("disappears", "does [anything|something] disappear"),
        ("disappears", "does [anything|something] vanish"), ("turns", "does [anything|something] change its {color}"),
        ("turns", "does the {color} change"), ("", "does anything [change|happen][| in the [clip|video]]"),
    ])  # fmt: skip
    if asked == "":
        return ask(form, rng), "No." if name == "rests" else "Yes."
    return ask(form, rng), "Yes." if asked == name else "No."


def _moving(what: str, kind: str, rng: Random) -> Asked:
    """Either-or, and yes or no, about where it moves."""
    low, high = ("left", "right") if what in ("left", "right") else ("up", "down")
    it = rng.choice(["it", f"the {kind}", f"the {kind}"])
    if rng.random() < 0.5:
        pair = rng.sample([low, high], 2)
        form = rng.choice([f"does {it} [move|go] {pair[0]} or {pair[1]}",
                           f"is {it} [moving|going] {pair[0]} or {pair[1]}",
                           f"{pair[0]} or {pair[1]}"])  # fmt: skip
        return ask(form, rng), sentence(what)
    asked = what if rng.random() < 0.5 else rng.choice([way for way in ("left", "right", "up", "down") if way != what])
    to = rng.choice(["to the ", ""]) if asked in ("left", "right") else ""
    form = rng.choice([f"does {it} [move|go] {to}{asked}", f"is {it} [moving|going] {to}{asked}"])
    return ask(form, rng), "Yes." if asked == what else "No."


def _counting(what: str, rng: Random) -> Asked:
    """The first and last number, how many, and whether they go up or down."""
    numbers = what.split(", ")
    chance = rng.random()
    if chance < 0.3:
        form = rng.choice(["what is the last number", "[which|what] number is shown last", "what number is at the end",
                           "[which|what] number comes last", f"what is the last number in the {_CLIP}"])  # fmt: skip
        return ask(form, rng), f"{numbers[-1]}."
    if chance < 0.6:
        form = rng.choice(["what is the first number", "[which|what] number is shown first",
                           "what number is at the start",
                           "[which|what] number comes first", f"what is the first number in the {_CLIP}"])  # fmt: skip
        return ask(form, rng), f"{numbers[0]}."
    if len(numbers) < 2:
        return None
    if chance < 0.85:
        up = int(numbers[1]) > int(numbers[0])
        form = rng.choice([
            "does it count [up or down|down or up]", "is it counting [up or down|down or up]",
            "do the numbers go up or down", f"does the {_CLIP} count up or down",
        ])  # fmt: skip
        return ask(form, rng), "Up." if up else "Down."
    at = rng.randrange(len(numbers) - 1)
    form = rng.choice(
        [f"what [number |]comes after {numbers[at]}", f"which number [follows|comes after] {numbers[at]}"]
    )
    return ask(form, rng), f"{numbers[at + 1]}."


def _ends(clip: Clip, rng: Random) -> Asked:
    """What there is at the start or at the end."""
    first = rng.random() < 0.5
    scene = clip.scenes[0 if first else -1]
    at = rng.choice(["at the [start|beginning]", "first", "in the first [frame|picture]"] if first else
                    ["at the end", "in the end", "in the last [frame|picture]", "at the end of the clip"])  # fmt: skip
    if rng.random() < 0.5:
        if at == "first":
            return None
        form = rng.choice([f"how many {{things}} are there {at}", f"how many {{things}} {{see}} {at}"])
        return ask(form, rng), f"{len(scene.things)}."
    if rng.random() < 0.5 and scene.things:
        thing = rng.choice(scene.things)
        if thing.kind != NUMBER and [one.kind for one in scene.things].count(thing.kind) == 1 and at != "first":
            form = rng.choice(["what {color} is the {0} {1}", "what {color} does the {0} have {1}",
                               "which {color} is the {0} {1}"])  # fmt: skip
            form = form.replace("{0}", called(thing.kind, rng)).replace("{1}", at)
            return ask(form, rng), sentence(thing.colour)
    return ask(rng.choice([f"what {{see}} {at}", f"what is [there|shown] {at}"]), rng), told(scene)


def _names(what: str, thing: Thing, rng: Random) -> Asked:
    """What it is that moves or changes."""
    if what in ("left", "right", "up", "down"):
        form = rng.choice(["[what|which thing|which shape] moves", "what is moving", "what is it that moves"])
        return ask(form, rng), sentence(label(thing))
    if what.startswith("turns "):
        colour = what.removeprefix("turns ")
        if rng.random() < 0.5:
            form = rng.choice(["what {color} was {0} at the [start|beginning]", "what {color} is {0} first",
                               "what {color} did {0} have before"])  # fmt: skip
            form = form.replace("{0}", f"the {called(thing.kind, rng)}")
            return ask(form, rng), sentence(thing.colour)
        form = rng.choice(["what {color} is it [now|at the end]", "what {color} does it [turn into|become]",
                           "from which {color} to which {color} does it change"])  # fmt: skip
        answer = f"from {thing.colour} to {colour}" if form.startswith("from") else colour
        return ask(form, rng), sentence(answer)
    return None


def further(name: str, what: str, thing: Thing, clip: Clip, rng: Random) -> Asked:
    """One of these questions and its answer, if this clip allows it."""
    kind = called(thing.kind, rng)
    chance = rng.random()
    if name == "counts":
        return _counting(what, rng)
    if chance < 0.35:
        return _whether(name, rng)
    if name == "moves" and chance < 0.65:
        return _moving(what, kind, rng)
    if chance < 0.8:
        return _names(what, thing, rng)
    return _ends(clip, rng)
