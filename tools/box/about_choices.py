"""Questions about one picture that weigh one thing against another: either-or, more or fewer, all or not all."""

from random import Random

from tools.box.about_places import place_name, two_of
from tools.box.asking import Asked, about_shapes, absent, ask_about, label, pick, references, which
from tools.box.outlines import SHAPES
from tools.box.palette import COLOURS
from tools.box.scenes import NUMBER, Scene, Thing
from tools.box.wordings import article, ask, called, plural, sentence


def _either(form: str, right: str, wrong: str, rng: Random) -> str:
    """With two words of which one is right in place of {a} and {b}, in any order."""
    pair = rng.sample([right, wrong], 2)
    return form.replace("{a}", pair[0]).replace("{b}", pair[1])


@about_shapes(1.2)
def this_or_that(scene: Scene, rng: Random) -> Asked:
    """Of one thing: which of two shapes, or of two colours, or on which of two sides."""
    if len(scene.things) != 1 or scene.things[0].kind == NUMBER:
        return None
    thing = scene.things[0]
    it = "[it|this|that|the {thing}|the shape]"
    chance = rng.random()
    if chance < 0.4:
        form = rng.choice([f"is {it} {{a}} or {{b}}", f"is {it} {{a}} or {{b}}", "{a} or {b}", "do you see {a} or {b}"])
        wrong = article(called(str(absent(scene, rng)), rng))
        return ask(_either(form, article(called(thing.kind, rng)), wrong, rng), rng), sentence(label(thing))
    if chance < 0.7:
        wrong = rng.choice([name for name in COLOURS if name != thing.colour])
        form = rng.choice([f"is {it} {{a}} or {{b}}", f"is {it} {{a}} or {{b}}", "{a} or {b}"])
        form = _either(form, called(thing.colour, rng), called(wrong, rng), rng)
        return ask(form, rng), sentence(f"the {thing.kind} is {thing.colour}")
    low, high, share = rng.choice([("left", "right", thing.x / scene.width), ("top", "bottom", thing.y / scene.height)])
    if abs(share - 0.5) < 0.12:
        return None
    at = rng.choice(["on", "at"]) if low == "left" else "at"
    form = rng.choice([f"is {it} {at} the {{a}} or [{at} the |the |]{{b}}", f"is {it} {at} the {{a}} or the {{b}}",
                       "{a} or {b}", f"is {it} in the {{a}} or the {{b}} half"])  # fmt: skip
    side = low if share < 0.5 else high
    return ask(_either(form, low, high, rng), rng), sentence(f"{'on' if low == 'left' else 'at'} the {side}")


@about_shapes(1.2)
def more_of(scene: Scene, rng: Random) -> Asked:
    """Which of two kinds or colours there are more of."""
    key = rng.choice(["kind", "kind", "colour"])
    values = [getattr(thing, key) for thing in scene.things if thing.kind != NUMBER]
    if len(values) < 2:
        return None
    one = rng.choice(values)
    everything = SHAPES if key == "kind" else COLOURS
    rest = [value for value in (values if rng.random() < 0.8 else everything) if value != one]
    if not rest:
        return None
    other = rng.choice(rest)
    counts = [values.count(value) for value in (one, other)]
    words = [
        plural(called(value, rng)) if key == "kind" else f"{called(value, rng)} {{things}}" for value in (one, other)
    ]
    if rng.random() < 0.65 or counts[0] == counts[1]:
        way = rng.choice(["more", "more", "fewer"])
        right = counts[0] > counts[1] if way == "more" else counts[0] < counts[1]
        form = rng.choice([f"are there {way} {{0}} than {{1}}", f"{{see}} {way} {{0}} than {{1}}"])
        form = form.replace("{see}", "[do|can] you see")
        if counts[0] == counts[1] and rng.random() < 0.5:
            form = rng.choice(["are there as many {0} as {1}", "is the number of {0} and {1} the same"])
            return ask_about(form, rng, *words), "Yes."
        return ask_about(form, rng, *words), "Yes." if right else "No."
    most = (one, other)[counts[0] < counts[1]]
    form = rng.choice(["are there more {0} or {1}", "what are there more of, {0} or {1}", "more {0} or [more |]{1}",
                       "which are more, {0} or {1}"])  # fmt: skip
    return ask_about(form, rng, *words), sentence(plural(most) if key == "kind" else most)


