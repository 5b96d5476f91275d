"""Questions about one picture: what it shows, which colour things have, how many there are, whether one is there."""

from random import Random

from tools.box.asking import Asked, about_shapes, absent, ask_about, counted, label, pick, references, told, which
from tools.box.outlines import DIRECTIONS, SHAPES
from tools.box.palette import COLOURS
from tools.box.scenes import NUMBER, Scene
from tools.box.wordings import article, ask, called, listing, plural, sentence


@about_shapes(4.0)
def describe(scene: Scene, rng: Random) -> Asked:
    forms = [
        "what is [this|that|it]",
        "what's [this|that|it]",
        "what {see}",
        "what {see} [here|in this {pic}|in the {pic}]",
        "describe [the|this] {pic}.",
        "[please |]describe what you see.",
        "what is in [the|this] {pic}",
        "what's in [the|this] {pic}",
        "what does [the|this] {pic} show",
        "what is shown [here|in the {pic}]",
        "what [things|objects|shapes] {see}",
        "what [things|objects|shapes] are [there|here|in the {pic}|shown]",
        "tell me what you see.",
        "what is on the {pic}",
        "what is [here|there]",
        "what are these",
        "list [everything|the things|all objects|the shapes] [in the {pic}|you see|].",
        "what did i draw",
        "what can be seen [here|in the {pic}|]",
        "describe [it|this].",
        "caption this [{pic}|].",
        "name [the things|what you see|all the shapes].",
        "give me a description[ of the {pic}|].",
        "what [object|shape|thing] is [this|shown|in the {pic}]",
        "identify [this|the {thing}|what is shown].",
        "can you describe [this|the {pic}]",
        "do you know what this is",
        "what have i drawn [here|]",
        "tell me about [this|the] {pic}.",
        "what am i looking at",
        "{pic}.",
        "which [shapes|objects] {see}",
    ]
    if rng.random() < 0.4:
        forms = forms[:12]
    return ask(rng.choice(forms), rng), told(scene)


