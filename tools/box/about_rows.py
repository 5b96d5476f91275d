"""Questions about one picture: what is where in a row, and whether a shape and a colour belong together."""

from itertools import pairwise
from random import Random

from tools.box.about_places import place_name
from tools.box.asking import Asked, about_shapes, ask_about, label
from tools.box.scenes import NUMBER, Scene, Thing
from tools.box.wordings import article, ask, called, listing, plural, sentence

_ALONG = {"left to right": ("x", 1), "right to left": ("x", -1), "top to bottom": ("y", 1), "bottom to top": ("y", -1)}


def in_line(scene: Scene, way: str) -> list[Thing] | None:
    """All things in this order, if it is beyond doubt."""
    axis, sign = _ALONG[way]
    places = sorted(scene.things, key=lambda thing: sign * float(getattr(thing, axis)))
    apart = 0.1 * min(scene.width, scene.height)
    clear = all(abs(getattr(one, axis) - getattr(other, axis)) > apart for one, other in pairwise(places))
    return places if clear else None


def row_of_three(scene: Scene) -> list[Thing] | None:
    """Three things beside or above each other."""
    if len(scene.things) != 3:
        return None
    for way, across in (("left to right", "y"), ("top to bottom", "x")):
        row = in_line(scene, way)
        offset = [float(getattr(thing, across)) for thing in scene.things]
        if row and max(offset) - min(offset) < 0.2 * min(scene.width, scene.height):
            axis = _ALONG[way][0]
            steps = [getattr(row[number + 1], axis) - getattr(row[number], axis) for number in (0, 1)]
            return row if min(steps) > max(offset) - min(offset) else None
    return None


@about_shapes(1.0)
def middle_of_row(scene: Scene, rng: Random) -> Asked:
    """Which of three is between the other two."""
    row = row_of_three(scene)
    # Where one at the end is in the middle of the picture, nobody knows which of the two is meant.
    if row is None or "in the middle" in (place_name(scene, row[0]), place_name(scene, row[2])):
        return None
    thing = row[1]
    middle = "[in the middle|in the middle|in the [center|centre]|in between|between the [other two|others]]"
    if thing.kind != NUMBER and rng.random() < 0.25:
        form = rng.choice(["what {color} is the middle [one|{thing}]", "what {color} is the one in the middle",
                           "the middle one is what {color}", "which {color} does the middle one have",
                           "[what's|what is] the {color} of the [middle one|one in the middle]"])  # fmt: skip
        return ask(form, rng), sentence(f"the {thing.kind} is {thing.colour}")
    form = rng.choice(["what is {0}", "what's {0}", "which [one|{thing}|of them|of the three] is {0}", "and {0}",
                       "what [shape|thing] is {0}", "[what's|what is] the middle one", "the one {0}",
                       "what is the [one|{thing}] {0}", "name the [one|{thing}] {0}.", "what do you see {0}",
                       "what is in the middle of the [row|line|three]", "which is the middle [one|{thing}]",
                       "what {see} {0}", "tell me what is {0}."])  # fmt: skip
    return ask_about(form, rng, middle), sentence(label(thing))


@about_shapes(1.2)
def in_order(scene: Scene, rng: Random) -> Asked:
    """Everything, or every colour, from one side to the other."""
    way = rng.choice([*["left to right"] * 3, *["top to bottom"] * 3, "right to left", "bottom to top"])
    row = in_line(scene, way)
    if row is None or not 2 <= len(row) <= 5:
        return None
    if rng.random() < 0.25:
        form = rng.choice(["[list|name|give me] [the|all] {color}s from {0}.", "what are the {color}s from {0}",
                           "[what|which] {color}s {see} from {0}", "{color}s from {0}",
                           "from {0}, [what are the|which] {color}s"])  # fmt: skip
        return ask_about(form, rng, way), sentence(listing([thing.colour for thing in row]))
    them = "[them|them all|all {things}|the {things}|everything|what you see|all of them]"
    form = rng.choice([f"list {them} from {{0}}.", f"name {them} from {{0}}.", "what {see} from {0}",
                       "what is there[,|] from {0}", "what are the {things} from {0}", "from {0}, what {see}",
                       f"describe {them} from {{0}}.", f"[can|could] you [list|name] {them} from {{0}}",
                       "what's in the {pic}, from {0}", "going from {0}, what [is there|{see}]",
                       f"from {{0}}: list {them}.", "which {things} are there[,|] from {0}",
                       "[what's the order|in which order are they] from {0}", f"read {them} out from {{0}}.",
                       "{0}: what [is there|{see}]"])  # fmt: skip
    return ask_about(form, rng, way), sentence(listing([label(thing) for thing in row]))


@about_shapes(2.0)
def together(scene: Scene, rng: Random) -> Asked:
    """Whether a thing of this shape has this colour where both are there, of one thing or of two: as often as not."""
    pairs = {(thing.kind, thing.colour) for thing in scene.things if thing.kind != NUMBER}
    crossed = {(kind, thing.colour) for kind, _ in pairs for thing in scene.things} - pairs
    if not crossed:
        return None
    right = rng.random() < 0.5
    kind, colour = rng.choice(sorted(pairs if right else crossed))
    name, hue = called(kind, rng), called(colour, rng)
    # An oval may pass for a round shape.
    name = kind if name == "round shape" else name
    one, many = article(f"{hue} {name}"), f"{hue} {plural(name)}"
    form = rng.choice(["do you see {0}[| here| anywhere]", "is there {0}[| in the {pic}| or not]", "can you see {0}",
                       "does the {pic} [show|have|contain] {0}", "do you see {0}", "is there {0}", "see {0}", "{0}",
                       "can you [find|spot] {0}", "is one of the {things} {0}", "is there {2} that is {3}",
                       "is any {4} {3}", "are there any {1}", "any {1}", "is {0} [there|among them|one of them]",
                       "do you see {2} that is {3}", "there is {0}, right", "did i draw {0}"])  # fmt: skip
    return ask_about(form, rng, one, many, article(name), hue, name), "Yes." if right else "No."
