"""Questions about one picture: what, which colour, how many, where, which of them."""

from collections.abc import Callable
from random import Random

from tools.box.dialogues import Dialogue, Picture, Tasks, Turn
from tools.box.outlines import SHAPES
from tools.box.palette import COLOURS
from tools.box.placing import Wanted, nothing, random_scene, random_wanted
from tools.box.scenes import NUMBER, Scene, Thing
from tools.box.wordings import article, ask, called, listing, plural, sentence

TASKS = Tasks()

NOTHING = "I see nothing that I know, no shapes and no numbers."
# A question and its answer, or None if the picture allows no such question.
Asked = tuple[str, str] | None
Asker = Callable[[Scene, Random], Asked]
ABOUT_SHAPES: dict[str, Asker] = {}
ABOUT_NUMBERS: dict[str, Asker] = {}
_WEIGHTS: dict[str, float] = {}


def about_shapes(weight: float) -> Callable[[Asker], Asker]:
    """Register a question about things."""

    def register(function: Asker) -> Asker:
        ABOUT_SHAPES[function.__name__], _WEIGHTS[function.__name__] = function, weight
        return function

    return register


def about_numbers(weight: float) -> Callable[[Asker], Asker]:
    """Register a question about numbers."""

    def register(function: Asker) -> Asker:
        ABOUT_NUMBERS[function.__name__], _WEIGHTS[function.__name__] = function, weight
        return function

    return register


def label(thing: Thing) -> str:
    """'a red circle', 'the number 42'."""
    return f"the number {thing.digits}" if thing.kind == NUMBER else article(thing.name)


def told(scene: Scene) -> str:
    """Everything in a picture; also what a short reasoning writes down."""
    return sentence(listing([label(thing) for thing in scene.things])) if scene.things else NOTHING


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


def _pick(named: dict[str, Thing], rng: Random) -> tuple[str, Thing]:
    name = rng.choice(list(named))
    return name, named[name]


def _absent(scene: Scene, rng: Random) -> str | None:
    """A kind that the picture does not show."""
    return rng.choice([kind for kind in SHAPES if kind not in {thing.kind for thing in scene.things}])


def which(thing: Thing) -> str:
    """As an answer picks one of several: 'the red circle'."""
    return f"the number {thing.digits}" if thing.kind == NUMBER else f"the {thing.name}"


@about_shapes(4.0)
def describe(scene: Scene, rng: Random) -> Asked:
    forms = [
        "what is [this|that|it]", "what's [this|that|it]", "what {see}", "what {see} [here|in this {pic}|in the {pic}]",
        "describe [the|this] {pic}.", "[please |]describe what you see.", "what is in [the|this] {pic}",
        "what's in [the|this] {pic}", "what does [the|this] {pic} show", "what is shown [here|in the {pic}]",
        "what [things|objects|shapes] {see}", "what [things|objects|shapes] are [there|here|in the {pic}|shown]",
        "tell me what you see.", "what is on the {pic}", "what is [here|there]", "what are these",
        "list [everything|the things|all objects|the shapes] [in the {pic}|you see|].", "what did i draw",
        "what can be seen [here|in the {pic}|]", "describe [it|this].", "caption this [{pic}|].",
        "name [the things|what you see|all the shapes].", "give me a description[ of the {pic}|].",
        "what [object|shape|thing] is [this|shown|in the {pic}]", "identify [this|the {thing}|what is shown].",
        "can you describe [this|the {pic}]", "do you know what this is", "what have i drawn [here|]",
        "tell me about [this|the] {pic}.", "what am i looking at", "{pic}.", "which [shapes|objects] {see}",
    ]  # fmt: skip
    if rng.random() < 0.4:
        forms = forms[:12]
    return ask(rng.choice(forms), rng), told(scene)