@about_shapes(3.0)
def colour(scene: Scene, rng: Random) -> Asked:
    if len(scene.things) == 1 and rng.random() < 0.5:
        form = rng.choice([
            "what {color} is [it|this|that|the {thing}]", "which {color} [is it|is this|does it have]", "what {color}",
            "what is [its|the] {color}", "what's [its|the] {color}", "name the {color}.", "the {color}", "{color}",
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
        kind = absent(scene, rng)
        return ask_about(form, rng, called(str(kind), rng)), f"I see no {kind}."
    thing = rng.choice(things)
    return ask_about(form, rng, called(thing.kind, rng)), sentence(f"the {thing.kind} is {thing.colour}")


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
        return ask_about(form, rng, name), sentence(which(thing))
    form = rng.choice([
        "what is the {0} [thing|shape|object|one]", "what's the {0} [thing|shape|object|one]",
        "what shape is the {0} [thing|object|one]", "what [kind|sort] of [shape|thing] is the {0} [thing|one]",
        "which shape does the {0} [thing|object|one] have", "describe the {0} [thing|shape|object|one].",
        "identify the {0} [thing|shape|object].", "the {0} [thing|one] is what shape",
    ])  # fmt: skip
    return ask_about(form, rng, name), sentence(label(thing))


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
        return ask_about(rng.choice(forms), rng, "{things}"), f"{len(scene.things)}."
    seen = [(thing.kind, thing.colour) for thing in scene.things]
    other = (rng.choice(SHAPES), rng.choice(COLOURS))
    kind, name = rng.choice(seen) if seen and rng.random() < 0.75 else other
    meant = [thing for thing in scene.things
             if (key == "colour" or thing.kind == kind) and (key == "kind" or thing.colour == name)]  # fmt: skip
    what = "{things}" if key == "colour" else plural(called(kind, rng))
    what = what if key == "kind" else f"{called(name, rng)} {what}"
    return ask_about(rng.choice(forms), rng, what), counted(meant)


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
    forms = [
        "is there {0}[| in the {pic}| here]",
        "is there {0}",
        "do you see {0}[| here| anywhere]",
        "can you see {0}",
        "does the {pic} [show|contain|have] {0}",
        "is {0} in the {pic}",
        "is {0} [shown|visible|there]",
        "can you find {0}",
        "do i see {0}",
    ]
    if len(scene.things) == 1:
        forms += ["is [this|it|that] {0}", "is [this|it|that] {0}", "did i draw {0}", "does this look like {0}"]
    if key != "colour" and rng.random() < 0.15:
        what = plural(called(kind, rng)) if key == "kind" else f"{called(name, rng)} {plural(kind)}"
        return ask_about(
            rng.choice(["are there [any |]{0}", "do you see any {0}"]), rng, what
        ), "Yes." if right else "No."
    if key == "colour" and rng.random() < 0.3:
        forms, what = ["is [anything|something] {0}", "is there [anything|something] {0}"], called(name, rng)
        return ask_about(rng.choice(forms), rng, what), "Yes." if right else "No."
    return ask_about(rng.choice(forms), rng, article(what)), "Yes." if right else "No."


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
        return ask_about(form, rng, called(thing.kind, rng)), sentence(f"the {thing.kind} is {thing.colour}")
    form = rng.choice(["is the {0} {1}", "is the {0} {1}", "is the {color} of the {0} {1}", "the {0} is {1}, right"])
    return ask_about(form, rng, called(thing.kind, rng), called(hue, rng)), "Yes." if right else "No."


@about_shapes(0.8)
def background(scene: Scene, rng: Random) -> Asked:
    if not scene.ground.name:
        return None
    if rng.random() < 0.25:
        name = scene.ground.name if rng.random() < 0.5 else rng.choice(COLOURS)
        right = name == scene.ground.name
        return ask_about("is the background {0}", rng, called(name, rng)), "Yes." if right else "No."
    form = rng.choice(
        [
            "what {color} is the background",
            "what is the background {color}",
            "which {color} is the ground",
            "what {color} is behind the [things|shapes]",
            "what is the {color} of the background",
            "what's the background",
        ]
    )
    return ask(form, rng), sentence(f"the background is {scene.ground.name}")


@about_shapes(1.2)
def filled(scene: Scene, rng: Random) -> Asked:
    named = {name: thing for name, thing in references(scene, rng).items() if thing.kind not in ("line", NUMBER)}
    if not named:
        return None
    outlined = {name: thing for name, thing in named.items() if not thing.filled}
    name, thing = pick(outlined if outlined and rng.random() < 0.4 else named, rng)
    it = f"the {name}" if len(scene.things) > 1 or rng.random() < 0.4 else "[it|it|this|the {thing}]"
    if rng.random() < 0.5:
        form = rng.choice(["is {0} filled[ in|] or [just |only |]an outline", "is {0} [just |]an outline or filled",
                           "is {0} filled[ in|] or [empty|hollow|outlined]", "filled[ in|] or [just |]an outline",
                           "is {0} [solid|coloured in|colored in] or [just |]an outline", "outline or filled",
                           "is {0} drawn as an outline or filled[ in|]", "is {0} filled[ in|], or [just |]outlined",
                           "is {0} [hollow|empty] or [solid|filled]", "is {0} an outline[,|] or filled"])  # fmt: skip
        if "{0}" not in form and len(scene.things) > 1:
            form = f"{{0}}: {form}"
        return ask_about(form, rng, it), "Filled." if thing.filled else "An outline."
    word = rng.choice(["filled", "filled in", "solid", "outlined", "hollow", "only an outline", "just an outline"])
    right = thing.filled == (word in ("filled", "filled in", "solid"))
    form = rng.choice(["is {0} {1}", "is {0} {1}", "is {0} {1} or not", "would you say {0} is {1}", "so {0} is {1}"])
    return ask_about(form, rng, it, word), "Yes." if right else "No."


@about_shapes(1.2)
def pointing(scene: Scene, rng: Random) -> Asked:
    arrows = [thing for thing in scene.things if thing.kind == "arrow"]
    if len(arrows) != 1:
        return None
    form = rng.choice(
        [
            "[which way|where|in which direction|what direction] [does the arrow point|is the arrow pointing]",
            "what is the direction of the arrow",
            "where does the [|{0} ]arrow point",
            "where is the [|{0} ]arrow pointing[| to]",
            "what does the arrow point [to|towards]",
            "which [way|direction] is the arrow [going|facing|showing]",
            "what way is the arrow [pointing|facing]",
            "in [which|what] direction does the [|{0} ]arrow [go|point|show]",
            "does the arrow point left, right, up or down",
            "is the arrow pointing up, down, left or right",
            "tell me where the arrow points.",
            "the direction of the arrow",
        ]
    )
    way = arrows[0].direction
    chance = rng.random()
    if chance < 0.12:
        asked = way if rng.random() < 0.5 else rng.choice([other for other in DIRECTIONS if other != way])
        form = rng.choice([f"does the arrow point {asked}", f"is the arrow pointing {asked}"])
        return ask(form, rng), "Yes." if asked == way else "No."
    if chance < 0.22:
        pair = [way, rng.choice([other for other in DIRECTIONS if other != way])]
        rng.shuffle(pair)
        form = rng.choice(["does the arrow point {a} or {b}", "is the arrow pointing {a} or {b}"])
        return ask(form.replace("{a}", pair[0]).replace("{b}", pair[1]), rng), sentence(way)
    return ask_about(form, rng, called(arrows[0].colour, rng)), sentence(arrows[0].direction)


@about_shapes(1.2)
def distinct(scene: Scene, rng: Random) -> Asked:
    if not scene.things:
        return None
    if rng.random() < 0.6:
        form = rng.choice(["[what|which] {color}s {see}", "[what|which] {color}s are [there|in the {pic}|used]",
                           "name the {color}s.", "list [all|the] {color}s.", "[what|which] {color}s do they have",
                           "[what|which] {color}s are the {things}", "what are the {color}s[| of the {things}]",
                           "[what|which] {color}s did i use", "tell me [all|the] {color}s."])  # fmt: skip
        return ask(form, rng), sentence(listing(list(dict.fromkeys(thing.colour for thing in scene.things))))
    if len(scene.things) != 2 or any(thing.kind == NUMBER for thing in scene.things):
        return None
    one, other = scene.things
    if rng.random() < 0.5:
        form = rng.choice(["are they the same {color}", "do they have the same {color}", "are both the same {color}",
                           "is the {color} of both the same"])  # fmt: skip
        return ask(form, rng), "Yes." if one.colour == other.colour else "No."
    form = rng.choice(["are they the same shape", "do they have the same shape", "are both the same shape",
                       "is it the same shape twice"])  # fmt: skip
    return ask(form, rng), "Yes." if one.kind == other.kind else "No."
