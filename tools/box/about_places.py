"""Questions about one picture: where things are, what is beside them, and which is larger."""

from random import Random

from tools.box.asking import Asked, about_shapes, absent, ask_about, label, pick, references, which
from tools.box.scenes import Scene, Thing
from tools.box.wordings import ask, called, sentence


def place_name(scene: Scene, thing: Thing) -> str | None:
    """Which ninth of the picture a thing's middle is in, if that is beyond doubt."""
    words = []
    for share, low, high in (
        (thing.y / scene.height, "top", "bottom"),
        (thing.x / scene.width, "left", "right"),
    ):
        if min(abs(share - 1 / 3), abs(share - 2 / 3)) < 0.035:
            return None
        words.append(low if share < 1 / 3 else high if share > 2 / 3 else "")
    if not any(words):
        return "in the middle"
    return f"{'at the' if words[0] else 'on the'} {' '.join(word for word in words if word)}"


@about_shapes(2.5)
def where(scene: Scene, rng: Random) -> Asked:
    named = references(scene, rng)
    form = rng.choice([
        "where is the {0}", "where is the {0}", "where's the {0}", "where {see} the {0}",
        "where in the {pic} is the {0}", "in which [part|corner|place] [of the {pic}|] is the {0}",
        "what is the [position|location|place] of the {0}", "find the {0}.", "locate the {0}.",
        "where can i [see|find] the {0}", "on which side is the {0}", "tell me where the {0} is.",
    ])  # fmt: skip
    if rng.random() < 0.04:
        kind = absent(scene, rng)
        return ask_about(form, rng, called(str(kind), rng)), f"I see no {kind}."
    if len(scene.things) == 1:
        named |= {"[thing|shape|object]": scene.things[0]}
    if not named:
        return None
    name, thing = pick(named, rng)
    place = place_name(scene, thing)
    return (ask_about(form, rng, name), sentence(place)) if place else None


@about_shapes(4.0)
def which_side(scene: Scene, rng: Random) -> Asked:
    side = rng.choice(["left", "right", "top", "bottom"])
    thing = scene.extreme(side)
    if thing is None:
        return None
    if side in ("left", "right"):
        where = [f"on the {side}", f"on the {side}", f"on the {side} side", f"at the {side}", f"to the {side}",
                 f"on the {side} of the {{pic}}", f"{side}", f"on the far {side}", f"furthest {side}"]  # fmt: skip
        most = f"{side}most"
    else:
        most = {"top": "topmost", "bottom": "bottommost"}[side]
        above = {"top": "above", "bottom": "below"}[side]
        where = [
            f"at the {side}",
            f"at the {side}",
            f"on the {side}",
            f"on {side}" if side == "top" else "at the bottom",
            f"at the {side} of the {{pic}}",
            above,
            f"in the {side} [part|half]",
        ]
    form = rng.choice(
        [
            "what is {0}",
            "what's {0}",
            "what {see} {0}",
            "which [{thing}|shape|object] is {0}",
            "what [thing|shape] is {0}",
            "what is shown {0}",
            "{0} is what",
            f"what is the {most} [thing|shape|object]",
            "describe [what is|the {thing}] {0}.",
            "name the {thing} {0}.",
            "what is the [thing|shape|object] {0}",
        ]
    )
    return ask_about(form, rng, rng.choice(where)), sentence(label(thing))


@about_shapes(1.5)
def colour_at(scene: Scene, rng: Random) -> Asked:
    side = rng.choice(["left", "right", "top", "bottom"])
    thing = scene.extreme(side)
    if thing is None:
        return None
    at = rng.choice(["on", "at"]) if side in ("left", "right") else "at"
    form = rng.choice(
        [
            f"what {{color}} is the {{thing}} {at} the {side}",
            f"which {{color}} [has|is] the {{thing}} {at} the {side}",
            f"what is the {{color}} of the {{thing}} {at} the {side}",
            f"what {{color}} is the {side} {{thing}}",
        ]
    )
    return ask(form, rng), sentence(f"the {thing.kind} is {thing.colour}")


RELATIONS = {
    "left": ("left of", "to the left of", "on the left of", "on the left side of"),
    "right": ("right of", "to the right of", "on the right of", "on the right side of"),
    "above": ("above", "over", "higher than", "on top of"),
    "below": ("below", "under", "beneath", "lower than", "underneath"),
}


def relations_of(scene: Scene, one: Thing, other: Thing) -> dict[str, bool]:
    """What is so and what is not, beyond doubt."""
    apart = 0.12 * min(scene.width, scene.height)
    found = {}
    for low, high, first, second in (("left", "right", one.x, other.x), ("above", "below", one.y, other.y)):
        if abs(first - second) > apart:
            found[low], found[high] = first < second, first > second
    return found


def two_of(scene: Scene, rng: Random) -> tuple[str, Thing, str, Thing] | None:
    """Two things and what they may be called."""
    named = list(references(scene, rng).items())
    if len(scene.things) < 2 or not named:
        return None
    one, first = rng.choice(named)
    rest = [(name, thing) for name, thing in named if thing is not first]
    return (one, first, *rng.choice(rest)) if rest else None