@about_shapes(3.0)
def colour(scene: Scene, rng: Random) -> Asked:
    if len(scene.things) == 1 and rng.random() < 0.5:
        form = rng.choice([
            "what {color} is [it|this|that|the {thing}]", "which {color} [is it|is this|does it have]", "what {color}",
            "what is [its|the] {color}", "what's [its|the] {color}", "name the {color}.", "the {color}",
            "what {color} {see}", "which {color} {see}", "what is the {color} of [this|the {thing}|it]",
            "[what|which] {color} is the [thing|object|shape] in the {pic}",
        ])  # fmt: skip
        thing = scene.things[0]
        return ask(form, rng), sentence(f"the {thing.kind} is {thing.colour}")
    things = scene.unique("kind")
    form = rng.choice([
        "what {color} is the {0}", "what {color} is the {0}", "which {color} [is|does] the {0}[| have]",
        "what is the {color} of the {0}", "what's the {color} of the {0}", "what's the {0}'s {color}",
        "the {0} is what {color}", "tell me the {color} of the {0}.", "what {color} does the {0} have",
        "[what|which] {color} is the {0} [in the {pic}|here|]", "what {color} has the {0}",
        "name the {color} of the {0}.", "in what {color} is the {0} [drawn|painted|shown]",
    ])  # fmt: skip
    form = form.replace("[is|does] the {0}[| have]", rng.choice(["is the {0}", "does the {0} have"]))
    if not things or rng.random() < 0.05:
        kind = _absent(scene, rng)
        return _ask(form, rng, called(str(kind), rng)), f"I see no {kind}."
    thing = rng.choice(things)
    return _ask(form, rng, called(thing.kind, rng)), sentence(f"the {thing.kind} is {thing.colour}")


def _ask(form: str, rng: Random, *names: str) -> str:
    """Names in place of {0} and {1}."""
    for number, name in enumerate(names):
        form = form.replace(f"{{{number}}}", name)
    return ask(form, rng)


@about_shapes(2.5)
def shape(scene: Scene, rng: Random) -> Asked:
    if len(scene.things) == 1 and rng.random() < 0.5:
        form = rng.choice([
            "what shape is [it|this|that]", "which shape [is it|is this|{see}]", "what shape {see}", "name the shape.",
            "what [kind|sort|type] of shape is [this|it|shown]", "what shape is [shown|drawn|here|in the {pic}]",
            "what is the shape", "what's the shape", "[identify|name] [this|the] [shape|object].", "what is it called",
            "which [shape|object] is [this|shown|in the {pic}]", "what shape is the [thing|object|drawing]",
        ])  # fmt: skip
        return ask(form, rng), sentence(label(scene.things[0]))
    things = scene.unique("colour")
    if not things:
        return None
    thing = rng.choice(things)
    name = called(thing.colour, rng)
    if rng.random() < 0.5:
        form = rng.choice([
            "which [{thing}|shape|object] is {0}", "what [shape|object|thing] is {0}", "which of them is {0}",
            "which is the {0} one", "which one is {0}", "what's {0}", "what is {0}",
        ])  # fmt: skip
        return _ask(form, rng, name), sentence(which(thing))
    form = rng.choice([
        "what is the {0} [thing|shape|object|one]", "what's the {0} [thing|shape|object|one]",
        "what shape is the {0} [thing|object|one]", "what [kind|sort] of [shape|thing] is the {0} [thing|one]",
        "which shape does the {0} [thing|object|one] have", "describe the {0} [thing|shape|object|one].",
        "identify the {0} [thing|shape|object].", "the {0} [thing|one] is what shape",
    ])  # fmt: skip
    return _ask(form, rng, name), sentence(label(thing))