@about_shapes(0.9)
def all_alike(scene: Scene, rng: Random) -> Asked:
    """Whether all things have one colour or shape, and how many there are of these."""
    if len(scene.things) < 2 or any(thing.kind == NUMBER for thing in scene.things):
        return None
    key = rng.choice(["kind", "colour"])
    values = [getattr(thing, key) for thing in scene.things]
    word = "shape" if key == "kind" else "{color}"
    chance = rng.random()
    if chance < 0.4:
        form = rng.choice([f"how many [different |]{word}s are there", f"how many [different |]{word}s {{see}}",
                           f"how many different {word}s"])  # fmt: skip
        form = form if key == "colour" else form.replace("[different |]", "different [kinds of |]")
        return ask(form, rng), f"{len(set(values))}."
    if chance < 0.7:
        value = rng.choice(values)
        what = called(value, rng) if key == "colour" else plural(called(value, rng))
        form = rng.choice(["are [they all|all {things}|all of them] {0}", "is everything {0}"])
        form = form if key == "colour" else "are [they all|all {things}|all of them] {0}"
        return ask_about(form, rng, what), "Yes." if set(values) == {value} else "No."
    form = rng.choice([f"are [they all|all {{things}}|all of them] the same {word}",
                       f"do they all have the same {word}",
                       f"do all {{things}} have the same {word}"])  # fmt: skip
    return ask(form, rng), "Yes." if len(set(values)) == 1 else "No."


@about_shapes(1.0)
def colour_of_largest(scene: Scene, rng: Random) -> Asked:
    """The colour of the largest or smallest, or of what is left and right."""
    things = sorted(scene.things, key=lambda thing: thing.size)
    if len(things) < 2 or any(thing.kind in ("line", NUMBER) for thing in things):
        return None
    big = rng.random() < 0.6
    first, second = (things[-1], things[-2]) if big else (things[0], things[1])
    if max(first.size, second.size) < 1.45 * min(first.size, second.size):
        return None
    words = ["biggest", "largest", "bigger", "larger"] if big else ["smallest", "smaller"]
    word = rng.choice([word for word in words if len(things) == 2 or word.endswith("st")])
    form = rng.choice(["what {color} is the {0} {thing}", "[which|what] {color} does the {0} {thing} have",
                       "what is the {color} of the {0} {thing}", "what {color} is the {0} [one|of them]"])  # fmt: skip
    return ask_about(form, rng, word), sentence(f"the {first.kind} is {first.colour}")


@about_shapes(1.2)
def in_place(scene: Scene, rng: Random) -> Asked:
    """What is in a corner or in the middle; whether a thing is there."""
    places: dict[str, Thing | None] = {}
    for thing in scene.things:
        place = place_name(scene, thing)
        if place is None:
            return None
        places[place] = None if place in places else thing
    # The sides are about what is furthest there, not about ninths.
    held = [
        (place, thing)
        for place, thing in places.items()
        if thing is not None and (place.count(" ") > 2 or "middle" in place)
    ]
    if not held:
        return None
    place, thing = rng.choice(held)
    spot = place.split(" the ")[1]
    said = rng.choice([place, f"in the {spot}", f"in the {spot} corner", f"in the {spot} corner of the {{pic}}"])
    if spot == "middle":
        said = rng.choice(["in the middle", "in the [center|centre]", "in the middle of the {pic}"])
    if rng.random() < 0.5:
        form = rng.choice(["what is {0}", "what's {0}", "what {see} {0}", "which {thing} is {0}", "what is there {0}"])
        return ask_about(form, rng, said), sentence(label(thing))
    named = references(scene, rng)
    if not named:
        return None
    name, asked = pick(named, rng)
    form = rng.choice(["is the {0} {1}", "is the {0} {1}", "do you see the {0} {1}", "the {0} is {1}, right"])
    return ask_about(form, rng, name, said), "Yes." if asked is thing else "No."


@about_shapes(1.0)
def which_is_higher(scene: Scene, rng: Random) -> Asked:
    """Which of two things is higher, or further to the left."""
    two = two_of(scene, rng)
    if two is None:
        return None
    one, first, other, second = two
    along = rng.choice(["x", "y"])
    low = rng.random() < 0.5
    if abs(getattr(first, along) - getattr(second, along)) < 0.12 * min(scene.width, scene.height):
        return None
    words = {"x": ("further [to the |]left", "further [to the |]right"), "y": ("[higher|higher up]", "lower")}[along]
    form = rng.choice(["which is {2}, the {0} or the {1}", "what is {2}: the {0} or the {1}",
                       "is the {0} or the {1} {2}", "which [one|thing] is {2}, the {0} or the {1}"])  # fmt: skip
    right = min(first, second, key=lambda thing: getattr(thing, along) * (1 if low else -1))
    return ask_about(form, rng, one, other, words[0 if low else 1]), sentence(which(right))


_CORNERS = {"triangle": 3, "square": 4, "rectangle": 4, "diamond": 4, "circle": 0, "oval": 0}


@about_shapes(0.3)
def corners(scene: Scene, rng: Random) -> Asked:
    """How many corners a shape has."""
    things = [thing for thing in scene.unique("kind") if thing.kind in _CORNERS]
    if not things:
        return None
    thing = rng.choice(things)
    name = f"the {called(thing.kind, rng)}" if len(scene.things) > 1 or rng.random() < 0.4 else "[it|this|the {thing}]"
    part = rng.choice(["corners", "corners", "sides"]) if _CORNERS[thing.kind] else "corners"
    return ask_about(f"how many {part} does {{0}} have", rng, name), f"{_CORNERS[thing.kind]}."