@about_shapes(4.0)
def is_beside(scene: Scene, rng: Random) -> Asked:
    two = two_of(scene, rng)
    if two is None:
        return None
    one, first, other, second = two
    related = relations_of(scene, first, second)
    if not related:
        return None
    way = rng.choice(list(related))
    form = rng.choice(["is the {0} {way} the {1}", "is the {0} {way} the {1}", "the {0} is {way} the {1}, right",
                       "is it true that the {0} is {way} the {1}", "{see} the {0} {way} the {1}"])  # fmt: skip
    form = form.replace("{see}", "do you see").replace("{way}", rng.choice(RELATIONS[way]))
    return ask_about(form, rng, one, other), "Yes." if related[way] else "No."


@about_shapes(3.0)
def which_way(scene: Scene, rng: Random) -> Asked:
    two = two_of(scene, rng)
    if two is None:
        return None
    one, first, other, second = two
    related = relations_of(scene, first, second)
    axes = [pair for pair in (("left", "right"), ("above", "below")) if pair[0] in related]
    if not axes:
        return None
    axis = rng.choice(axes)
    low, high = axis if rng.random() < 0.5 else axis[::-1]
    of = " of" if axis[0] == "left" else ""
    form = rng.choice(
        [f"is the {{0}} {low} or {high}{of} the {{1}}", f"is the {{0}} {low}{of} or {high}{of} the {{1}}"]
    )
    if of:
        form = rng.choice([form, f"is the {{0}} to the {low} or to the {high} of the {{1}}",
                           f"is the {{0}} on the {low} or the {high} of the {{1}}"])  # fmt: skip
    return ask_about(form, rng, one, other), sentence(next(way for way in axis if related[way]))


@about_shapes(2.0)
def what_beside(scene: Scene, rng: Random) -> Asked:
    named = references(scene, rng)
    if len(scene.things) < 2 or not named:
        return None
    name, thing = pick(named, rng)
    others = [other for other in scene.things if other is not thing]
    if len(others) == 1 and rng.random() < 0.25:
        form = rng.choice(["what is [next to|beside|near|besides] the {0}", "what else {see}[| besides the {0}]",
                           "what is there [apart from|other than] the {0}", "what is the other {thing}"])  # fmt: skip
        return (ask_about(form, rng, name), sentence(label(others[0]))) if "{0}" in form else None
    way = rng.choice(list(RELATIONS))
    back = {"left": "right", "right": "left", "above": "below", "below": "above"}[way]
    related = [relations_of(scene, thing, other).get(back) for other in others]
    if None in related or sum(map(bool, related)) != 1:
        return None
    form = rng.choice(["what is {way} the {0}", "what's {way} the {0}", "which {thing} is {way} the {0}",
                       "what [thing|shape] is {way} the {0}", "what do you see {way} the {0}"])  # fmt: skip
    form = form.replace("{way}", rng.choice(RELATIONS[way]))
    return ask_about(form, rng, name), sentence(label(others[related.index(True)]))


@about_shapes(3.0)
def larger(scene: Scene, rng: Random) -> Asked:
    things = sorted((thing for thing in scene.things if thing.kind != "line"), key=lambda thing: thing.size)
    if len(things) < 2 or len(things) < len(scene.things):
        return None
    big = rng.random() < 0.65
    words = ["bigger", "larger", "biggest", "largest"] if big else ["smaller", "tinier", "smallest", "tiniest"]
    word = rng.choice(words[:2] if len(things) == 2 and rng.random() < 0.8 else words[2:])
    first, second = (things[-1], things[-2]) if big else (things[0], things[1])
    if max(first.size, second.size) < 1.45 * min(first.size, second.size):
        return None
    form = rng.choice(["which is {0}", "which [one|thing|shape|object] is {0}", "what is the {0} [thing|shape|object]",
                       "which of them is {0}", "what is {0}", "which is the {0} [one|thing|shape]",
                       "which of the {things} is {0}", "tell me which is {0}."])  # fmt: skip
    if word in words[2:]:
        form = form.replace("is {0}", "is the {0}").replace("what is the {0}", "what is the {0} [thing|shape]")
        form = form.replace("[thing|shape] [thing|shape|object]", "[thing|shape|object]")
    elif len(things) == 2 and rng.random() < 0.4:
        names = {thing.kind: thing for thing in scene.unique("kind")}
        if len(names) == 2:
            pair = rng.sample([called(kind, rng) for kind in names], 2)
            form = rng.choice(
                [
                    "which is {0}, the {a} or the {b}",
                    "is the {a} or the {b} {0}",
                    "what is {0}: {a} or {b}",
                    "which one is {0}: the {a} or the {b}",
                    "{a} or {b}, which is {0}",
                ]
            )
            form = form.replace("{a}", pair[0]).replace("{b}", pair[1])
    return ask_about(form, rng, word), sentence(which(first))


@about_shapes(1.5)
def is_larger(scene: Scene, rng: Random) -> Asked:
    two = two_of(scene, rng)
    if two is None or "line" in (two[1].kind, two[3].kind):
        return None
    one, first, other, second = two
    if max(first.size, second.size) < 1.45 * min(first.size, second.size):
        return None
    word = rng.choice(["bigger", "larger", "smaller"])
    right = (first.size > second.size) == (word != "smaller")
    form = rng.choice(
        [
            f"is the {{0}} {word} than the {{1}}",
            f"is the {{0}} {word} than the {{1}}",
            f"the {{0}} is {word} than the {{1}}, right",
            f"is it true that the {{0}} is {word} than the {{1}}",
            f"compared to the {{1}}, is the {{0}} {word}",
        ]
    )
    return ask_about(form, rng, one, other), "Yes." if right else "No."