@about_shapes(4.0)
def how_many(scene: Scene, rng: Random) -> Asked:
    key = rng.choice(["thing", "thing", "kind", "colour", "both"])
    ending = rng.choice(["{see}", "are there", "are there", "are there [in the {pic}|in total|here]", "", "are shown",
                         "does the {pic} [show|have|contain]", "are in [the|this] {pic}", "are here"])  # fmt: skip
    forms = [f"how many {{0}} {ending}", f"how many {{0}} {ending}", "count the {0}[| for me].", "number of {0}",
             "what is the number of {0}", "how many {0} can you [count|find|spot]", "{0} count",
             "tell me how many {0} [there are|you see]."]  # fmt: skip
    if key == "thing":
        forms += ["how many", "how many are there", "count them.", "how many do you see", "how many {0}"]
        return _ask(rng.choice(forms), rng, "{things}"), f"{len(scene.things)}."
    seen = [(thing.kind, thing.colour) for thing in scene.things]
    other = (rng.choice(SHAPES), rng.choice(COLOURS))
    kind, name = rng.choice(seen) if seen and rng.random() < 0.75 else other
    right = [(key == "colour" or one == kind) and (key == "kind" or hue == name) for one, hue in seen]
    what = "{things}" if key == "colour" else plural(called(kind, rng))
    what = what if key == "kind" else f"{called(name, rng)} {what}"
    return _ask(rng.choice(forms), rng, what), f"{sum(right)}."


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
        kind = _absent(scene, rng)
        return _ask(form, rng, called(str(kind), rng)), f"I see no {kind}."
    if len(scene.things) == 1:
        named |= {"[thing|shape|object]": scene.things[0]}
    if not named:
        return None
    name, thing = _pick(named, rng)
    place = place_name(scene, thing)
    return (_ask(form, rng, name), sentence(place)) if place else None


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
        where = [f"at the {side}", f"at the {side}", f"on the {side}", f"on {side}" if side == "top" else "at the bottom",
                 f"at the {side} of the {{pic}}", above, f"in the {side} [part|half]"]  # fmt: skip
    form = rng.choice([
        "what is {0}", "what's {0}", "what {see} {0}", "which [{thing}|shape|object] is {0}", "what [thing|shape] is {0}",
        "what is shown {0}", "{0} is what", f"what is the {most} [thing|shape|object]", "describe [what is|the {thing}] {0}.",
        "name the {thing} {0}.", "what is the [thing|shape|object] {0}",
    ])  # fmt: skip
    return _ask(form, rng, rng.choice(where)), sentence(label(thing))


@about_shapes(1.5)
def colour_at(scene: Scene, rng: Random) -> Asked:
    side = rng.choice(["left", "right", "top", "bottom"])
    thing = scene.extreme(side)
    if thing is None:
        return None
    at = rng.choice(["on", "at"]) if side in ("left", "right") else "at"
    form = rng.choice([
        f"what {{color}} is the {{thing}} {at} the {side}", f"which {{color}} [has|is] the {{thing}} {at} the {side}",
        f"what is the {{color}} of the {{thing}} {at} the {side}", f"what {{color}} is the {side} {{thing}}",
    ])  # fmt: skip
    return ask(form, rng), sentence(f"the {thing.kind} is {thing.colour}")


_RELATIONS = {
    "left": ("left of", "to the left of", "on the left of", "on the left side of"),
    "right": ("right of", "to the right of", "on the right of", "on the right side of"),
    "above": ("above", "over", "higher than", "on top of"),
    "below": ("below", "under", "beneath", "lower than", "underneath"),
}


def _related(scene: Scene, one: Thing, other: Thing) -> dict[str, bool]:
    """What is so and what is not, beyond doubt."""
    apart = 0.12 * min(scene.width, scene.height)
    found = {}
    for low, high, first, second in (("left", "right", one.x, other.x), ("above", "below", one.y, other.y)):
        if abs(first - second) > apart:
            found[low], found[high] = first < second, first > second
    return found


def _two(scene: Scene, rng: Random) -> tuple[str, Thing, str, Thing] | None:
    """Two things and what they may be called."""
    named = list(references(scene, rng).items())
    if len(scene.things) < 2 or not named:
        return None
    one, first = rng.choice(named)
    rest = [(name, thing) for name, thing in named if thing is not first]
    return (one, first, *rng.choice(rest)) if rest else None


@about_shapes(4.0)
def is_beside(scene: Scene, rng: Random) -> Asked:
    two = _two(scene, rng)
    if two is None:
        return None
    one, first, other, second = two
    related = _related(scene, first, second)
    if not related:
        return None
    way = rng.choice(list(related))
    form = rng.choice(["is the {0} {way} the {1}", "is the {0} {way} the {1}", "the {0} is {way} the {1}, right",
                       "is it true that the {0} is {way} the {1}", "{see} the {0} {way} the {1}"])  # fmt: skip
    form = form.replace("{see}", "do you see").replace("{way}", rng.choice(_RELATIONS[way]))
    return _ask(form, rng, one, other), "Yes." if related[way] else "No."


@about_shapes(3.0)
def which_way(scene: Scene, rng: Random) -> Asked:
    two = _two(scene, rng)
    if two is None:
        return None
    one, first, other, second = two
    related = _related(scene, first, second)
    axes = [pair for pair in (("left", "right"), ("above", "below")) if pair[0] in related]
    if not axes:
        return None
    axis = rng.choice(axes)
    low, high = axis if rng.random() < 0.5 else axis[::-1]
    of = " of" if axis[0] == "left" else ""
    form = rng.choice([f"is the {{0}} {low} or {high}{of} the {{1}}", f"is the {{0}} {low}{of} or {high}{of} the {{1}}"])
    if of:
        form = rng.choice([form, f"is the {{0}} to the {low} or to the {high} of the {{1}}",
                           f"is the {{0}} on the {low} or the {high} of the {{1}}"])  # fmt: skip
    return _ask(form, rng, one, other), sentence(next(way for way in axis if related[way]))


@about_shapes(2.0)
def what_beside(scene: Scene, rng: Random) -> Asked:
    named = references(scene, rng)
    if len(scene.things) < 2 or not named:
        return None
    name, thing = _pick(named, rng)
    others = [other for other in scene.things if other is not thing]
    if len(others) == 1 and rng.random() < 0.25:
        form = rng.choice(["what is [next to|beside|near|besides] the {0}", "what else {see}[| besides the {0}]",
                           "what is there [apart from|other than] the {0}", "what is the other {thing}"])  # fmt: skip
        return (_ask(form, rng, name), sentence(label(others[0]))) if "{0}" in form else None
    way = rng.choice(list(_RELATIONS))
    back = {"left": "right", "right": "left", "above": "below", "below": "above"}[way]
    related = [_related(scene, thing, other).get(back) for other in others]
    if None in related or sum(map(bool, related)) != 1:
        return None
    form = rng.choice(["what is {way} the {0}", "what's {way} the {0}", "which {thing} is {way} the {0}",
                       "what [thing|shape] is {way} the {0}", "what do you see {way} the {0}"])  # fmt: skip
    form = form.replace("{way}", rng.choice(_RELATIONS[way]))
    return _ask(form, rng, name), sentence(label(others[related.index(True)]))


@about_shapes(4.0)
def exists(scene: Scene, rng: Random) -> Asked:
    key = rng.choice(["kind", "kind", "colour", "both", "both"])
    seen = [(thing.kind, thing.colour) for thing in scene.things]
    kind, name = rng.choice(SHAPES), rng.choice(COLOURS)
    if seen and rng.random() < 0.5:
        kind, name = rng.choice(seen)
    elif seen and key == "both":
        # Half right is wrong.
        kind, name = rng.choice([(rng.choice(seen)[0], name), (kind, rng.choice(seen)[1])])
    right = any((key == "colour" or one == kind) and (key == "kind" or hue == name) for one, hue in seen)
    what = called(kind, rng) if key == "kind" else f"{called(name, rng)} "
    what = what if key == "kind" else what + (rng.choice(["thing", "shape", "object"]) if key == "colour" else kind)
    forms = ["is there {0}[| in the {pic}| here]", "is there {0}", "do you see {0}[| here| anywhere]", "can you see {0}",
             "does the {pic} [show|contain|have] {0}", "is {0} in the {pic}", "is {0} [shown|visible|there]",
             "can you find {0}", "do i see {0}"]  # fmt: skip
    if len(scene.things) == 1:
        forms += ["is [this|it|that] {0}", "is [this|it|that] {0}", "did i draw {0}", "does this look like {0}"]
    if key == "colour" and rng.random() < 0.3:
        forms, what = ["is [anything|something] {0}", "is there [anything|something] {0}"], called(name, rng)
        return _ask(rng.choice(forms), rng, what), "Yes." if right else "No."
    return _ask(rng.choice(forms), rng, article(what)), "Yes." if right else "No."


@about_shapes(2.0)
def is_colour(scene: Scene, rng: Random) -> Asked:
    things = scene.unique("kind")
    if not things:
        return None
    thing = rng.choice(things)
    right = rng.random() < 0.5
    hue = thing.colour if right else rng.choice([name for name in COLOURS if name != thing.colour])
    other = rng.choice([name for name in COLOURS if name != hue])
    if rng.random() < 0.3:
        pair = [thing.colour, other if other != thing.colour else hue]
        if pair[0] == pair[1]:
            return None
        rng.shuffle(pair)
        form = "is the {0} " + " or ".join(called(name, rng) for name in pair)
        return _ask(form, rng, called(thing.kind, rng)), sentence(f"the {thing.kind} is {thing.colour}")
    form = rng.choice(["is the {0} {1}", "is the {0} {1}", "is the {color} of the {0} {1}", "the {0} is {1}, right"])
    return _ask(form, rng, called(thing.kind, rng), called(hue, rng)), "Yes." if right else "No."


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
                       "which of them is {0}", "what is {0}", "which is the {0} [one|thing|shape]"])  # fmt: skip
    if word in words[2:]:
        form = form.replace("is {0}", "is the {0}").replace("what is the {0}", "what is the {0} [thing|shape]")
        form = form.replace("[thing|shape] [thing|shape|object]", "[thing|shape|object]")
    elif len(things) == 2 and rng.random() < 0.4:
        names = {thing.kind: thing for thing in scene.unique("kind")}
        if len(names) == 2:
            pair = rng.sample([called(kind, rng) for kind in names], 2)
            form = rng.choice(["which is {0}, the {a} or the {b}", "is the {a} or the {b} {0}", "what is {0}: {a} or {b}"])
            form = form.replace("{a}", pair[0]).replace("{b}", pair[1])
    return _ask(form, rng, word), sentence(which(first))


@about_shapes(1.5)
def is_larger(scene: Scene, rng: Random) -> Asked:
    two = _two(scene, rng)
    if two is None or "line" in (two[1].kind, two[3].kind):
        return None
    one, first, other, second = two
    if max(first.size, second.size) < 1.45 * min(first.size, second.size):
        return None
    word = rng.choice(["bigger", "larger", "smaller"])
    right = (first.size > second.size) == (word != "smaller")
    return _ask("is the {0} " + word + " than the {1}", rng, one, other), "Yes." if right else "No."


@about_shapes(0.8)
def background(scene: Scene, rng: Random) -> Asked:
    if not scene.ground.name:
        return None
    form = rng.choice(["what {color} is the background", "what is the background {color}", "which {color} is the ground",
                       "what {color} is behind the [things|shapes]", "what is the {color} of the background",
                       "what's the background"])  # fmt: skip
    return ask(form, rng), sentence(f"the background is {scene.ground.name}")


@about_shapes(0.8)
def filled(scene: Scene, rng: Random) -> Asked:
    named = {name: thing for name, thing in references(scene, rng).items() if thing.kind not in ("line", NUMBER)}
    if not named:
        return None
    name, thing = _pick(named, rng)
    if rng.random() < 0.5:
        form = rng.choice(["is the {0} filled or [just |]an outline", "is the {0} an outline or filled",
                           "is the {0} filled or [empty|hollow|outlined]"])  # fmt: skip
        return _ask(form, rng, name), "Filled." if thing.filled else "An outline."
    word = rng.choice(["filled", "solid", "outlined", "hollow", "only an outline"])
    right = thing.filled == (word in ("filled", "solid"))
    return _ask(f"is the {{0}} {word}", rng, name), "Yes." if right else "No."


@about_shapes(1.2)
def pointing(scene: Scene, rng: Random) -> Asked:
    arrows = [thing for thing in scene.things if thing.kind == "arrow"]
    if len(arrows) != 1:
        return None
    form = rng.choice(["[which way|where|in which direction|what direction] [does the arrow point|is the arrow pointing]",
                       "what is the direction of the arrow", "where does the [|{0} ]arrow point"])  # fmt: skip
    return _ask(form, rng, called(arrows[0].colour, rng)), sentence(arrows[0].direction)


@about_shapes(1.2)
def distinct(scene: Scene, rng: Random) -> Asked:
    if not scene.things:
        return None
    if rng.random() < 0.6:
        form = rng.choice(["[what|which] {color}s {see}", "[what|which] {color}s are [there|in the {pic}|used]",
                           "name the {color}s.", "list [all|the] {color}s."])  # fmt: skip
        return ask(form, rng), sentence(listing(list(dict.fromkeys(thing.colour for thing in scene.things))))
    if len(scene.things) != 2 or any(thing.kind == NUMBER for thing in scene.things):
        return None
    one, other = scene.things
    if rng.random() < 0.5:
        form = rng.choice(["are they the same {color}", "do they have the same {color}", "are both the same {color}",
                           "is the {color} of both the same"])  # fmt: skip
        return ask(form, rng), "Yes." if one.colour == other.colour else "No."
    form = rng.choice(["are they the same shape", "do they have the same shape", "are both the same shape"])
    return ask(form, rng), "Yes." if one.kind == other.kind else "No."


@about_numbers(6.0)
def read(scene: Scene, rng: Random) -> Asked:
    if any(thing.kind != NUMBER for thing in scene.things) and [t.kind for t in scene.things].count(NUMBER) != 1:
        return None
    numbers = [thing.digits for thing in scene.things if thing.kind == NUMBER]
    if not numbers:
        return None
    if len(numbers) == 1:
        digit = "digit" if len(numbers[0]) == 1 and rng.random() < 0.5 else "number"
        form = rng.choice([
            "[what|which] {0} is [this|that|it|shown]", "[what|which] {0} is this", "[what|which] {0} {see}",
            "[what|which] {0} is [in|on] the {pic}", "read the {0}.", "what does [it|this|the {pic}] say",
            "what is the {0}", "what's the {0}", "can you read [this|the {0}|it]", "read this.", "what is written [here|]",
            "what {0} [is written|did i write|have i drawn|is drawn]", "tell me the {0}.", "which {0}",
            "what number does the {pic} show", "what does it read", "what {0} is [printed|displayed]", "read it[| out].",
            "recognize the {0}.", "type [out |]the {0}[| in the {pic}].", "transcribe [this|the {pic}].", "{0}",
        ])  # fmt: skip
        return _ask(form, rng, digit), f"{numbers[0]}."
    form = rng.choice(["read the numbers.", "[what|which] numbers {see}", "[what|which] numbers are [there|in the {pic}]",
                       "what does it say", "list the numbers.", "what numbers are these"])  # fmt: skip
    return ask(form, rng), f"{', '.join(numbers)}."


@about_numbers(1.0)
def is_number(scene: Scene, rng: Random) -> Asked:
    if len(scene.things) != 1:
        return None
    digits = scene.things[0].digits
    number = digits
    if rng.random() < 0.5:
        at = rng.randrange(len(digits))
        number = digits[:at] + str((int(digits[at]) + rng.randrange(1, 10)) % 10) + digits[at + 1 :]
    form = rng.choice(["is [this|it|that] [a|the number] {0}", "is the number {0}", "does it say {0}", "is it {0}"])
    return _ask(form, rng, number), "Yes." if number == digits else "No."


@about_numbers(0.8)
def how_many_digits(scene: Scene, rng: Random) -> Asked:
    if len(scene.things) != 1:
        return None
    form = rng.choice(["how many digits does [it|the number] have", "how many digits are there", "how many digits {see}",
                       "how many digits has the number", "how many digits"])  # fmt: skip
    return ask(form, rng), f"{len(scene.things[0].digits)}."


@about_numbers(1.0)
def number_of_colour(scene: Scene, rng: Random) -> Asked:
    things = [thing for thing in scene.unique("colour") if thing.kind == NUMBER]
    if not things:
        return None
    thing = rng.choice(things)
    form = rng.choice(["[which|what] number is {0}", "what is the {0} number", "read the {0} number."])
    return _ask(form, rng, called(thing.colour, rng)), f"{thing.digits}."


for _name in ("describe", "colour", "where", "which_side", "background"):
    ABOUT_NUMBERS[_name] = ABOUT_SHAPES[_name]
ONE_PICTURE = ABOUT_SHAPES | ABOUT_NUMBERS


def _want_shapes(rng: Random) -> list[Wanted]:
    count = rng.choices([1, 2, 3, 4, 5, 6], [30, 28, 18, 11, 7, 6])[0]
    return random_wanted(count, rng, numbers=0.3 if count > 1 and rng.random() < 0.15 else 0.0)


def want_numbers(rng: Random) -> list[Wanted]:
    """One number, or a few."""
    count = rng.choices([1, 2, 3], [85, 10, 5])[0]
    return [(NUMBER, rng.choice(COLOURS) if rng.random() < 0.55 else rng.choice(["black", "white"]), "")
            for _ in range(count)]  # fmt: skip


def any_scene(rng: Random) -> Scene:
    """A picture of shapes, of numbers, or of nothing."""
    chance = rng.random()
    if chance < 0.03:
        return nothing(rng)
    return random_scene(rng, want_numbers if chance < 0.38 else _want_shapes)


def scene_for(task: str, rng: Random) -> Scene:
    """A picture that a task may be asked about."""
    if task in ABOUT_NUMBERS and (task not in ABOUT_SHAPES or rng.random() < 0.2):
        return random_scene(rng, want_numbers)
    if task in ("describe", "how_many", "exists", "background") and rng.random() < 0.06:
        return nothing(rng)
    if task == "pointing":
        return random_scene(rng, lambda chance: [("arrow", chance.choice(COLOURS), ""), *_want_shapes(chance)][:3])
    return random_scene(rng, _want_shapes)


def single(task: str, rng: Random) -> Dialogue:
    """One picture and one question."""
    while True:
        scene = scene_for(task, rng)
        asked = ONE_PICTURE[task](scene, rng)
        if asked is not None:
            return Dialogue((Turn(task, *asked, told(scene), (Picture(scene),), rng.random() < 0.1),))


@TASKS.add("one picture", 1.0)
def one_picture(rng: Random) -> Dialogue:
    """One picture and one to eight questions about it."""
    numbers = rng.random() < 0.27
    askers = ABOUT_NUMBERS if numbers else ABOUT_SHAPES
    if numbers:
        scene = random_scene(rng, want_numbers)
    else:
        scene = nothing(rng) if rng.random() < 0.04 else random_scene(rng, _want_shapes)
    if not scene.things:
        askers = {name: askers[name] for name in ("describe", "how_many", "exists", "background")}
    names = list(askers)
    weights = [_WEIGHTS[name] for name in names]
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
